"""What happened in an attempt: an answer's status, code and fields read into an :class:`Outcome`, and what each kind
means (SPEC §7's table). Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(enum.Enum):
    """The rows of SPEC §7's table. The values are the words of records and metrics."""

    OK = "ok"  # 1xx to 3xx
    CLIENT_ERROR = "client_error"  # 4xx that is the client's to fix
    CONNECT_FAILED = "connect_failed"  # no connection, or no TLS: nothing was sent
    STALE = "stale"  # a reused connection that closed before a response byte
    RATE_LIMITED = "rate_limited"
    DEAD_ACCOUNT = "dead_account"  # 429 that waiting does not mend
    DEAD_KEY = "dead_key"
    DENIED = "denied"  # other 401 and 403: this key may not do this
    OVERLOADED = "overloaded"  # 503 529
    SERVER_ERROR = "server_error"  # other 5xx: may have acted
    HEAD_TIMEOUT = "head_timeout"
    RESET = "reset"  # after the request, or a part of it, was sent
    BAD_ANSWER = "bad_answer"  # a head that is no HTTP, or is beyond the limits
    BROKEN = "broken"  # after the first response byte went to the client
    IMPATIENT = "impatient"  # the client's own timeout came before the head
    CLIENT_GONE = "client_gone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in an attempt. ``retry_after``: seconds the answer asked us to wait."""

    kind: Kind
    status: int | None = None  # of the upstream's answer; None where there was none
    retry_after: float | None = None
    code: str | None = None  # the error's code, for the record
    sent: bool = True  # whether any byte of the request had gone out (matters for STALE)


def read_outcome(
    status: int, fields: Sequence[tuple[bytes, bytes]], error_body: bytes | None = None, *, wall: float = 0.0
) -> Outcome:
    """Read an answer's head, and for an error the first 64 KiB of its content. ``wall``: Unix time, for HTTP dates."""
    raise NotImplementedError
