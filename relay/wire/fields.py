"""Heads and their field lines: the strict grammar, what framing is refused, what passes on.

A head is read by one compiled grammar (RFC 9112 §2-§5, with every choice that it leaves made strictly: SPEC §12).
What the grammar does not match is refused; what it matches travels on as the bytes it came as. Only the field lines
that decide framing are shown to h11, which stays the judge of where a message ends.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import (
    BadRequest,
    CodingNotImplemented,
    Fields,
    HeadTooLarge,
    ProxyError,
    TargetTooLong,
    VersionNotSupported,
)
from ..patterns import late
from .heads import (
    CONTENT_LENGTH,
    HOP_BY_HOP,
    LONGEST_DIGITS,
    PLAIN_CONNECTIONS,
    STATUS_LINE,
    VERSIONS,
    Layout,
    RequestHead,
    ResponseHead,
    is_hop_by_hop,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .heads import Head

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A method without end would be held wherever something is remembered for it; the longest of IANA's has 17 letters.
REQUEST_LINE = re.compile(rb"(%s{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n" % TOKEN[:-1])
START = re.compile(STATUS_LINE)
FIELD_LINE = re.compile(rb"(%s):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n" % TOKEN)
FIELD_SECTION = re.compile(rb"(?:%s:[\t\x20-\x7e\x80-\xff]*\r\n)*" % TOKEN)
OTHER_VERSION = late(rb"%s [^\x00-\x20]+ HTTP/(?!1\.[01]\r)[0-9]+(?:\.[0-9]+)?\r\n" % TOKEN)
DIGITS = re.compile(rb"[0-9]{1,19}")
# A tunnel is nobody's endpoint, and an answer to TRACE shows all that was asked with, the deployment's key too (RFC
# 9110 §9.3.8). In upper or lower case: some servers take one for the other.
REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})
LONGEST_BODY = 2**63 - 1  # a length that reaches 2^63 overflows somebody's counter

# Naming one of these in Connection must not strip it (hop-by-hop abuse).
END_TO_END = frozenset({b"host", b"content-length", b"content-type", b"content-encoding", b"authorization"})
# SPEC §6: what the proxy writes itself (host, length, credentials), and what would speak for the client elsewhere.
OURS = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"http2-settings",
        b"authorization",
        b"api-key",
        b"x-api-key",
        b"openai-organization",
        b"openai-project",
        b"cookie",
        b"forwarded",
    }
)
OUR_PREFIXES = (b"x-litellm-", b"x-passthrough-", b"proxy-", b"x-forwarded-")
# SPEC §13: subprotocol tokens by which a browser says what others say in fields.
CREDENTIAL_TOKENS = (b"openai-insecure-api-key.", b"openai-organization.", b"openai-project.")
PROTOCOLS = b"sec-websocket-protocol"
UNREADABLE_CODINGS = frozenset({b"br", b"zstd", b"*"})  # what the response tap cannot look into; * would allow them


LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,18})(?=\r\n)")
MOST_KNOWN_HEADS = 1024
LONGEST_KNOWN_HEAD = 4096  # bytes; those of the SDKs have 600 to 1,200
LONGEST_KNOWN_NAME = 64  # bytes of a field's
_known_heads: dict[tuple[bytes, bool, int, int], RequestHead] = {}


def recall_request_head(raw: bytes, most_fields: int, longest_target: int) -> tuple[RequestHead, int | None]:
    """``parse_request_head`` for heads that come again and again; their Content-Length stands beside them.

    A client says the same head with every request but for the length, so a head is parsed once and the same object is
    handed out whenever those bytes come again; what ``memo`` holds stays with it.
    """
    at = raw.find(b"ontent-Length: ")
    at = at if at >= 0 else raw.find(b"ontent-length: ")
    match = LENGTH_LINE.match(raw, max(at - 3, 0))
    start, stop = (0, 0) if match is None else match.span(1)
    key, length = (raw, None) if match is None else (raw[:start] + raw[stop:], int(match[1]))
    identity = key, match is None, most_fields, longest_target  # a length without digits is not one taken out
    known = _known_heads.get(identity)
    if known is not None:
        return known, length
    head = parse_request_head(raw, most_fields, longest_target)
    if b"content-length" in head:
        length = int(head.get(b"content-length").split(b",")[0])
    plain = not head.repeats(b"content-length") and (match is not None or length is None)
    others = [line for line in head.fields if not is_length(line[0])]
    kept = plain and len(raw) <= LONGEST_KNOWN_HEAD
    around = (raw[:start], raw[stop:]) if kept and match is not None else None
    head = RequestHead(head.method, head.target, head.version, others, around)
    if kept:
        if len(_known_heads) >= MOST_KNOWN_HEADS:
            _known_heads.clear()
        _known_heads[identity] = head
    return head, length


def is_length(name: bytes) -> bool:
    """Whether this is the name of Content-Length, in any case."""
    return len(name) == 14 and name.lower() == b"content-length"  # noqa: PLR2004 - the name's own length


def parse_request_head(raw: bytes, most_fields: int, longest_target: int) -> RequestHead:
    """Read a request head that ends with its empty line. Raises the ``ProxyError`` that refuses it."""
    start = REQUEST_LINE.match(raw)
    if start is None:
        raise refused_request_line(raw)
    method, target, minor = start.groups()
    if len(target) > longest_target:
        raise TargetTooLong(f"The request target is longer than {longest_target} bytes.")
    head = RequestHead(method, target, VERSIONS[minor], parse_fields(raw, start.end(), most_fields))
    check_target(target)
    if method.upper() in REFUSED_METHODS:
        raise BadRequest(f"{method.upper().decode('ascii')} is refused here.")
    check_framing(head)
    check_host(head)
    return head


def parse_response_head(raw: bytes, most_fields: int, like: Layout | None = None) -> ResponseHead:
    """Read a response head that ends with its empty line. Raises ``ProxyError`` where it is malformed.

    ``like``: the layout of an answer that came before, which this one is likely to share.
    """
    head = like.read(raw) if like is not None and like.is_usual() else None
    if head is None:
        start = START.match(raw)
        if start is None:
            raise BadRequest("The status line is malformed.")
        minor, status, reason = start.groups()
        fields = parse_fields(raw, start.end(), most_fields)
        like = recall_layout(tuple([name for name, _ in fields])) if len(raw) <= LONGEST_KNOWN_HEAD else None
        if like is not None:
            like.seen += 1
        head = ResponseHead(int(status), reason or b"", VERSIONS[minor], fields, like)
    if head.length is None:
        head.length = check_framing(head)
    return head


recall_layout = lru_cache(maxsize=1024)(Layout)


def parse_fields(raw: bytes, start: int, most: int) -> Fields:
    """The field lines from ``start`` to the empty line that ends ``raw``, spaces around values taken off."""
    end = len(raw) - 2
    if FIELD_SECTION.fullmatch(raw, start, end) is None:
        raise refused_field(raw, start, end)
    fields: Fields = FIELD_LINE.findall(raw, start, end)
    if len(fields) > most:
        raise HeadTooLarge(f"The head has more than {most} field lines.")
    return without_blanks(fields) if ends_blank(raw, start) else fields


def ends_blank(raw: bytes, start: int) -> bool:
    """Whether any line from ``start`` on ends with white space."""
    return raw.find(b" \r\n", start) >= 0 or raw.find(b"\t\r\n", start) >= 0


def without_blanks(fields: Fields) -> Fields:
    """Field lines without white space at the end of a value; that before it has not been read."""
    return [(name, value.rstrip(b" \t")) for name, value in fields]


def refused_request_line(raw: bytes) -> ProxyError:
    """Say what is wrong with a request line that the grammar does not match."""
    if OTHER_VERSION.match(raw):
        return VersionNotSupported("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    return BadRequest("The request line is malformed: METHOD, one space, the target, one space, HTTP/1.1.")


def refused_field(raw: bytes, start: int, end: int) -> ProxyError:
    """Say what is wrong with the first field line that the grammar does not match."""
    matched = FIELD_SECTION.match(raw, start, end)
    line = raw[matched.end() if matched else start : end].split(b"\r\n")[0]
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return BadRequest("A field line begins with white space: folded lines (obs-fold) are refused.")
    if b"\n" in line or b"\r" in line:
        return BadRequest("A field line holds a bare CR or LF.")
    if not colon or not re.fullmatch(TOKEN, name):
        return BadRequest("A field name is malformed: a token and a colon, without a space between them.")
    return BadRequest("A field value holds a control character.")


def check_partial_head(raw: bytes | bytearray, longest: int, longest_target: int) -> None:
    """Refuse a head that is not all there yet, where its beginning already shows that it never will be right."""
    line_end = raw.find(b"\n")
    if line_end < 0 and len(raw) > longest_target + 64:  # a method and a version beside it
        raise TargetTooLong(f"The request target is longer than {longest_target} bytes.")
    if len(raw) > longest:
        raise HeadTooLarge(f"The head is longer than {longest} bytes.")
    if line_end >= 0 and raw.count(b"\n") != raw.count(b"\r\n"):
        raise BadRequest("A line of the head ends with a bare LF.")
    if raw[0] <= 0x20 or raw[0] >= 0x7F:  # noqa: PLR2004 - not the first byte of any token: TLS, for one
        raise BadRequest("This is not an HTTP/1.1 request. (Is this TLS spoken to a plain port?)")


def check_target(target: bytes) -> None:
    """Only the origin form, and nothing in it that two parsers read differently (RFC 9112 §3.2, SPEC §12)."""
    if target[:1] != b"/":
        raise BadRequest("The request target must begin with '/': absolute, authority and asterisk forms are refused.")
    if b"#" in target or b"\\" in target:
        raise BadRequest("The request target holds a fragment or a backslash.")


def check_framing(head: Head) -> int | None:
    """The length that Content-Length gives, None without one.

    Refuses what leaves the end of the message open to two readings (RFC 9112 §6.1, §6.3; h11 takes the first two).
    """
    places = head.layout.places
    if b"transfer-encoding" in places:
        if b"content-length" in places:
            raise BadRequest("Content-Length and Transfer-Encoding stand beside each other.")
        if head.version == b"1.0":
            raise BadRequest("Transfer-Encoding is unknown to HTTP/1.0.")
        if head.get(b"transfer-encoding").lower() != b"chunked":
            raise CodingNotImplemented("The only transfer coding spoken here is one 'chunked'.")
    elif b"content-length" in places:
        return read_length(head.get(b"content-length"))
    return None


def read_length(value: bytes) -> int:
    """One length, or several that agree, of digits alone and below 2^63 (RFC 9110 §8.6)."""
    if value.isdigit() and len(value) < LONGEST_DIGITS:
        return int(value)
    lengths = {length.strip(b" \t") for length in value.split(b",")}
    if len(lengths) > 1:
        raise BadRequest("Content-Length is given twice, with different values.")
    length = lengths.pop()
    if not DIGITS.fullmatch(length) or int(length) > LONGEST_BODY:
        raise BadRequest("Content-Length is not a number of bytes below 2^63.")
    return int(length)


def check_host(head: RequestHead) -> None:
    """RFC 9112 §3.2: exactly one Host under 1.1; and one credential, not two to choose from."""
    if head.repeats(b"host") or (b"host" not in head and head.version == b"1.1"):
        raise BadRequest("A request needs exactly one Host field line.")
    if head.repeats(b"authorization"):
        raise BadRequest("Authorization is given twice.")


def connection_options(head: Head) -> frozenset[bytes]:
    """The field names that Connection lists, lower case."""
    value = head.get(b"connection")
    return frozenset(option.strip().lower() for option in value.split(b",")) if value else frozenset()


def wants_websocket(head: Head) -> bool:
    """Whether the head asks for, or grants, an upgrade to WebSocket (RFC 6455 §4.1)."""
    return head.get(b"upgrade").lower() == b"websocket" and b"upgrade" in connection_options(head)


def is_ours(name: bytes) -> bool:
    """Whether a request's field is consumed or written by the proxy itself; ``_`` counts as ``-`` (CGI's reading)."""
    return _is_ours(name) if len(name) <= LONGEST_KNOWN_NAME else _is_ours.__wrapped__(name)


@lru_cache(maxsize=4096)  # bounded in both ways, since names come from clients
def _is_ours(name: bytes) -> bool:
    plain = name.lower().replace(b"_", b"-")
    if plain == PROTOCOLS:
        return b"_" in name  # it may carry the client's key, and is only read by its own name
    return plain in OURS or plain in HOP_BY_HOP or plain.startswith(OUR_PREFIXES)


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Field lines as they are written."""
    return b"".join([b"%s: %s\r\n" % line for line in fields])


