"""The record as JSON, as a line for people and as attributes; the queue that never makes the loop wait."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import LoggingSettings
from relay.record import lines as room
from relay.record import logqueue
from relay.record.lines import FIELDS, ExchangeRecord, HumanFormatter, JSONFormatter, rfc3339
from relay.record.log import EXCHANGE_LOGGER, LineFront, emit, setup_logging
from relay.record.logqueue import BatchHandler, LineWriter, LogQueue, QueueFront, write_all
from relay.record.usage import UNMETERED, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = 10  # seconds that nothing here takes
SOME_LOGGER = logging.getLogger("passthrough.server")


def exchange(**changes: Any) -> ExchangeRecord:
    record = ExchangeRecord(
        time=1767225599.0125,
        id="req_1",
        client="team",
        method="POST",
        path="/v1/chat/completions?key=secret",
        endpoint="/chat/completions",
        group="gpt-4",
        model="gpt-4",
        deployment="eu",
        scope="acme",
        reason="model",
        attempts=[
            {"deployment": "us", "outcome": "rate_limited", "status": 429, "ms": 12.5},
            {"deployment": "eu", "outcome": "ok", "status": 200, "ms": 800.25},
        ],
        status=200,
        outcome="ok",
        bytes_in=1532,
        bytes_out=616,
        first_byte_ms=430.1,
        total_ms=812.7,
        upstream_request_id="req_up",
        usage=Usage(1117, 1024, 0, 5, 0, 46, 32, 6),
        cost=Decimal("7.0425E-4"),
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


LINE = {
    "time": "2025-12-31T23:59:59.012Z",
    "id": "req_1",
    "client": "team",
    "method": "POST",
    "path": "/v1/chat/completions",
    "endpoint": "/chat/completions",
    "group": "gpt-4",
    "model": "gpt-4",
    "deployment": "eu",
    "scope": "acme",
    "reason": "model",
    "attempts": [
        {"deployment": "us", "outcome": "rate_limited", "status": 429, "ms": 12.5},
        {"deployment": "eu", "outcome": "ok", "status": 200, "ms": 800.25},
    ],
    "status": 200,
    "outcome": "ok",
    "bytes_in": 1532,
    "bytes_out": 616,
    "first_byte_ms": 430.1,
    "total_ms": 812.7,
    "upstream_request_id": "req_up",
    "usage": {
        "input_tokens": 1117,
        "cached_tokens": 1024,
        "output_tokens": 46,
        "reasoning_tokens": 32,
        "audio_tokens": 11,
    },
    "cost": Decimal("0.00070425"),
    "error": None,
}


class Catcher(logging.Handler):
    """Keeps what it is given, on the thread that gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Stuck(Catcher):
    """A handler whose collector does not answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.let_go.wait(WAIT)
        super().emit(record)


@pytest.fixture
def catcher() -> Iterator[Catcher]:
    handler = Catcher()
    level = EXCHANGE_LOGGER.level
    EXCHANGE_LOGGER.addHandler(handler)
    EXCHANGE_LOGGER.setLevel(logging.INFO)
    yield handler
    EXCHANGE_LOGGER.removeHandler(handler)
    EXCHANGE_LOGGER.setLevel(level)


def strict(line: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse, parse_float=lambda text: Decimal(text) if "e" not in text else text)


def plain(value: Any) -> Any:
    """The expected line as ``strict`` reads it: every fraction an exact decimal."""
    return strict(room.encode(value))


def test_a_record_is_one_line_with_exactly_the_names_of_the_specification(catcher: Catcher) -> None:
    emit(exchange())
    line = JSONFormatter().format(catcher.records[0])
    assert strict(line) == plain(LINE)
    assert list(json.loads(line)) == list(FIELDS) == list(LINE)
    assert '"cost":0.00070425,' in line
    assert "secret" not in line


def test_the_fields_are_attributes_beside_loggings_own(catcher: Catcher) -> None:
    emit(exchange())
    (record,) = catcher.records
    assert {name: getattr(record, name) for name in FIELDS} == LINE
    assert set(logging.makeLogRecord({}).__dict__) <= set(record.__dict__)
    assert not set(logging.makeLogRecord({}).__dict__) & set(FIELDS)
    assert record.getMessage() == "POST /v1/chat/completions 200 in 813 ms at eu"
    assert (record.levelname, record.name, record.process) == ("INFO", "passthrough.exchange", os.getpid())


def test_an_empty_record_is_a_line_too(catcher: Catcher) -> None:
    emit(ExchangeRecord(0.0, "req_2"))
    line = strict(JSONFormatter().format(catcher.records[0]))
    assert line["time"] == "1970-01-01T00:00:00.000Z"
    assert line["attempts"] == []
    assert line["usage"] is line["cost"] is line["status"] is None
    assert HumanFormatter().format(catcher.records[0]).endswith("None in 0 ms at nowhere")


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (UNMETERED, "unmetered"),
        (None, None),
        (
            Usage(seconds=Decimal("8.470"), cache_write_tokens=3, service_tier="flex"),
            {
                "input_tokens": 0,
                "cached_tokens": 0,
                "output_tokens": 0,
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "cache_write_tokens": 3,
                "seconds": Decimal("8.470"),
                "service_tier": "flex",
            },
        ),
    ],
)
def test_usage_reads_as_it_is(catcher: Catcher, usage: Any, shown: Any) -> None:
    emit(exchange(usage=usage))
    assert strict(JSONFormatter().format(catcher.records[0]))["usage"] == shown


def test_hostile_values_stay_inside_their_strings(catcher: Catcher) -> None:
    emit(exchange(model='a"\n\x1b[31m\ud800\u2028', error="line\nbreak\x07", first_byte_ms=float("nan"), path="/\x1b"))
    line = JSONFormatter().format(catcher.records[0])
    assert line.isascii()
    assert "\n" not in line
    assert strict(line)["model"] == 'a"\n\x1b[31m\ud800\u2028'
    assert strict(line)["first_byte_ms"] is None
    human = HumanFormatter().format(catcher.records[0])
    assert human.isprintable()
    assert "\\x1b" in human
    assert human.endswith(": line\\nbreak\\x07")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("NaN"), "null"),
        (Decimal("1E-9"), "0.000000001"),
        (float("inf"), "null"),
        (True, "true"),
        ((1, "a", None), '[1,"a",null]'),
        ({1: 2.5}, '{"1":2.5}'),
        (Path("/a"), '"/a"'),
    ],
)
def test_every_value_is_strict_json(value: Any, text: str) -> None:
    assert room.encode(value) == text


TEXT = st.none() | st.text(max_size=20)
MILLISECONDS = st.floats(0, 1e6)
ROWS: st.SearchStrategy[Any] = st.builds(
    dict,
    deployment=st.text(max_size=9),
    outcome=st.sampled_from(["ok", "reset"]),
    status=st.none() | st.integers(100, 599),
    ms=MILLISECONDS,
)
COUNTS = st.sampled_from([0, 7, 1 << 40])
USAGES = st.builds(
    Usage,
    COUNTS,
    COUNTS,
    cache_write_tokens=COUNTS,
    input_audio_tokens=COUNTS,
    output_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    output_audio_tokens=COUNTS,
    seconds=st.none() | st.decimals(0, 9, places=2),
    images=COUNTS,
    service_tier=st.sampled_from([None, "flex"]),
)
EXCHANGES = st.builds(
    ExchangeRecord,
    time=st.floats(0, 4e9),
    id=st.just("pt-1"),
    client=TEXT,
    method=st.text(max_size=9),
    path=st.text(max_size=20),
    endpoint=TEXT,
    group=TEXT,
    model=TEXT,
    deployment=TEXT,
    scope=TEXT,
    reason=TEXT,
    attempts=st.lists(ROWS, min_size=1, max_size=1) | st.lists(ROWS, max_size=3),
    status=st.none() | st.integers(100, 599),
    outcome=TEXT,
    bytes_in=st.integers(0, 1 << 60),
    first_byte_ms=st.none() | MILLISECONDS,
    total_ms=st.none() | MILLISECONDS,
    upstream_request_id=TEXT,
    usage=st.sampled_from([None, UNMETERED]) | USAGES,
    cost=st.none() | st.decimals(0, 9, places=12),
    error=TEXT,
)


@given(EXCHANGES)
def test_a_line_says_the_same_whether_a_record_was_made_or_not(it: ExchangeRecord) -> None:
    caught = Catcher()
    EXCHANGE_LOGGER.addHandler(caught)
    level = EXCHANGE_LOGGER.level
    EXCHANGE_LOGGER.setLevel(logging.INFO)
    try:
        emit(it)
    finally:
        EXCHANGE_LOGGER.removeHandler(caught)
        EXCHANGE_LOGGER.setLevel(level)
    path = it.path.partition("?")[0]
    line = room.line_of(it, path)
    assert strict(line) == strict(JSONFormatter().format(caught.records[0]))
    assert list(json.loads(line)) == list(FIELDS)


def test_the_pieces_that_lines_share_are_bounded() -> None:
    for number in range(2 * room.MOST_PIECES):
        assert f'"model":"m{number}"' in room.line_of(exchange(model=f"m{number}"), "/")
    assert len(room._pieces) <= room.MOST_PIECES


def test_a_line_for_people(catcher: Catcher) -> None:
    emit(exchange(error="upstream reset"))
    assert HumanFormatter().format(catcher.records[0])[9:] == (
        "POST /v1/chat/completions 200 in 813 ms at eu, first byte 430 ms, 2 attempts, 1117+46 tokens, $0.00070425: "
        "upstream reset"
    )


def test_events_read_as_time_level_logger_and_message() -> None:
    record = logging.LogRecord("passthrough.server", logging.WARNING, "x", 1, "%s of %d", ("one", 2), None)
    record.created = 1767225599.9999
    assert JSONFormatter().format(record) == (
        '{"time":"2026-01-01T00:00:00.000Z","level":"WARNING","logger":"passthrough.server","message":"one of 2"}'
    )
    assert HumanFormatter().format(record)[9:] == "warning: one of 2"


def test_events_keep_their_exception() -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        record = logging.LogRecord("asyncio", logging.ERROR, "x", 1, "failed", None, sys.exc_info())
    assert json.loads(JSONFormatter().format(record))["exception"].endswith("ValueError: oh")
    assert HumanFormatter().format(record).splitlines()[-1] == "ValueError: oh"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1.9996, "1970-01-01T00:00:02.000Z"), (1.0004, "1970-01-01T00:00:01.000Z")],
)
def test_times_are_rounded_to_milliseconds(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


def test_nothing_is_made_of_a_record_that_nobody_asked_for(catcher: Catcher) -> None:
    EXCHANGE_LOGGER.setLevel(logging.WARNING)
    emit(exchange())
    assert catcher.records == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "json_logs", "as_json"),
    [
        (io.StringIO, None, True),
        (Terminal, None, False),
        (Terminal, True, True),
        (io.StringIO, False, False),
    ],
)
def test_records_go_to_stdout_and_events_to_stderr(
    stream: type[io.StringIO], json_logs: bool | None, as_json: bool
) -> None:
    out, errors = stream(), io.StringIO()
    stopper = setup_logging(LoggingSettings(json_logs=json_logs), level="info", stream=out, errors=errors)
    emit(exchange())
    SOME_LOGGER.info("listening on %d", 4000)
    SOME_LOGGER.debug("not this")
    logging.getLogger("asyncio").error("task died")
    stopper.stop()
    emit(exchange())  # nobody listens any more
    assert out.getvalue().startswith("{") is as_json
    assert len(out.getvalue().splitlines()) == 1
    assert [("listening on 4000" in line, "task died" in line) for line in errors.getvalue().splitlines()] == [
        (True, False),
        (False, True),
    ]
    assert stopper.dropped == 0


def test_the_level_silences_records_too() -> None:
    out = io.StringIO()
    stopper = setup_logging(LoggingSettings(), level="WARNING", stream=out)
    emit(exchange())
    stopper.stop()
    assert out.getvalue() == ""


def test_stop_puts_the_tree_back() -> None:
    root, logger = logging.getLogger(), logging.getLogger("passthrough")
    before = (list(root.handlers), list(EXCHANGE_LOGGER.handlers), EXCHANGE_LOGGER.propagate, logger.level)
    stopper = setup_logging(LoggingSettings(), level="DEBUG", stream=io.StringIO(), errors=io.StringIO())
    assert logger.level == logging.DEBUG
    stopper.stop()
    stopper.stop()
    assert (list(root.handlers), list(EXCHANGE_LOGGER.handlers), EXCHANGE_LOGGER.propagate, logger.level) == before


def configured(**handler: Any) -> LoggingSettings:
    return LoggingSettings(
        dict_config={
            "handlers": {"h": handler},
            "loggers": {"passthrough": {"handlers": ["h"], "propagate": False}},
        }
    )


def test_a_configured_handler_stands_behind_the_queue() -> None:
    handler = Stuck()
    stopper = setup_logging(configured(**{"()": lambda: handler}))
    assert isinstance(logging.getLogger("passthrough").handlers[0], QueueFront)
    emit(exchange())  # would wait for ever if the handler were called here
    assert handler.entered.wait(WAIT)
    assert handler.records == []
    handler.let_go.set()
    stopper.stop(WAIT)
    assert handler.records[0].__dict__["deployment"] == "eu"
    assert logging.getLogger("passthrough").handlers == [handler]
    logging.getLogger("passthrough").handlers.clear()


def test_a_configuration_that_is_none_is_refused_and_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="Unable to configure handler 'h'"):
        setup_logging(configured(**{"class": "no.such.Handler"}))
    with pytest.raises(ValueError, match="Unknown level"):
        setup_logging(LoggingSettings(), level="loud", stream=io.StringIO())
    assert not any(isinstance(handler, QueueFront) for handler in logging.getLogger().handlers)
    logging.getLogger("passthrough").handlers.clear()


def test_a_levels_own_handler_and_logger_are_respected() -> None:
    handler = Catcher()
    settings = LoggingSettings(
        dict_config={
            "handlers": {"h": {"()": lambda: handler, "level": "ERROR"}},
            "loggers": {"passthrough": {"handlers": ["h"], "level": "WARNING", "propagate": False}},
        }
    )
    stopper = setup_logging(settings, level="DEBUG")
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        SOME_LOGGER.log(level, "x")
    stopper.stop()
    assert [record.levelno for record in handler.records] == [logging.ERROR]
    logging.getLogger("passthrough").handlers.clear()
    logging.getLogger("passthrough").setLevel(logging.NOTSET)


def record_of(text: str = "x") -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": logging.INFO})


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    handler, queue = Stuck(), LogQueue(capacity=5)
    front = QueueFront(queue, [handler])
    front.handle(record_of("first"))
    assert handler.entered.wait(WAIT)
    for number in range(8):
        front.handle(record_of(str(number)))
    assert queue.dropped == 3
    handler.let_go.set()
    queue.stop(WAIT)
    assert [record.msg for record in handler.records] == ["first", "0", "1", "2", "3", "4"]
    front.handle(record_of())
    assert queue.dropped == 4


@contextmanager
def lines_to(stream: TextIO, *, capacity: int = 4096) -> Iterator[LogQueue]:
    """The default handler of exchanges, alone."""
    queue = LogQueue(capacity)
    before, level = EXCHANGE_LOGGER.handlers, EXCHANGE_LOGGER.level
    EXCHANGE_LOGGER.handlers = [LineFront(queue, LineWriter(queue, stream, JSONFormatter()))]
    EXCHANGE_LOGGER.setLevel(logging.INFO)
    try:
        yield queue
    finally:
        EXCHANGE_LOGGER.handlers = before
        EXCHANGE_LOGGER.setLevel(level)
        queue.stop(WAIT)


def test_lines_that_do_not_fit_are_dropped_and_counted() -> None:
    stream = io.StringIO()
    with lines_to(stream, capacity=3) as queue:
        queue._thread = threading.Thread()  # not started: nobody takes anything
        for _ in range(5):
            emit(exchange())
        assert queue.dropped == 2
        queue._start()
        queue.stop(WAIT)
        emit(exchange())
        assert queue.dropped == 3  # after the end
    assert stream.getvalue().count("\n") == 3


def test_what_cannot_be_a_line_is_counted_and_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with lines_to(stream) as queue:
        emit(exchange(attempts=[{}]))
        emit(exchange())
        assert queue.dropped == 1
    assert stream.getvalue().count("\n") == 1
    assert "LineWriter failed" in capfd.readouterr().err


def test_lines_of_a_thread_that_is_stuck_are_counted_at_the_end() -> None:
    gate, entered = threading.Event(), threading.Event()

    class Held(io.StringIO):
        def write(self, text: str) -> int:
            entered.set()
            gate.wait(WAIT)
            return super().write(text)

    with lines_to(Held()) as queue:
        emit(exchange())
        assert entered.wait(WAIT)
        for _ in range(3):
            emit(exchange())
        queue.stop(0.01)
        assert queue.dropped == 3  # one is being written
        gate.set()


def test_who_listens_beside_the_default_gets_a_record_and_it_says_the_same(catcher: Catcher) -> None:
    stream = io.StringIO()
    with lines_to(stream):
        emit(exchange())
        EXCHANGE_LOGGER.addHandler(catcher)
        emit(exchange())
    one, other = stream.getvalue().splitlines()
    assert strict(one) == strict(other) == strict(JSONFormatter().format(catcher.records[0]))


def test_a_forked_writer_begins_anew() -> None:
    stream = io.StringIO()
    with lines_to(stream) as queue:
        queue._thread = threading.Thread()  # not started
        emit(exchange())
        queue.forked()
        emit(exchange(id="pt-child"))
    assert [strict(line)["id"] for line in stream.getvalue().splitlines()] == ["pt-child"]


def test_a_stuck_handler_holds_up_the_end_for_its_patience_only() -> None:
    handler, queue = Stuck(), LogQueue()
    for _ in range(3):
        queue.put([handler], record_of())
    assert handler.entered.wait(WAIT)
    queue.put([handler], record_of())
    queue.stop(0)
    assert queue.dropped >= 1
    handler.let_go.set()


def test_a_record_that_is_none_does_not_end_the_thread() -> None:
    handler, queue = Catcher(), LogQueue()
    queue.put([handler], logging.makeLogRecord({"levelno": None}))
    queue.put([BatchHandler()], record_of("nowhere to write it to"))
    queue.put([handler], record_of("next"))
    queue.stop(WAIT)
    assert [record.msg for record in handler.records] == ["next"]
    assert queue.dropped == 2


def test_a_configuration_is_not_changed_by_being_used() -> None:
    settings = configured(**{"()": Catcher, "level": "ERROR"})
    for _ in range(2):  # as on reload
        setup_logging(settings).stop()
    assert settings == configured(**{"()": Catcher, "level": "ERROR"})
    logging.getLogger("passthrough").handlers.clear()


def test_more_than_a_batch_leaves_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logqueue, "BATCH", 4)
    handler, queue = Catcher(), LogQueue()
    for number in range(50):
        queue.put([handler], record_of(str(number)))
    queue.stop(WAIT)
    assert [record.msg for record in handler.records] == [str(number) for number in range(50)]


class Failing(logging.Handler):
    def __init__(self, *, politely: bool) -> None:
        super().__init__()
        self.politely = politely

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError("no route to collector")
        except OSError:
            if not self.politely:
                raise
            self.handleError(record)


@pytest.mark.parametrize("politely", [True, False])
def test_a_failing_handler_is_counted_and_said_once(politely: bool, capfd: pytest.CaptureFixture[str]) -> None:
    handler, other, queue = Failing(politely=politely), Catcher(), LogQueue()
    front = QueueFront(queue, [handler, other])
    for _ in range(3):
        front.handle(record_of())
    queue.stop(WAIT)
    assert queue.dropped == 3
    assert len(other.records) == 3
    assert capfd.readouterr().err == "log handler Failing failed: no route to collector\n"


def test_a_reader_that_has_gone_is_counted_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
        stopper = setup_logging(LoggingSettings(), stream=stream)
        for _ in range(3):
            emit(exchange())
        stopper.stop()
        assert stopper.dropped == 3
    assert "Traceback" not in capfd.readouterr().err


def test_lines_leave_at_once_where_a_pipe_has_room() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as lines, open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123
        os.set_blocking(reader, False)
        with lines_to(stream) as queue:
            emit(exchange(id="one"), exchange(id="two"))
            said = [json.loads(line)["id"] for line in (lines.read(65_536) or b"").splitlines()]
            assert said == ["one", "two"]
            assert queue._thread is None
            assert os.get_blocking(writer)  # whoever shares it finds it as it was


def test_a_full_pipe_holds_nobody_up_and_loses_no_line() -> None:
    """The thread waits for the reader; what is said meanwhile comes behind that, in its order."""
    reader, writer = os.pipe()
    said = [f"{number:05}" for number in range(1000)]  # some 400 KiB, in a pipe of 64
    with open(reader, "rb") as lines, open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123
        with lines_to(stream) as queue:
            for id in said:  # noqa: A001 - the record's word
                emit(exchange(id=id))
            heard = [json.loads(lines.readline())["id"] for _ in said]
            assert queue.dropped == 0
        assert heard == said


def test_a_line_longer_than_a_pipe_takes_whole_is_left_to_the_thread() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as lines, open(writer, "w", encoding="utf-8") as stream, lines_to(stream):  # noqa: PTH123
        emit(exchange(id="one"), exchange(id="two", error="x" * 10_000), exchange(id="three"))
        assert [json.loads(lines.readline())["id"] for _ in range(3)] == ["one", "two", "three"]


def test_a_file_takes_what_is_said_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream, lines_to(stream) as queue:
        emit(*[exchange(id=str(number)) for number in range(2000)])
        assert len((tmp_path / "log").read_text().splitlines()) == 2000
        assert queue._thread is None


def test_a_full_disk_is_counted_line_by_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream, lines_to(stream) as queue:  # noqa: PTH123
        emit(exchange(), exchange())
        assert queue.dropped == 2


def test_a_closed_stream_is_counted_too() -> None:
    queue, stream = LogQueue(), io.StringIO()
    writer = LineWriter(queue, stream, JSONFormatter())
    stream.close()
    queue.put([writer], record_of())
    queue.stop(WAIT)
    assert queue.dropped == 1


def test_every_byte_goes_into_a_pipe_that_does_not_block() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)
    thread = threading.Thread(target=write_all, args=(writer, data))
    thread.start()
    with open(reader, "rb") as stream:  # noqa: PTH123 - a descriptor
        assert stream.read(len(data)) == data
    thread.join(WAIT)
    os.close(writer)


def test_a_reader_gone_while_we_wait_is_an_error() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        write_all(writer, b"x")
    os.close(writer)


def run(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


START = """
import os, sys
from relay.config import LoggingSettings
from relay.record.lines import ExchangeRecord
from relay.record.log import emit, setup_logging
stopper = setup_logging(LoggingSettings())
"""


def test_records_are_flushed_at_exit() -> None:
    done = run(START + "for number in range(1000): emit(ExchangeRecord(0, str(number)))")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [str(number) for number in range(1000)]
    assert (done.returncode, done.stderr) == (0, "")


def test_each_process_writes_its_own_records_after_a_fork() -> None:
    done = run(
        START
        + """
