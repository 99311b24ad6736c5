"""Every error that the proxy answers or raises.

A :class:`ProxyError` knows its status, its place in OpenAI's error shape, and nothing that must stay
inside: messages say what happened and what to do, and never hold a key, an upstream's address or a traceback.
It is raised where the fault is seen and turned into an answer once, at the border (``relay.requests.downstream``).

    ProxyError
    ├── BadRequest 400 ─ AmbiguousBody
    ├── InvalidKey 401
    ├── Forbidden 403
    ├── NotFound 404 ─ ModelNotFound
    ├── ClientTooSlow 408
    ├── ScopeConflict 409
    ├── ContentTooLarge 413
    ├── TargetTooLong 414
    ├── AllOut 429
    ├── HeadTooLarge 431
    ├── CodingNotImplemented 501
    ├── UpstreamFailure 502 ─ UpstreamTimeout 504
    ├── Unavailable 503
    └── VersionNotSupported 505
    ClientGone          the client left: nobody to answer
    ConfigError         the file is wrong; holds every problem found
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Fields = list[tuple[bytes, bytes]]


class ProxyError(Exception):
    """An error with an answer: ``status``, and OpenAI's ``type``, ``param`` and ``code``."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def fields(self) -> Fields:
        """Field lines that this error adds to its answer."""
        return []

    def body(self) -> bytes:
        """The answer's content: OpenAI's error object, as every SDK reads it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class BadRequest(ProxyError):
    """The request is malformed: framing, target, or a body that cannot be read."""

    status, type, code = 400, "invalid_request_error", "bad_request"


class AmbiguousBody(BadRequest):
    """The body names a thing twice; parsers disagree on which one counts."""

    code = "ambiguous_body"


class InvalidKey(ProxyError):
    """No key, or one that this proxy does not know."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"

    def fields(self) -> Fields:
        """RFC 9110 §15.5.2: a 401 names the scheme it wants."""
        return [(b"WWW-Authenticate", b"Bearer")]


class Forbidden(ProxyError):
    """A path that the file does not open."""

    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(ProxyError):
    """A path outside the mounts."""

    status, type, code = 404, "invalid_request_error", "unknown_path"


class ModelNotFound(NotFound):
    """A model name that nothing here serves."""

    code = "model_not_found"


class ClientTooSlow(ProxyError):
    """The client did not send its head or body in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class ScopeConflict(ProxyError):
    """Two resources of one request live under different keys."""

    status, type, code = 409, "invalid_request_error", "resource_scope_conflict"


class ContentTooLarge(ProxyError):
    """More content than ``limits.request_bytes``."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class TargetTooLong(ProxyError):
    """A request target beyond ``limits.target_bytes``."""

    status, type, code = 414, "invalid_request_error", "target_too_long"


class AllOut(ProxyError):
    """Every deployment that could answer is limited or full; ``retry_after`` seconds until one is not."""

    status, type, code = 429, "requests", "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = min(max(retry_after, 1.0), 60.0)  # what every SDK obeys

    def fields(self) -> Fields:
        """When to come back, in whole seconds and, as the SDKs prefer it, in milliseconds."""
        milliseconds = round(self.retry_after * 1000)
        seconds = -(-milliseconds // 1000)
        return [(b"Retry-After", b"%d" % seconds), (b"retry-after-ms", b"%d" % milliseconds)]


class HeadTooLarge(ProxyError):
    """A field section beyond ``limits.head_bytes`` or ``limits.head_fields``."""

    status, type, code = 431, "invalid_request_error", "head_too_large"


class CodingNotImplemented(ProxyError):
    """A transfer coding other than one ``chunked``."""

    status, type, code = 501, "invalid_request_error", "transfer_coding_not_implemented"


class UpstreamFailure(ProxyError):
    """An attempt failed; ``sent`` says whether the deployment may have acted on the request."""

    status, type, code = 502, "upstream_error", "upstream_error"

    def __init__(self, message: str, *, sent: bool, detail: str = "") -> None:
        super().__init__(message)
        self.sent = sent
        self.detail = detail or message  # for the record, not for the client: may name what the message must not


class UpstreamTimeout(UpstreamFailure):
    """The deployment did not connect or answer in time."""

    status, code = 504, "upstream_timeout"


class Unavailable(ProxyError):
    """Overloaded or draining: nothing was done with the request."""

    status, type, code = 503, "server_error", "unavailable"

    def fields(self) -> Fields:
        """The SDKs wait this long before they try again, here or at a neighbour."""
        return [(b"Retry-After", b"1")]


class VersionNotSupported(ProxyError):
    """An HTTP version other than 1.0 and 1.1."""

    status, type, code = 505, "invalid_request_error", "http_version_not_supported"


class ClientGone(Exception):
    """The client left before its exchange was over; nothing can be answered."""


class ConfigError(Exception):
    """The configuration cannot be served. ``problems`` are ready to print, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
