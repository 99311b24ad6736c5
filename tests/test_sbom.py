"""The bill of materials: three components, whose hashes the shell finds, too."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from relay.version import VERSION
from tools import build_pyz, make_sbom

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sbom") / "passthrough.pyz"
    build_pyz.build(target)
    return target


def rewritten(archive: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """The archive with other content in some of its files."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name) or old.read(name))
    return target


def by_name(document: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in document["components"]}


def test_the_command_prints_three_components(archive: Path) -> None:
    command = [sys.executable, str(build_pyz.ROOT / "tools" / "make_sbom.py"), str(archive)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    document = json.loads(printed)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert {name: one["version"] for name, one in by_name(document).items()} == {
        "passthrough": VERSION,
        "h11": version("h11"),
        "PyYAML": version("PyYAML"),
    }
    assert {one["licenses"][0]["license"]["id"] for one in document["components"]} == {"MIT"}
    assert document["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(archive.read_bytes()).hexdigest()}
    ]


def test_every_reference_leads_somewhere(archive: Path) -> None:
    document = make_sbom.describe(archive)
    known = {one["bom-ref"] for one in [*document["components"], document["metadata"]["component"]]}
    assert {one["ref"] for one in document["dependencies"]} == known
    assert {ref for one in document["dependencies"] for ref in one["dependsOn"]} <= known
    assert all(one["purl"].endswith(f"@{one['version']}") for one in document["components"] if "purl" in one)


def test_the_same_archive_gives_the_same_document(archive: Path) -> None:
    assert make_sbom.describe(archive) == make_sbom.describe(archive)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
@pytest.mark.parametrize(
    ("name", "paths"),
    [("passthrough", "__main__.py passthrough.py relay router.py"), ("h11", "h11"), ("PyYAML", "yaml")],
)
def test_the_shell_finds_the_same_hash(archive: Path, tmp_path: Path, name: str, paths: str) -> None:
    """As docs/airgap.md tells to."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    line = f"find {paths} -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert by_name(make_sbom.describe(archive))[name]["hashes"][0]["content"] == printed.stdout.split()[0]


def test_one_changed_byte_changes_its_component_alone(archive: Path, tmp_path: Path) -> None:
    changed = rewritten(archive, tmp_path / "changed.pyz", {"h11/_abnf.py": b"# nothing\n"})
    one, other = by_name(make_sbom.describe(archive)), by_name(make_sbom.describe(changed))
    assert {name for name in one if one[name]["hashes"] != other[name]["hashes"]} == {"h11"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("licenses/h11.txt", b"All rights reserved.", "h11 is under another licence than MIT"),
        ("h11/_version.py", b"# none", "says no version"),
    ],
)
def test_what_cannot_be_said_is_not_made_up(
    archive: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_sbom.describe(rewritten(archive, tmp_path / "wrong.pyz", {name: content}))
