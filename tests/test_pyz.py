"""The one file: the same bytes each time, and it runs where there is nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relay.version import VERSION
from tools import build_pyz

CONFIG = 'model_list: [{model_name: gpt-4, litellm_params: {model: openai/gpt-4, api_key: "sk-of-the-upstream"}}]'
SMOKE = str(build_pyz.ROOT / "tools" / "smoke.py")
ALONE = str(Path(__file__).parent / "alone.py")
# -S, too: no site-packages, so that h11 and PyYAML can only come from inside.
BARE = [sys.executable, "-I", "-S"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pyz") / "passthrough.pyz"
    build_pyz.build(target)
    return target


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing in its environment."""
    return subprocess.run(
        command, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False
    )


def in_a_namespace(*command: str) -> list[str]:
    """A command that runs in a network namespace of its own; skips the test where there are none."""
    unshare = shutil.which("unshare")
    for options in (["-n"], ["-rn"]):
        if unshare and subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, *options, *command]
    pytest.skip("no network namespace can be made here")


def test_two_builds_have_equal_bytes(archive: Path, tmp_path: Path) -> None:
    """Whatever the folder, the locale, the time zone and the hash seed."""
    environ = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "HOME": "/"}
    again = tmp_path / "again.pyz"
    command = [sys.executable, str(build_pyz.ROOT / "tools" / "build_pyz.py"), str(again)]
    subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60, check=True)
    assert again.read_bytes() == archive.read_bytes()


def test_it_holds_sources_alone(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    assert {Path(name).suffix for name in names} == {".py", ".txt"}
    assert {name.split("/")[0] for name in names} == {
        "__main__.py",
        "h11",
        "licenses",
        "passthrough.py",
        "relay",
        "router.py",
        "yaml",
    }
    assert names == sorted(names)
    assert not [name for name in names if "test" in name]


def test_it_says_its_version(archive: Path, tmp_path: Path) -> None:
    ran = run(*BARE, str(archive), "--version", folder=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"passthrough {VERSION}\n", "")
    assert run(str(archive), "--version", folder=tmp_path).stdout == ran.stdout, "it is executable, too"


def test_it_checks_a_file(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    ran = run(*BARE, str(archive), "config.yaml", "--check", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "gpt-4" in ran.stdout


def test_its_exit_status_is_that_of_the_product(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_list: []\nserver: {prot: 4000}\n")
    ran = run(*BARE, str(archive), "config.yaml", "--check", folder=tmp_path)
    assert ran.returncode == 2
    assert "config.yaml:2:10: server.prot: unknown key" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_it_serves(archive: Path, tmp_path: Path) -> None:
    ran = run(sys.executable, SMOKE, *BARE, str(archive), folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(tmp_path.iterdir()) == [], "and it leaves nothing behind"


def test_it_talks_to_nobody_but_its_upstream(archive: Path, tmp_path: Path) -> None:
    ran = run(*in_a_namespace(sys.executable, ALONE, str(archive)), folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["exit"], told["status"]) == (0, 200)
    assert told["opened"] == 2, "the client's connection and the upstream's"
    assert (told["seen"], told["strangers"], told["without_route"]) == ([], [], 0)
    # The count is one that tells: the same kind of try, made on purpose, shows.
    assert (told["refused"], told["told_of"]) == (errno.ENETUNREACH, 1)
