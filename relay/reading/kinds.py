"""What the value of a key can be: each ``Kind`` reads one scalar of the file, or refuses it."""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..patterns import late
from ..values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_DIGITS = late(r"[+-]?[0-9_]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?")
_LABEL = late("[!-~]+")
_TOKEN = late("[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Kind(Value, Generic[T]):
    """What a key's value must be: ``read`` turns a scalar into it, or raises ``ValueError``."""

    expected: str
    read: Callable[[Any], T]
    secret: bool = False  # the value is never shown in a message


def _number(value: Any) -> float:
    # float() also reads truth values, "nan", "inf" and other alphabets' digits
    if isinstance(value, bool) or (isinstance(value, str) and not _DIGITS.fullmatch(value.strip())):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def number(expected: str, *, least: float = 0, above: float | None = None) -> Kind[float]:
    """A finite number, also as text (``"5"``), as LiteLLM takes it."""

    def read(value: Any) -> float:
        found = _number(value)
        if found < least or (above is not None and found <= above):
            raise ValueError
        return found

    return Kind(expected, read)


def whole(expected: str, *, least: int = 0, most: int | None = None) -> Kind[int]:
    """An integer, also as text or as ``5.0``."""

    def read(value: Any) -> int:
        found = _number(value)
        if found != int(found) or found < least or (most is not None and found > most):
            raise ValueError
        return int(found)

    return Kind(expected, read)


def choice(*names: str) -> Kind[str]:
    """One of a few words."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Kind(" or ".join(names) if len(names) < 3 else "one of " + ", ".join(names), read)  # noqa: PLR2004


def _flag(value: Any) -> bool:
    """``true``, also as the texts that LiteLLM takes for it."""
    found = value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).strip().lower())
    if found is None:
        raise ValueError
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool) or not str(value).strip():
        raise ValueError
    return str(value).strip()


def _octal(value: Any) -> int:
    """``0660``, ``660``, ``"0660"`` and ``0o660`` mean the same: YAML's reading of them does not count."""
    mode = int(str(value).strip().removeprefix("0o"), 8)
    if not 0 <= mode <= 0o777:  # noqa: PLR2004 - the permission bits
        raise ValueError
    return mode


def is_label(text: str) -> bool:
    """Whether a name can stand in field values, metrics and logs as it is."""
    return bool(_LABEL.fullmatch(text))


def _label(value: Any) -> str:
    text = _text(value)
    if not is_label(text):
        raise ValueError
    return text


def _token(value: Any) -> str:
    """RFC 9110 §5.6.2: a field name."""
    text = _text(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError
    return text


def _price(value: Any) -> Decimal:
    try:
        price = Decimal(str(value).strip().replace("_", ""))
    except InvalidOperation:
        raise ValueError from None
    if isinstance(value, bool) or not price.is_finite() or price < 0:
        raise ValueError
    return price


def _proxy(value: Any) -> str:
    text = _text(value)
    if text.lower() == "none":
        return "none"
    if not re.fullmatch(r"https?://[^\s/?#]+/?", text, re.IGNORECASE):
        raise ValueError
    return text


def _verify(value: Any) -> bool | str:
    try:
        return _flag(value)
    except ValueError:
        return _text(value)


def _workers(value: Any) -> int:
    return 0 if value == "auto" else WORKER_COUNT.read(value)


FLAG = Kind("true or false", _flag)
TEXT = Kind("a text", _text)
SECRET_TEXT = Kind("a text", _text, secret=True)
SECONDS = number("seconds (a plain number above 0)", above=0)
SECONDS_OR_NONE = number("seconds (a plain number, 0 or more)")
SHARE = number("a number, 0 or more")
COUNT = whole("a whole number, 0 or more")
MODE = Kind("permissions in octal, such as 0660", _octal)
INTEGER = whole("a whole number", least=-(10**9))
AT_LEAST_ONE = whole("a whole number, 1 or more", least=1)
BYTES = whole("bytes (a plain whole number)")
PORT = whole("a port (0 to 65535; 0 takes a free one)", most=65535)
WORKER_COUNT = whole("a whole number, 1 or more", least=1, most=1024)
WORKERS = Kind("a whole number, 1 or more, or auto", _workers)
LABEL = Kind("a name in printable ASCII without spaces", _label)
FIELD_NAME = Kind("the name of a header", _token)
PRICE = Kind("a price (a number, 0 or more)", _price)
PROXY = Kind("http://HOST:PORT, or none", _proxy, secret=True)
VERIFY = Kind("true, false, or the path of a CA file", _verify)
#: Kinds for which a number is the text that was written, as in ``model: 4``.
NAMES = frozenset({_text, _label, _token, _octal})
