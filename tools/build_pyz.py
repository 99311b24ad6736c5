"""Build ``passthrough.pyz``: the product, h11 and pure-Python PyYAML in one file that any Python from 3.11 on runs.

``python tools/build_pyz.py [FILE]`` takes h11 and PyYAML from where this interpreter finds them. The same sources give
the same bytes: entries are sorted, times and modes fixed, nothing is compressed (compressors differ from machine to
machine) and nothing compiled.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
# zipapp's own (``-m``) would drop the exit status.
MAIN = b'"""Run the product that this archive holds."""\n\nfrom passthrough import main\n\nraise SystemExit(main())\n'
PACKAGES = {"h11": "h11", "PyYAML": "yaml"}  # distribution -> the package that it brings
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can say
PLAIN_FILE = 0o100644 << 16
UNIX = 3


def entries() -> dict[str, bytes]:
    """What the archive holds, by name."""
    found = {"__main__.py": MAIN, "licenses/passthrough.txt": (ROOT / "LICENSE").read_bytes()}
    for path in [ROOT / "passthrough.py", ROOT / "router.py", *(ROOT / "relay").rglob("*.py")]:
        found[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for name, package in PACKAGES.items():
        found |= package_entries(name, package)
    return found


def package_entries(name: str, package: str) -> dict[str, bytes]:
    """The Python files of an installed distribution, and its licence; neither its tests nor its C extension."""
    found = {}
    for file in distribution(name).files or []:
        content = Path(str(file.locate()))
        if file.parts[0] == package and file.suffix == ".py" and "tests" not in file.parts:
            found[file.as_posix()] = content.read_bytes()
        elif file.stem == "LICENSE":
            found[f"licenses/{name}.txt"] = content.read_bytes()
    if f"{package}/__init__.py" not in found or f"licenses/{name}.txt" not in found:
        raise SystemExit(f"{name} is not installed as plain files; try: {sys.executable} -m pip install {name}")
    return found


def build(target: Path) -> None:
    """Write the archive, executable."""
    with target.open("wb") as out:
        out.write(SHEBANG)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, content in sorted(entries().items()):
                entry = zipfile.ZipInfo(name, LONG_AGO)
                entry.create_system, entry.external_attr = UNIX, PLAIN_FILE
                archive.writestr(entry, content)
    target.chmod(0o755)


def main(arguments: list[str]) -> int:
    """Build, and say what came of it in ``sha256sum``'s words."""
    target = Path(arguments[0] if arguments else "passthrough.pyz")
    build(target)
    print(f"{hashlib.sha256(target.read_bytes()).hexdigest()}  {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
