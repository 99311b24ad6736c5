"""What one gives an SDK as ``base_url`` → ``BaseURL`` (SPEC §3)."""

from __future__ import annotations

import re

from ..config import BaseURL

DEFAULT_PATH = "/v1"
_PORTS = {"http": 80, "https": 443}
_MOST_PORT = 65535

_SHAPE = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:(?P<userinfo>[^/?#]*)@)?"
    r"(?:\[(?P<literal>[^\]/?#]*)\]|(?P<host>[^\[\]:/?#@]*))"
    r"(?::(?P<port>[^/?#]*))?"
    r"(?P<path>/[^?#]*)?"
    r"(?P<rest>[?#].*)?",
    re.IGNORECASE,
)
_SOCKET = r"(?P<scheme>http)://unix:(?P<unix>/(?:(?![:?#])[!-~])*)(?::(?P<path>/[^?#]*)?)?(?P<rest>[?#].*)?"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_PATH = re.compile(r"[!-~]*")


def parse_base(text: str, *, root: bool = False) -> BaseURL:
    """The base in ``text``, or ``ValueError`` with what to do about it; the message never shows a password.

    Without a path it means ``/v1``, as every server of this API has it, unless ``root`` says that the provider's own
    base has none. ``http://unix:/run/x.sock:/v1`` names a socket, as nginx writes it. Trailing slashes do not count.
    """
    socket = re.fullmatch(_SOCKET, text, re.IGNORECASE) if "unix:" in text.lower() else None
    if socket:
        return BaseURL("http", "localhost", 80, _path(socket["path"], socket["rest"], root), socket["unix"])
    parts = _SHAPE.fullmatch(text)
    if not parts:
        raise ValueError("expected a URL that begins with http:// or https://")
    if parts["userinfo"] is not None:
        raise ValueError("a base holds no user or password; the key belongs into api_key")
    scheme = parts["scheme"].lower()
    host = _literal(parts["literal"]) if parts["literal"] is not None else _name(parts["host"])
    return BaseURL(scheme, host, _port(parts["port"], scheme), _path(parts["path"], parts["rest"], root))


def _name(host: str) -> str:
    if not host:
        raise ValueError("the URL names no host")
    if not host.isascii():
        raise ValueError("write the host in ASCII (xn--...)")
    if not _HOST.fullmatch(host):
        raise ValueError("the host is no host name")
    return host.lower()


def _literal(host: str) -> str:
    """RFC 3986 §3.2.2: an IPv6 address in brackets, in its shortest form."""
    from ipaddress import AddressValueError, IPv6Address  # rare

    try:
        return str(IPv6Address(host))
    except AddressValueError:
        raise ValueError("the text in brackets is no IPv6 address") from None


def _port(text: str | None, scheme: str) -> int:
    if not text:
        return _PORTS[scheme]
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _MOST_PORT:
        raise ValueError(f"the port must be a number from 1 to {_MOST_PORT}")
    return int(text)


def _path(path: str | None, rest: str | None, root: bool) -> str:
    if rest:
        raise ValueError("a base holds no query and no fragment; extra_headers or the client can add what is needed")
    path = (path or "").rstrip("/")
    if not _PATH.fullmatch(path):
        raise ValueError("the path holds a space or another character that must be percent-encoded")
    return path or ("" if root else DEFAULT_PATH)


def show_base(base: BaseURL) -> str:
    """The base as one would write it."""
    if base.unix is not None:
        return f"http://unix:{base.unix}:{base.path}"
    return f"{base.scheme}://{base.authority.decode()}{base.path}"
