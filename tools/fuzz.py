"""Throw bytes at everything that reads bytes: ``python tools/fuzz.py TARGET [SECONDS]`` (60), or ``--list``.

Needs ``atheris`` (libFuzzer for Python), which nothing else here does. Each target states what must hold for any bytes
whatever, mostly by asking somebody else too: h11, ``json``, the same reader in pieces of another size. The seeds are
the messages of ``tests/requests`` and ``tests/responses``, and a few bodies. ``tests/test_fuzz.py`` throws a little at
each target in every run of the suite; what is found here becomes a file of the corpus, or a case of a reader's test.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import h11

from relay.errors import AmbiguousBody, ConfigError, ProxyError
from relay.reading.configfile import parse_config
from relay.record.tap import LARGEST_EVENT, SSESplitter
from relay.requests.targets import parse_target, readings
from relay.subjects.inspection import JSONPeek, Splicer
from relay.subjects.multipart import MultipartPeek
from relay.subjects.pointers import compile_pointers
from relay.wire.fields import check_partial_head, parse_request_head, parse_response_head, recall_request_head
from relay.wire.framing import END, NEED_DATA, ChunkedReader, MalformedContent, request_framing, response_framing
from tests.corpus import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.wire.heads import Head, RequestHead

FIELDS, TARGET_BYTES, HEAD_BYTES = 100, 16 << 10, 1 << 30
TYPE = b"multipart/form-data; boundary=b"
LONGEST_SEED = 100_000
EMPTY = compile_pointers([])
HEAD_END = b"\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def length_of(head: Head) -> int | None:
    """What Content-Length says, after it was checked."""
    value = head.get(b"content-length")
    return int(value.split(b",")[0]) if value else None


def parsed(raw: bytes) -> RequestHead | None:
    """A request's head, or None where it is refused."""
    try:
        return parse_request_head(raw, FIELDS, TARGET_BYTES)
    except ProxyError:
        return None


def is_recalled(raw: bytes) -> bool:
    """Whether it is taken for a head that is known."""
    try:
        recall_request_head(raw, FIELDS, TARGET_BYTES)
    except ProxyError:
        return False
    return True


