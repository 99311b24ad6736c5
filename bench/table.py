"""Figures as tables: Markdown whose columns are padded, so that they read as well on a terminal; and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.plot import Panel, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.figures import Calls, Memory, Report, Streams

MICRO = 1000.0
DIRECT = "direct"


def number(value: float) -> str:
    """A number with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """A Markdown table; ``words`` are the columns that stand to the left, numbers stand to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * width if column in words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for row in [cells[0], rule, *cells[1:]]:
        padded = [
            one.ljust(width) if column in words else one.rjust(width)
            for column, (one, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |\n")
    return "".join(lines)


def milliseconds(*values: float) -> list[str]:
    """Microseconds as milliseconds."""
    return [number(value / MICRO) for value in values]


def added(one: Calls | Streams) -> list[str]:
    """What a peer adds to direct access; nothing for direct access itself."""
    return ["-", "-"] if one.peer == DIRECT else milliseconds(one.added_p50, one.added_p99)


def calls_table(calls: Iterable[Calls]) -> str:
    """Answers in one piece."""
    head = ["", "at once", "requests/s", "ceiling", "p50 ms", "p99 ms", "added p50", "added p99", "CPU us/request"]
    return table(
        head,
        (
            [
                one.peer,
                str(one.concurrency),
                *(number(value) for value in (one.per_second, one.ceiling)),
                *milliseconds(one.p50, one.p99),
                *added(one),
                number(one.cpu),
            ]
            for one in sorted(calls, key=lambda one: one.concurrency)
        ),
    )


def streams_table(streams: Iterable[Streams]) -> str:
    """Streams of events."""
    head = [
        "",
        "streams",
        "events/s",
        "p50 ms",
        "p99 ms",
        "added p50",
        "added p99",
        "gap p50",
        "gap p99",
        "CPU us/event",
    ]
    return table(
        head,
        (
            [
                one.peer,
                str(one.streams),
                number(one.per_second),
                *milliseconds(one.p50, one.p99),
                *added(one),
                *milliseconds(one.gap_p50, one.gap_p99),
                number(one.cpu),
            ]
            for one in streams
        ),
    )


def memory_table(memory: Iterable[Memory]) -> str:
    """Resident memory."""
    head = ["", "idle MiB", "under load", "after"]
    return table(head, ([one.peer, *(number(value) for value in (one.idle, one.load, one.after))] for one in memory))


def markdown(report: Report, preface: str) -> str:
    """All tables, under the words that belong to them."""
    parts = [preface]
    if report.calls:
        parts.append("Answers in one piece, so many requests at once:\n\n" + calls_table(report.calls))
    if report.streams:
        parts.append("Streams of events; the age of an event when it is seen, and the time between two:\n\n")
        parts[-1] += streams_table(report.streams)
    parts.append("Resident memory of all processes of each:\n\n" + memory_table(report.memory))
    return "\n".join(parts)


def panels(report: Report) -> list[Panel]:
    """The diagrams of the picture."""
    names = list(dict.fromkeys(one.peer for one in report.calls))
    others = [name for name in names if name != DIRECT]
    steps = sorted({one.concurrency for one in report.calls})
    calls = {(one.peer, one.concurrency): one for one in report.calls}
    streams = {one.peer: one for one in report.streams}

    def by_step(name: str, value: Callable[[Calls], Iterable[float]]) -> tuple[float, ...]:
        return tuple(figure for step in steps for figure in value(calls[name, step]))

    return [
        Panel(
            "Throughput", "requests/s, by requests at once; direct is the ceiling", tuple(map(str, steps)),
            {name: by_step(name, lambda one: [one.per_second]) for name in names},
        ),
        Panel(
            "Added latency", "ms over direct access, by requests at once",
            tuple(f"{step} {share}" for step in steps for share in ("p50", "p99")),
            {name: by_step(name, lambda one: [one.added_p50 / MICRO, one.added_p99 / MICRO]) for name in others},
            logarithmic=True,
        ),
        Panel(
            "CPU", "us of all its processes for a request, by requests at once; for an event",
            (*map(str, steps), "event"),
            {name: (*by_step(name, lambda one: [one.cpu]), streams[name].cpu) for name in others},
            logarithmic=True,
        ),
        Panel(
            "Streams: added latency", "ms over direct access, for each event", ("p50", "p99"),
            {name: (streams[name].added_p50 / MICRO, streams[name].added_p99 / MICRO) for name in others},
            logarithmic=True,
        ),
        Panel(
            "Streams: time between two events", "ms; they leave the upstream every 20 ms", ("p50", "p99"),
            {name: (streams[name].gap_p50 / MICRO, streams[name].gap_p99 / MICRO) for name in names},
        ),
        Panel(
            "Memory", "MiB resident", ("idle", "under load", "after"),
            {one.peer: (one.idle, one.load, one.after) for one in report.memory},
        ),
    ]  # fmt: skip


def picture(report: Report, note: str) -> str:
    """The SVG."""
    return draw("What a proxy costs", note, panels(report))