emit(ExchangeRecord(0, "parent"))
child = os.fork()
emit(ExchangeRecord(0, f"{'parent' if child else 'child'} later"))
if not child:
    stopper.stop()
    os._exit(0)
os.waitpid(child, 0)
"""
    )
    assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == [
        "child later",
        "parent",
        "parent later",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stdout_leaves_no_traceback_and_no_exit_status() -> None:
    done = run(
        START
        + """
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
emit(ExchangeRecord(0, "x"))
"""
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 0


def test_logging_config_is_not_imported_for_the_default() -> None:
    done = run(START + "print([name for name in ('logging.config', 'zlib', 'socketserver') if name in sys.modules])")
    assert done.stdout == "[]\n"


def test_a_forked_queue_begins_anew() -> None:
    handler, queue = Stuck(), LogQueue(capacity=1)
    queue.put([handler], record_of("the parent's"))
    assert handler.entered.wait(WAIT)
    queue.put([handler], record_of("the parent's too"))
    queue.put([handler], record_of("dropped"))
    logqueue._forked()  # what os.fork calls in the child
    assert queue.dropped == 0
    mine = Catcher()
    queue.put([mine], record_of("the child's"))
    queue.stop(WAIT)
    assert [record.msg for record in mine.records] == ["the child's"]
    handler.let_go.set()