def request_head(data: bytes) -> None:
    """A head that is read here is read by h11 too, with the same lines; known heads are what a parse makes of them."""
    raw = data.partition(HEAD_END)[0] + HEAD_END
    head = parsed(raw)
    if head is None:
        assert not is_recalled(raw)
        return
    for _ in range(2):
        known, length = recall_request_head(raw, FIELDS, TARGET_BYTES)
        assert (known.method, known.target, known.version) == (head.method, head.target, head.version)
        assert known.fields == [line for line in head.fields if line[0].lower() != b"content-length"]
        assert length == length_of(head)
    for at in range(1, len(raw) - 1, max(1, len(raw) // 20)):
        check_partial_head(raw[:at], HEAD_BYTES, TARGET_BYTES)
    try:
        request_framing(head.method, head.version, head.framing, length_of(head))
    except ProxyError:
        return
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    server.receive_data(raw)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    assert {name.lower() for name, _ in head.fields} == {bytes(name) for name, _ in event.headers}


def response_head(data: bytes) -> None:
    """The same for what upstreams say."""
    raw = data.partition(HEAD_END)[0] + HEAD_END
    try:
        head = parse_response_head(raw, FIELDS)
        if head.status >= 200:  # noqa: PLR2004 - interim ones have no framing
            response_framing(b"GET", head.status, head.version, head.framing, length_of(head))
    except ProxyError:
        return
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h"), ("Upgrade", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == head.status
    assert {name.lower() for name, _ in head.fields} == {bytes(name) for name, _ in event.headers}


def read_chunks(data: bytes, size: int) -> tuple[bytes, bool, bytes] | None:
    """Content, whether it ended, what is left; None where it is refused."""
    reader, buffer, found = ChunkedReader(), bytearray(), b""
    for piece in pieces(data, size):
        buffer += piece
        if reader.ended:
            continue
        try:
            while (event := reader.read(buffer)) not in {NEED_DATA, END}:
                assert isinstance(event, bytes)
                found += event
        except MalformedContent:
            return None
    return found, reader.ended, bytes(buffer)


def chunks(data: bytes) -> None:
    """Never laxer than h11, and the same in pieces of any size."""
    whole, split = read_chunks(data, len(data) or 1), read_chunks(data, 1 + len(data) // 1000)
    if whole is None or not whole[1]:
        assert split is None or not split[1]
        return
    assert split == whole
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    server.receive_data(CHUNKED + data)
    server.next_event()
    found = b""
    while isinstance(event := server.next_event(), h11.Data):
        found += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (found, bytes(server.trailing_data[0])) == (whole[0], whole[2])


def target(data: bytes) -> None:
    """What passes has no segment of dots in any reading, and stays below its mount."""
    raw = b"/v1/" + re.sub(rb"[^\x21-\x7e]|[#\\]", b"", data)
    try:
        found = parse_target(raw, allow_admin=False)
    except ProxyError:
        return
    assert found is not None
    assert found.path.startswith(b"/")
    for reading in readings(found.path):
        assert not {b".", b".."} & {segment.partition(b";")[0] for segment in re.split(rb"[/\\]", reading)}
        assert not re.match(rb"(?i)/+(v1/+)*(organization|projects)(/|$)", reading)


def json_body(data: bytes) -> None:
    """The model that is found is the one that a decoder finds; spliced, it is the one put there, and nothing else."""
    outcomes = [peek_into(data, size) for size in (len(data) or 1, 7)]
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict) or None in outcomes:
        assert not isinstance(value, dict) or is_ambiguous(data)
        return
    for peek in outcomes:
        assert peek is not None
        model = value.get("model")
        if isinstance(model, str) and model.isprintable() and model.isascii():
            assert peek.model is not None
            assert peek.model.value == model
            splicer = Splicer(peek.splices("another"))
            changed = json.loads(splicer.feed(data) + splicer.finish())
            value.pop("target_model_names", None)
            assert changed == {**value, "model": "another"} or value != value  # noqa: PLR0124 - NaN


def peek_into(data: bytes, size: int) -> JSONPeek | None:
    """What is found in pieces of ``size``; None where the body is refused."""
    peek = JSONPeek(EMPTY)
    try:
        for piece in pieces(data, size):
            peek.feed(piece)
    except ProxyError:
        return None
    peek.finish()
    return peek


def is_ambiguous(data: bytes) -> bool:
    """Whether an object says a member of ours twice; a decoder would not mind."""
    peek = JSONPeek(EMPTY)
    try:
        peek.feed(data)
    except AmbiguousBody:
        return True
    return False


def form(data: bytes) -> None:
    """Read or refused, the same in pieces of any size."""
    found: list[tuple[object, ...] | None] = []
    for size in (len(data) or 1, 1, 7):
        peek = MultipartPeek(TYPE, EMPTY)
        try:
            for piece in pieces(data, size):
                peek.feed(piece)
        except ProxyError:
            found.append(None)
            continue
        peek.finish()
        splicer = Splicer(peek.splices("another"))
        changed = splicer.feed(data) + splicer.finish()
        found.append((peek.model and peek.model.value, peek.target_names, changed))
    assert found[0] == found[1] == found[2]


def events(data: bytes) -> None:
    """The same events in pieces of any size."""
    found = []
    for size in (len(data) or 1, 1, 7):
        splitter = SSESplitter()
        read = [event for piece in pieces(data, size) for event in splitter.feed(piece)]
        found.append([*read, *splitter.finish()])
    assert len(data) > LARGEST_EVENT or found[0] == found[1] == found[2]


def configuration(data: bytes) -> None:
    """Served, or every problem said; nothing else."""

    def no_file(name: str) -> str:
        raise FileNotFoundError(2, "No such file", name)

    try:
        text = data.decode()
    except UnicodeError:
        return
    with suppress(ConfigError):
        parse_config(text, "config.yaml", {"KEY": "sk-1"}, no_file)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """``data`` in pieces."""
    return (data[at : at + size] for at in range(0, len(data), size))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request-head": request_head,
    "response-head": response_head,
    "chunks": chunks,
    "target": target,
    "json": json_body,
    "form": form,
    "events": events,
    "config": configuration,
}
BODIES = {
    "json": [
        rb'{"model":"m","target_model_names":["a"],"input":["\"model\":\"x\"",{"model":1}],"stream":true}',
        rb'{"mod\u0065l":"\u006d","a":[[{"b":{}}],-1.5e+3,null],"model":"n"}',
    ],
    "form": [
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n',
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\nX: y\r\n\r\n\r\n--\r\n--b--\r\n',
        b'--b\r\ncontent-disposition: form-data; name="target_model_names[]"\r\nContent-Length: 1\r\n\r\na\r\n--b--',
    ],
    "events": [b"\xef\xbb\xbfdata: {}\n\nevent: x\r\ndata: a\r\ndata:b\r\n\r\n:c\r\rdata\n\n"],
    "target": [b"a/%2e%2e/b", b"x/..;/y?z=../", b"%6frganization", b"v1/projects", b"a%252e%5c"],
}


def seeds(name: str) -> list[bytes]:
    """Where the walk of a target begins."""
    if name in BODIES:
        return BODIES[name]
    if name == "config":
        return [(Path(__file__).parents[1] / "config.example.yaml").read_bytes()]
    kinds = ("responses",) if name == "response-head" else ("requests",)
    said = [case.said for kind in kinds for side in ("valid", "invalid") for case in cases(f"{kind}/{side}")]
    said = [text for text in said if len(text) < LONGEST_SEED]
    if name == "chunks":
        return [body for text in said if b"chunked" in text and (body := text.partition(HEAD_END)[2])]
    return said


def main() -> int:
    """Fuzz one target until the time is over or something breaks."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:  # noqa: PLR2004 - the name
        print("\n".join(TARGETS))
        return 0 if "--list" in sys.argv else 2
    import atheris  # type: ignore[import-untyped, unused-ignore]

    name, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60  # noqa: PLR2004
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], folder, f"-max_total_time={seconds}", "-max_len=4096"], TARGETS[name])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
