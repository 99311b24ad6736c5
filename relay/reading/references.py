"""Values that stand elsewhere: ``os.environ/NAME``, ``file/PATH``, and what people write in their place (SPEC §3)."""

from __future__ import annotations

import os.path
import re
from typing import TYPE_CHECKING

from ..patterns import late
from ..values import Value
from .document import Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .document import Place, Report

ENVIRONMENT = "os.environ/"
FILE = "file/"

_NAME = r"['\"]?([A-Za-z_][A-Za-z0-9_]*)['\"]?"
#: Spellings of other tools for "take it from the environment"; the group is the variable. Most files have none.
_SPELLINGS = tuple(
    late(pattern)
    for pattern in (
        # ${NAME}, ${NAME:-x}, ${env:NAME}, ${{ secrets.NAME }}
        rf"\$\{{\{{?\s*(?:env[.:]|secrets\.)?{_NAME}[^}}]*\}}?\}}",
        rf"\$(?:env:)?{_NAME}$",  # $NAME, $env:NAME
        rf"\{{\{{-?\s*(?:env[.:]|\.Values\.|\.)?{_NAME}[^}}]*\}}\}}",  # {{ NAME }}
        # env("NAME"), os.getenv("NAME", "x"), os.environ["NAME"]
        rf"(?:os\.|process\.)?(?:get)?env(?:iron)?(?:\.get)?\s*[(\[]\s*{_NAME}.*[)\]]$",
        rf"(?:os\.|process\.)?env(?:iron)?[/.:]\s*{_NAME}$",  # env/NAME, env.NAME, os.environ.NAME
        rf"%{_NAME}%$",  # %NAME%
    )
)
_BEGINNINGS = ("$", "{{", "%", "env", "getenv", "os.", "process.")  # of all of these
_BLANK_TO_FILL = late(r"<[A-Za-z][^<>]*>")  # <your-key>


class Given(Value):
    """A value and how a message may name it: a value that came from elsewhere is never shown."""

    value: bool | int | float | str
    shown: str


