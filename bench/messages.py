"""What load and upstream say to each other: requests, answers, events that carry the time, and where a message ends.

Only messages with ``Content-Length`` are cut, which is all that either side sends but for streams; those end with
``[DONE]`` and are searched for the times in them, so that it does not matter how somebody between cut them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
WISH = re.compile(rb'"user": ?"(\d+)x(\d+)us"')
TIME = re.compile(rb"t=(\d+);")
END = b"[DONE]"
MODEL = "gpt-4o"
PATH = "/v1/chat/completions"
QUESTION = "Hello! Tell me something short about reverse proxies and why they matter in restricted environments."
ANSWER = json.dumps(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there, how may I help you today?"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    }
).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"x-request-id: req_abc\r\nopenai-processing-ms: 12\r\n\r\n%b"
) % (len(ANSWER), ANSWER)
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req_abc\r\nopenai-processing-ms: 12\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":[{"index":0,'
    b'"delta":{"content":"t=%d;"},"logprobs":null,"finish_reason":null}]}\n\n'
)
LARGE_EVENT = EVENT.replace(b"t=%d;", b"t=%d;" + b" words" * 2500)  # 15 KB
LAST = b"data: [DONE]\n\n"
HEAD = """\
POST {path} HTTP/1.1\r
Host: 127.0.0.1\r
Content-Type: application/json\r
Authorization: Bearer {key}\r
User-Agent: OpenAI/Python 1.99.0\r
Accept: application/json\r
X-Stainless-Lang: python\r
X-Stainless-OS: Linux\r
X-Stainless-Runtime: CPython\r
Content-Length: {length}\r
\r
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a stream shall be: so many events, one each so many microseconds; 0 is as fast as they are taken."""

    events: int
    every_us: int

    def __str__(self) -> str:
        return f"{self.events}x{self.every_us}us"


def wish_of(request: bytes) -> Wish | None:
    """What a request wishes for; none if it wants an answer in one piece."""
    found = WISH.search(request)
    return Wish(int(found[1]), int(found[2])) if found else None


def small_body(wish: Wish | None = None) -> bytes:
    """A chat request of usual size. ``user`` carries the wish, since every peer hands that on."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": QUESTION}]
    body = {"model": MODEL, "messages": messages, "temperature": 0.7, "stream": wish is not None}
    return json.dumps({**body, "user": str(wish) if wish else "u-123456"}).encode()


def request(body: bytes, key: str, path: str = PATH) -> bytes:
    """A request as the SDK writes it, with fewer lines."""
    return HEAD.format(path=path, key=key, length=len(body)).encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def length_of(data: bytes | bytearray) -> int:
    """How long the message is that ``data`` begins with; 0 while its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    found = LENGTH.search(data, 0, end)
    return end + 4 + (int(found[1]) if found else 0)


class Framer:
    """Cuts messages out of what comes in pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._need = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every message that is complete now."""
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return
            data = bytes(self._held)
            self._held.clear()
        while data:
            self._need = length_of(data)
            if not self._need or len(data) < self._need:
                self._held += data
                return
            yield data[: self._need]
            data = data[self._need :]