def outbound_lines(head: RequestHead, replaced: frozenset[bytes], *, readable: bool) -> bytes:
    """``make_outbound_lines``, remembered with the head."""
    key = (outbound_lines, replaced, readable)
    lines: bytes | None = head.memo.get(key)
    if lines is None:
        lines = head.memo[key] = make_outbound_lines(head, replaced, readable=readable)
    return lines


def make_outbound_lines(head: RequestHead, replaced: frozenset[bytes], *, readable: bool) -> bytes:
    """The request's field lines that an upstream gets as they are, in order and in their own case.

    ``replaced`` are lower-case names that the deployment or the proxy's settings write themselves. With ``readable``,
    codings that the proxy cannot look into are taken out of Accept-Encoding.
    """
    dropped = replaced | (connection_options(head) - END_TO_END)
    lines = [line for line in head.fields if not is_ours(line[0])]
    if dropped:
        lines = [line for line in lines if line[0].lower().replace(b"_", b"-") not in dropped]
    if readable and b"accept-encoding" in head:
        lines = [(n, readable_codings(v)) if n.lower() == b"accept-encoding" else (n, v) for n, v in lines]
    if PROTOCOLS in head:
        lines = [(n, kept_protocols(v) if n.lower() == PROTOCOLS else v) for n, v in lines]
        lines = [line for line in lines if line[1] or line[0].lower() != PROTOCOLS]
    return field_lines(lines)


