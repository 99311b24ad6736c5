"""Say what a ``passthrough.pyz`` is made of: a CycloneDX 1.6 document, from the archive itself.

``python tools/make_sbom.py passthrough.pyz > passthrough.cdx.json``. Three components, each with version, licence and
SHA-256. A component's hash is that of what ``sha256sum`` prints for its files in the order of their names, so it
can be recomputed from an unpacked archive (docs/airgap.md). Equal archives give equal bytes: no time, no random id.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any

SPACE = uuid.UUID("2d1b6e0e-8a53-5b0c-9d3f-6c2f4f0a7f11")  # of our serial numbers (RFC 9562 §5.5)
VERSION = re.compile(r'^(?:VERSION|__version__) = ["\']([^"\']+)["\']', re.MULTILINE)
#              name, where its version stands, what its files begin with, its place in the index
COMPONENTS = (
    ("passthrough", "relay/version.py", ("__main__.py", "passthrough.py", "router.py", "relay/"), None),
    ("h11", "h11/_version.py", ("h11/",), "pkg:pypi/h11@{}"),
    ("PyYAML", "yaml/__init__.py", ("yaml/",), "pkg:pypi/pyyaml@{}"),
)
LICENCE = "MIT"  # of all three; the archive holds each text, and it is looked at


def describe(archive: Path) -> dict[str, Any]:
    """The document. Raises KeyError, ValueError where the archive is not one of ours."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with zipfile.ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in sorted(opened.namelist())}
    components = [component(files, *row) for row in COMPONENTS]
    ours, *others = [one["bom-ref"] for one in components]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "passthrough.pyz",
                "name": "passthrough.pyz",
                "version": components[0]["version"],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": "passthrough.pyz", "dependsOn": [ours]},
            {"ref": ours, "dependsOn": others},
            *({"ref": other, "dependsOn": []} for other in others),
        ],
    }


def component(
    files: dict[str, bytes], name: str, versioned: str, beginnings: tuple[str, ...], package: str | None
) -> dict[str, Any]:
    """One component, from its files."""
    found = VERSION.search(files[versioned].decode())
    if found is None:
        raise ValueError(f"{versioned} says no version")
    if b"Permission is hereby granted, free of charge" not in files[f"licenses/{name}.txt"]:
        raise ValueError(f"{name} is under another licence than {LICENCE}")
    version = found[1]
    said = {
        "type": "library" if package else "application",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": LICENCE}}],
        "hashes": [{"alg": "SHA-256", "content": tree_hash(files, beginnings)}],
    }
    return said | ({"purl": package.format(version)} if package else {})


def tree_hash(files: dict[str, bytes], beginnings: tuple[str, ...]) -> str:
    """SHA-256 over ``sha256sum``'s lines for the files whose names begin so."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in files if name.startswith(beginnings)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main(arguments: list[str]) -> int:
    """Print the document."""
    print(json.dumps(describe(Path(arguments[0] if arguments else "passthrough.pyz")), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
