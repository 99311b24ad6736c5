"""How OpenAI heads its answers and words the refusals that no single resource owns."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from .messages import JSON, Answer, APIError, Fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .bodies import Blob
    from .heard import Heard
    from .projects import Project


def read_json(heard: Heard, content: Blob) -> JSON:
    """The members of a JSON body; other content types have none."""
    if not content.size or not heard.value(b"content-type").lower().startswith(b"application/json"):
        return {}
    if not content.whole:
        raise APIError(413, "The body is larger than what the demo upstream reads as JSON.")
    try:
        value: Any = json.loads(content.read())
    except ValueError:
        message = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        )
        raise APIError(400, message) from None
    if not isinstance(value, dict):
        raise APIError(400, "Invalid type for the request body: expected an object.")
    return value


def wrong_key(key: str) -> APIError:
    """OpenAI's 401, with the key masked as there."""
    if not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        return APIError(401, message)
    masked = f"{key[:4]}{'*' * 8}{key[-4:]}" if len(key) > 12 else "*" * len(key)  # noqa: PLR2004 shorter would show it
    message = f"Incorrect API key provided: {masked}. You can find your API key at https://platform.openai.com/account/api-keys."
    return APIError(401, message, code="invalid_api_key")


def rate_limited(model: str, project: Project, wait: float, limits: Fields) -> APIError:
    """OpenAI's 429 for a limit that refills."""
    message = (
        f"Rate limit reached for {model or 'default'} in organization {project.organization} on requests per min. "
        f"Please try again in {wait:.3f}s."
    )
    milliseconds = max(1, round(wait * 1000))
    when: Fields = [(b"retry-after", b"%d" % -(-milliseconds // 1000)), (b"retry-after-ms", b"%d" % milliseconds)]
    return APIError(429, message, type="requests", code="rate_limit_exceeded", fields=limits + when)


def identity(project: Project | None) -> Fields:
    """The field lines with which OpenAI says whose request it was; two cookies, since repeated lines must survive."""
    fields: Fields = [(b"openai-version", b"2020-10-01"), (b"openai-processing-ms", b"7")]
    if project is not None:
        fields += [
            (b"openai-organization", project.organization.encode()),
            (b"openai-project", project.id.encode()),
            (b"openai-poll-after-ms", b"10"),
        ]
    cookie = b"path=/; HttpOnly; Secure; SameSite=None"
    return [*fields, (b"Set-Cookie", b"__cf_bm=demo; " + cookie), (b"Set-Cookie", b"_cfuvid=demo; " + cookie)]


def compress(answer: Answer) -> None:
    """Code an answer with gzip; a stream is flushed at each of its pieces."""
    import zlib  # rare: only with ``gzip=True``

    coder = zlib.compressobj(wbits=31)
    answer.fields += [(b"Content-Encoding", b"gzip"), (b"Vary", b"Accept-Encoding")]
    if answer.stream is None:
        answer.body = coder.compress(answer.body) + coder.flush()
        return
    stream = answer.stream

    def coded() -> Iterator[bytes]:
        for piece in stream:
            yield coder.compress(piece) + coder.flush(zlib.Z_SYNC_FLUSH)
        yield coder.flush()

    answer.stream, answer.length = coded(), None


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date() -> bytes:
    """Now, as a ``Date`` field has it (RFC 9110 §5.6.7), in whatever locale."""
    now = time.gmtime()
    clock = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    return f"{DAYS[now.tm_wday]}, {now.tm_mday:02} {MONTHS[now.tm_mon - 1]} {now.tm_year} {clock} GMT".encode()