def inbound_lines(head: ResponseHead) -> bytes:
    """The response's field lines that the client gets as they are."""
    if head.passing is not None:
        return head.passing
    if head.get(b"connection") not in PLAIN_CONNECTIONS:
        dropped = HOP_BY_HOP | CONTENT_LENGTH | (connection_options(head) - END_TO_END)
        return field_lines([line for line in head.fields if line[0].lower() not in dropped])
    layout, values = head.layout, head.values
    known = layout.memo.get(inbound_lines)
    if known is None:
        kept = [at for at, name in enumerate(layout.names) if not is_hop_by_hop(name)]
        lines = [layout.names[at].replace(b"%", b"%%") + b": %s\r\n" for at in kept]
        known = layout.memo[inbound_lines] = b"".join(lines), kept
    return known[0] % tuple([values[at] for at in known[1]])


def kept_protocols(value: bytes) -> bytes:
    """A Sec-WebSocket-Protocol without the tokens that carry credentials; empty where nothing else was offered."""
    tokens = [token.strip() for token in value.split(b",")]
    kept = [token for token in tokens if not token.lower().startswith(CREDENTIAL_TOKENS)]
    return value if len(kept) == len(tokens) else b", ".join(kept)


def readable_codings(value: bytes) -> bytes:
    """An Accept-Encoding without the codings that the tap cannot read; the rest keeps its order and weights."""
    codings = [coding.strip() for coding in value.split(b",")]
    kept = [coding for coding in codings if coding.partition(b";")[0].strip().lower() not in UNREADABLE_CODINGS]
    return value if len(kept) == len(codings) else b", ".join(kept) or b"identity"
