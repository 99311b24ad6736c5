"""What looking into a body costs: microseconds for a small one, megabytes per second for a large one.

Prints one line per case with its bound, and exits 1 if one is missed: ``python bench/inspection.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from timeit import repeat
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from relay.subjects.inspection import JSONPeek
from relay.subjects.multipart import MultipartPeek
from relay.subjects.pointers import Node, compile_pointers

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 64 << 10
TEXT = 'The quick brown fox jumps over the lazy dog, and "then" it sleeps.\nAll is quiet again, until tomorrow. '
CHAT = compile_pointers(
    [
        ("/model", "model"),
        ("/messages/*/content/*/file/file_id", "file"),
        ("/messages/*/audio/id", "chat_audio"),
        ("/audio/voice/id", "voice"),
    ]
)
RESPONSES = compile_pointers(
    [
        ("/previous_response_id", "response"),
        ("/input/*/id", "item"),
        ("/input/*/content/*/file_id", "file"),
        ("/input/*/encrypted_content", "encrypted_content"),
        ("/tools/*/vector_store_ids/*", "vector_store"),
    ]
)
Peek = JSONPeek | MultipartPeek


def chat() -> bytes:
    """A chat of five messages, 1.4 KB."""
    messages = [{"role": "user" if turn % 2 else "assistant", "content": TEXT * 2} for turn in range(5)]
    body = {"model": "gpt-4o", "messages": messages, "temperature": 0.7, "stream": True, "max_tokens": 100, "user": "u"}
    return json.dumps(body).encode()


def turn() -> bytes:
    """A later turn of a conversation with tools, 1.4 KB, with three ids in it."""
    said = [{"id": f"msg_{n}", "content": [{"type": "input_text", "text": TEXT * 2}]} for n in range(2)]
    tools = [{"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "function", "parameters": {"a": {}}}]
    later = {"model": "gpt-4o", "input": [*said, {"role": "user", "content": TEXT * 4}], "tools": tools, "stream": True}
    return json.dumps(later).encode()


def images() -> bytes:
    """20 MB of base64 in ten images, the model behind them."""
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO" * 500_000}}] * 10
    return json.dumps({"messages": [{"role": "user", "content": parts}], "model": "gpt-4o"}).encode()


def texts() -> bytes:
    """20 MB of short texts, as for embeddings."""
    return json.dumps({"input": [TEXT] * 190_000, "model": "e"}).encode()


def numbers() -> bytes:
    """10 MB of tokens."""
    return json.dumps({"input": [list(range(1000, 2000))] * 1600, "model": "e"}).encode()


def upload() -> bytes:
    """A form with one field and a file of 20 MB."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--xyz\r\n'
    head += b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return head + b'{"custom_id": "a"}\r\n--\n' * 900_000 + b"\r\n--xyz--\r\n"


def small_form() -> bytes:
    """A form of four fields."""
    part = '--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    fields = {"model": "whisper-1", "language": "en", "stream": "false", "prompt": "names"}
    return "".join(part % item for item in fields.items()).encode() + b"--xyz--\r\n"


def json_peek(tree: Node) -> Callable[[], Peek]:
    """Make scanners for a tree."""
    return lambda: JSONPeek(tree)


def form_peek() -> Peek:
    """Make a scanner for a form."""
    return MultipartPeek(b"multipart/form-data; boundary=xyz", CHAT)


def seconds(body: bytes, make: Callable[[], Peek], times: int) -> float:
    """The best time in which a body is looked through."""
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]

    def look() -> None:
        peek = make()
        for piece in pieces:
            peek.feed(piece)
        assert peek.done

    return min(repeat(look, number=times, repeat=5)) / times


SMALL = [  # microseconds at most
    ("chat of five messages", chat(), json_peek(CHAT), 30),
    ("turn with three ids", turn(), json_peek(RESPONSES), 80),
    ("form of four fields", small_form(), form_peek, 80),
]
LARGE = [  # megabytes per second at least
    ("images, model last", images, json_peek(CHAT), 150),
    ("short texts", texts, json_peek(CHAT), 100),
    ("tokens", numbers, json_peek(CHAT), 100),
    ("upload", upload, form_peek, 150),
]


def main() -> int:
    """Measure and print; 1 if a bound is missed."""
    missed = False
    for name, body, make, most in SMALL:
        cost = seconds(body, make, 2000) * 1e6
        missed |= cost > most
        print(f"{name:24} {len(body):>9} bytes  {cost:8.1f} us    (at most {most})")
    for name, build, make, least in LARGE:
        content = build()
        rate = len(content) / seconds(content, make, 1) / 1e6
        missed |= rate < least
        print(f"{name:24} {len(content):>9} bytes  {rate:8.0f} MB/s  (at least {least})")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
