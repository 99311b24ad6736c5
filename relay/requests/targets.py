"""The URL space: which targets are relayed, what is left of them, which are denied. Raw bytes, never re-encoded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import BadRequest, Forbidden
from ..patterns import late
from ..values import Value

if TYPE_CHECKING:
    from ..wire.heads import RequestHead

# SPEC §4: one and the same space below three mounts; the longest first.
MOUNTS = (b"/openai/v1/", b"/openai/", b"/v1/")
ADMIN = frozenset({b"organization", b"projects"})  # administration: keys, members, spending
MOST_DECODINGS = 3  # an escape of an escape of an escape is nobody's file name
ESCAPE = late(rb"%([0-9A-Fa-f]{2})")
SUSPECT = re.compile(rb"[%\\]|/\.")  # only a path with one of these can hold a trick; most hold none
TRICK = late(rb"[\x00-\x1f\x7f\\]|(?:^|/)\.\.?(?:[/;]|$)")  # some servers cut parameters: "..;" is ".." to them


class Target(Value):
    """A relayed request target: ``path`` begins with a slash and holds neither mount nor ``v1/``."""

    path: bytes
    query: bytes | None  # None without a question mark; b"" for an empty query, which is not the same

    def joined(self, base_path: str) -> bytes:
        """The target that a deployment is asked for."""
        path = base_path.encode() + self.path
        return path if self.query is None else path + b"?" + self.query


def target_of(head: RequestHead, *, allow_admin: bool) -> Target | None:
    """``parse_target`` of a request's target, remembered with the head."""
    key = (target_of, allow_admin)
    try:
        target: Target | None = head.memo[key]
    except KeyError:
        target = head.memo[key] = parse_target(head.target, allow_admin=allow_admin)
    return target


def parse_target(raw: bytes, *, allow_admin: bool) -> Target | None:
    """Take the mount off a request target; None when it stands below none.

    Raises BadRequest for dot segments, backslashes and control characters, plain or encoded, and Forbidden for
    administration unless ``allow_admin``.
    """
    path, question, query = raw.partition(b"?")
    check_path(path)
    for mount in MOUNTS:
        if path.startswith(mount):
            rest = b"/" + path[len(mount) :]
            if not allow_admin and is_admin(rest):
                raise Forbidden("Administration paths are closed here. (The file can open them: server.allow_admin.)")
            return Target(rest, query if question else None)
    return None


def check_path(path: bytes) -> None:
    """Refuse a path that an upstream may read as another one."""
    if SUSPECT.search(path) and any(TRICK.search(reading) for reading in readings(path)):
        raise BadRequest("The path holds dot segments, backslashes or control characters.")


def readings(path: bytes) -> list[bytes]:
    """The path as it stands, and as it reads once decoded, and once more."""
    found = [path]
    for _ in range(MOST_DECODINGS):
        path = decode(path)
        if path == found[-1]:
            break
        found.append(path)
    return found


def decode(path: bytes) -> bytes:
    """Percent-decode once; what is no escape stays (RFC 3986 §2.1)."""
    return ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), path) if b"%" in path else path


def is_admin(path: bytes) -> bool:
    """Whether any reading of the path leads to administration, doubled slashes and versions aside."""
    for reading in readings(path):
        segments = [segment.lower() for segment in reading.split(b"/") if segment]
        while segments and segments[0] == b"v1":
            del segments[0]
        if segments and segments[0] in ADMIN:
            return True
    return False