class References:
    """Finds values: in the process environment, then in ``environment_variables``, or in a file.

    ``environ`` and ``read_file`` are the outside world, handed in; what is missing goes to ``report`` at the place
    that asked.
    """

    def __init__(self, report: Report, environ: Mapping[str, str], read_file: Callable[[str], str]) -> None:
        self.report = report
        self.variables: dict[str, Scalar] = {}
        self.files: list[str] = []
        self._environ = environ
        self._read_file = read_file

    def variable(self, name: str) -> str | None:
        """A variable's text, without the line end that a mounted secret may bring; empty ones count as unset."""
        seen = set()
        while True:
            text = self._environ.get(name, "").rstrip("\r\n")
            node = self.variables.get(name)
            if text or node is None or node.value is None or name in seen:
                return text or None
            if not node.text.startswith(ENVIRONMENT):
                return node.text or None
            seen.add(name)
            name = node.text.removeprefix(ENVIRONMENT).strip()

    def peek(self, node: Scalar) -> str | None:
        """What the text stands for, or None; reports nothing. For entries that may turn out not to be served."""
        if node.text.startswith(ENVIRONMENT):
            return self.variable(node.text.removeprefix(ENVIRONMENT).strip())
        return node.text if node.value is not None else None

    def resolve(self, node: Scalar, key: str, *, secret: bool = False) -> Given | None:
        """The value of ``key``; None if it cannot be had, which is then reported."""
        text = node.text.strip()
        if text.startswith(ENVIRONMENT):
            return self._from_environment(node, key, text.removeprefix(ENVIRONMENT).strip())
        wrong = _misspelt(text) if isinstance(node.value, str) else None
        if wrong:
            self.report.problem(node.place, f"{key}: {wrong}")
            return None
        value = node.value if node.value is not None else ""
        shown = "a text that is not shown here" if secret else _quoted(node.text)
        return Given(value, shown if text else "nothing")

    def _from_environment(self, node: Scalar, key: str, name: str) -> Given | None:
        if not re.fullmatch(r"[^\s=]+", name):
            self.report.problem(
                node.place, f"{key}: {ENVIRONMENT} needs the name of a variable, as in {ENVIRONMENT}NAME"
            )
            return None
        found = self.variable(name)
        if found is None:
            self.report.problem(node.place, f"{key}: the environment variable {name} is not set")
            return None
        wrong = _misspelt(found) if not self._environ.get(name) else None
        if wrong:
            self.report.problem(node.place, f"{key}: environment_variables.{name}: {wrong}")
            return None
        return Given(found, f"the value of {ENVIRONMENT}{name}")

    def key(self, node: Scalar, key: str) -> str | None:
        """A credential: as ``resolve``, or out of a file; one line that can stand in a field value, or reported."""
        text = node.text.strip()
        if text.startswith(FILE) and isinstance(node.value, str):
            found = self._from_file(node.place, key, text.removeprefix(FILE))
        else:
            value = self.resolve(Scalar(node.place, node.text, node.text), key, secret=True)
            found = None if value is None else str(value.value)
        if found == "":
            self.report.problem(node.place, f"{key}: the key is empty; leave it out, or give it a value")
        elif found and not re.fullmatch("[!-~]+", found):
            self.report.problem(
                node.place, f"{key}: a key is one line of printable ASCII without spaces; this one is not"
            )
            return None
        return found

    def key_of(self, name: str, place: Place) -> str | None:
        """The credential in a variable that nobody wrote into the file; None if it is not set, which is no problem."""
        reference = ENVIRONMENT + name
        return self.key(Scalar(place, reference, reference), name) if self.variable(name) else None

    def _from_file(self, place: Place, key: str, name: str) -> str | None:
        path = self.beside(place.file, name)
        text = self.read(place, key, path)
        if text is None:
            return None
        text = text.removeprefix("\ufeff").rstrip("\r\n")
        if not text:
            self.report.problem(place, f"{key}: the file {path} is empty")
        return text or None

    def read(self, place: Place, key: str, path: str) -> str | None:
        """The text of a file, which is from now on one of the files of the configuration; None if it cannot be read."""
        if path not in self.files:
            self.files.append(path)
        try:
            return self._read_file(path)
        except OSError as error:
            self.report.problem(place, f"{key}: cannot read {path}: {error.strerror or 'it cannot be opened'}")
        except ValueError:
            self.report.problem(place, f"{key}: {path} is not text in UTF-8")
        return None

    @staticmethod
    def beside(file: str, name: str) -> str:
        """``name`` as it is meant in ``file``: relative to that file's folder."""
        return os.path.normpath(os.path.join(os.path.dirname(file), name.strip()))  # noqa: PTH118, PTH120 - text only


def _misspelt(text: str) -> str | None:
    """What is wrong with a text that was meant to stand for something else."""
    for spelling in _SPELLINGS if text.startswith(_BEGINNINGS) else ():
        found = spelling.match(text)
        if found:
            rest = found[0][found.end(1) :]  # may hold a default, which may be a key
            shown = found[0] if re.fullmatch(r"[\s'\"\])}%]*", rest) else found[0][: found.end(1)] + "..."
            return f"{_quoted(shown)} is not read; write {ENVIRONMENT}{found[1]}"
    blank = _BLANK_TO_FILL.search(text)
    if blank:
        return f"{_quoted(blank[0])} is a blank to fill in; write the value, or {ENVIRONMENT}NAME"
    if ENVIRONMENT in text:
        return f"{ENVIRONMENT}NAME must be the whole value"
    return None


#: What a key begins with, wherever it turns up by mistake.
_LOOKS_LIKE_A_KEY = late(r"\b(sk-|gsk_|ghp_|github_pat_|hf_|xai-|pplx-|AIza|Bearer )[\w.-]{8,}")


def _quoted(text: str) -> str:
    """A value in a message: in quotes, not longer than a message should be, and never a key."""
    longest = 60
    text = _LOOKS_LIKE_A_KEY.sub(r"\1...", text)
    return repr(text) if len(text) <= longest else repr(text[:longest]) + "..."
