"""Which outbound proxy, if any, stands between us and an upstream (SPEC §14). Pure: the environment is an argument.

Order: the deployment's own ``proxy``, else the variable for the upstream's scheme (``HTTPS_PROXY``, ``HTTP_PROXY``),
else ``ALL_PROXY``; the lower-case name wins over the upper-case one, and an empty variable counts as none, as in curl.
Wherever the proxy came from, it is not asked for what ``NO_PROXY`` names, for loopback and for unix sockets.

curl ignores the upper-case ``HTTP_PROXY`` altogether, because a CGI server fills that name from a request's ``Proxy``
field (httpoxy). We honour it, as container platforms set it, except where ``REQUEST_METHOD`` betrays such a server.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

from ..config import Secret
from ..values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from ..config import BaseURL

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535

# RFC 3986 §3.2, with the scheme optional as in curl, and no path but "/": a proxy is an authority, nothing more.
PROXY_URL = (
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?:(?P<userinfo>[^/?#\s\\]*)@)?"
    r"(?:\[(?P<literal>[0-9a-f:.%]+)\]|(?P<name>[^\x00-\x20\x7f\"%/:<>?#@\[\\\]^`{|}]+))"
    r"(?::(?P<port>[0-9]{0,5}))?/?"
)


class ProxyAddress(Value):
    """An outbound proxy: reached over TLS when ``scheme`` is ``https``; ``credentials`` are ``user:password``."""

    _hidden = ("credentials",)  # not even the end of a password is shown

    scheme: str
    host: str
    port: int
    credentials: Secret | None = None

    def authorization(self) -> bytes | None:
        """The value of ``Proxy-Authorization`` (RFC 7617 §2), or None without credentials."""
        if self.credentials is None:
            return None
        return b"Basic " + binascii.b2a_base64(
            self.credentials.reveal().encode("utf-8", "surrogateescape"), newline=False
        )


class OutboundProxies:
    """What the environment says about outbound proxies, parsed once. Raises ValueError for a malformed URL."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        everything = _from_variables(environ, ("all_proxy", "ALL_PROXY"))
        plain = ("http_proxy",) if "REQUEST_METHOD" in environ else ("http_proxy", "HTTP_PROXY")
        self._by_scheme = {
            "http": _from_variables(environ, plain) or everything,
            "https": _from_variables(environ, ("https_proxy", "HTTPS_PROXY")) or everything,
        }
        exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        self._exemptions = [Exemption(entry) for entry in re.split(r"[,\s]+", exempt) if entry]
        self._chosen: dict[tuple[BaseURL, str | None], ProxyAddress | None] = {}  # as many as the file has bases

    def for_base(self, base: BaseURL, own: str | None = None) -> ProxyAddress | None:
        """Whom to ask for a tunnel to ``base``; None to dial it directly.

        ``own`` is ``Deployment.proxy``: a URL, ``none``, or None for what the environment says. Raises ValueError for
        a URL that is malformed or of a kind that we do not speak (SOCKS); its text never shows the URL, which may hold
        a password. Answers are kept, so that asking again costs no more than a look into a dict.
        """
        try:
            return self._chosen[base, own]
        except KeyError:
            return self._chosen.setdefault((base, own), self._choose(base, own))

    def _choose(self, base: BaseURL, own: str | None) -> ProxyAddress | None:
        named = self._by_scheme[base.scheme] if own is None else _own(own)
        if named is None or self._is_exempt(base):
            return None
        origin, address = named
        if address.scheme not in DEFAULT_PORTS:
            raise ValueError(f"{origin}: a {address.scheme}:// proxy is not spoken here, only http:// and https://")
        return address

    def _is_exempt(self, base: BaseURL) -> bool:
        if base.unix is not None:
            return True
        host = base.host.lower().rstrip(".")
        address = _as_address(host)
        if address is None:
            if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 §6.3
                return True
        elif address.is_loopback or address.is_unspecified:  # connecting to 0.0.0.0 or :: reaches this machine
            return True
        return any(exemption.covers(host, address, base.port) for exemption in self._exemptions)


class Exemption:
    """One entry of ``NO_PROXY``: ``*``, a name and all below it, an address or a network; each with or without a port.

    A leading dot or ``*.`` makes no difference to a name, as in curl: ``.example.com`` covers ``example.com`` too.
    """

    __slots__ = ("_name", "_network", "_port")

    def __init__(self, entry: str) -> None:
        host, self._port = _split_port(entry.lower())
        self._network = _as_network(host)
        self._name = host if host == "*" else host.removeprefix("*").strip(".")

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
        """Whether ``host`` (lower case; ``address`` if it is one) at ``port`` is dialled without a proxy."""
        if self._port not in (None, port):
            return False
        if self._name == "*":
            return True
        if self._network is not None:
            return address is not None and address in self._network
        return address is None and (host == self._name or host.endswith(f".{self._name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Cut ``host``, ``host:443``, ``[::1]``, ``[::1]:443`` or a bare IPv6 address or network in two."""
    match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*):([0-9]{1,5})", entry)
    if match is None:
        return entry, None
    literal, literal_port, name, port = match.groups()
    digits = port or literal_port
    return name if literal is None else literal, int(digits) if digits else None


def _as_address(host: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import IPv6Address, ip_address  # a few milliseconds that most starts need not spend

    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _as_network(text: str) -> IPv4Network | IPv6Network | None:
    from ipaddress import ip_network  # as above

    try:
        return ip_network(text, strict=False)  # curl looks at the network's bits only
    except ValueError:
        return None


def _from_variables(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ProxyAddress] | None:
    """Read the first of ``names`` that is set and not empty, with the name itself for messages."""
    for name in names:
        if value := environ.get(name, "").strip():
            return name, parse_proxy(value, name)
    return None


def _own(text: str) -> tuple[str, ProxyAddress] | None:
    return None if text.strip().lower() == "none" else ("proxy", parse_proxy(text.strip(), "proxy"))


def parse_proxy(url: str, origin: str) -> ProxyAddress:
    """Read ``[scheme://][user[:password]@]host[:port]``; without a scheme it is ``http``, whose port is 80.

    Raises ValueError with a sentence that begins with ``origin``, the key or variable that held the URL, and quotes
    nothing of it. Any scheme is well formed; who uses the address knows which it can speak.
    """
    match = re.fullmatch(PROXY_URL, url, re.IGNORECASE)
    if match is None:
        raise ValueError(
            f"{origin}: not the URL of a proxy; expected http://host:port or http://user:password@host:port "
            "(what is special in a password is written %XX)"
        )
    scheme = (match["scheme"] or "http").lower()
    port = int(match["port"] or DEFAULT_PORTS.get(scheme, 1080))  # 1080: SOCKS, for the message only
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"{origin}: the proxy's port must be from 1 to {MAX_PORT}")
    if match["literal"] and (":" not in match["literal"] or _as_address(match["literal"]) is None):
        raise ValueError(f"{origin}: what stands in brackets is not an IPv6 address")
    host = (match["literal"] or match["name"]).lower()
    return ProxyAddress(scheme, host, port, _credentials(match["userinfo"] or "", origin))


def _credentials(userinfo: str, origin: str) -> Secret | None:
    if not userinfo:
        return None
    from urllib.parse import unquote  # rare, and slow to import

    user, _, password = (unquote(part, errors="surrogateescape") for part in userinfo.partition(":"))
    if ":" in user or re.search(r"[\x00-\x1f\x7f]", user + password):  # RFC 7617 §2
        raise ValueError(f"{origin}: the proxy's user name holds a colon, or its credentials a control character")
    return Secret(f"{user}:{password}")
