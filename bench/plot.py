"""A picture of the figures: an SVG with bars or dots side by side, readable in light and in dark.

Bars begin at nought; what spans decades is dots over a logarithmic axis, since a bar would have no honest foot there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, HEIGHT = 470, 270  # of one panel
COLUMNS = 2
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 44, 30  # what a panel keeps around its plot
HEADER, FOOTER = 58, 30
TICKS = 4
COLOURS = {  # on light, on dark
    "direct": ("#8c959f", "#7d8590"),
    "nginx": ("#1a8f5a", "#3fb950"),
    "litellm": ("#c2570c", "#f0883e"),
    "passthrough": ("#1f6feb", "#58a6ff"),
    "passthrough, uvloop": ("#8250df", "#bc8cff"),
}
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.name { font-weight: 600 }
.quiet { fill: #59636e; font-size: 11px }
.value { font-size: 9px; fill: #59636e }
line { stroke: #d1d9e0 }
.foot { stroke: #818b98 }
"""
DARK = """
text { fill: #f0f6fc }
.quiet, .value { fill: #9198a1 }
line { stroke: #3d444d }
.foot { stroke: #656c76 }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: a value for each group of each series; what is missing or not above nought is not drawn."""

    title: str
    unit: str
    groups: tuple[str, ...]
    series: dict[str, tuple[float | None, ...]]
    logarithmic: bool = False

    def values(self) -> list[float]:
        """All values that can be drawn."""
        return [one for values in self.series.values() for one in values if one is not None and one > 0]


def ticks_to(top: float) -> list[float]:
    """Round numbers from nought to at least ``top``, a few of them."""
    step = top / TICKS or 1
    size = 10.0 ** math.floor(math.log10(step))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= step * 0.999)
    return [step * number for number in range(math.ceil(top / step * 0.999) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten around both."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


class Scale:
    """Where a value lies, from 0 at the foot to 1 at the top."""

    def __init__(self, panel: Panel) -> None:
        values = panel.values() or [1.0]
        self._logarithmic = panel.logarithmic
        self.ticks = decades(min(values), max(values)) if panel.logarithmic else ticks_to(max(values))

    def place(self, value: float) -> float:
        """The share of the height."""
        low, high = self.ticks[0], self.ticks[-1]
        if self._logarithmic:
            return math.log(max(value, low) / low) / math.log(high / low)
        return max(value, 0) / high


def short(value: float) -> str:
    """A number in as few characters as do."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k".replace(".0k", "k")
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def label(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> str:
    """A piece of text."""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    """A straight line."""
    kind = f' class="{style}"' if style else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{kind}/>'


def axes(panel: Panel, scale: Scale) -> Iterator[str]:
    """Title, ticks and names of groups."""
    yield label(LEFT, 18, panel.title, "name", "start")
    yield label(LEFT, 34, panel.unit, "quiet", "start")
    foot, height = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    for tick in scale.ticks:
        y = foot - height * scale.place(tick)
        yield line(LEFT, y, WIDTH - RIGHT, y, "foot" if tick == scale.ticks[0] else "")
        yield label(LEFT - 6, y + 4, short(tick), "quiet", "end")
    width = (WIDTH - LEFT - RIGHT) / len(panel.groups)
    for number, group in enumerate(panel.groups):
        yield label(LEFT + width * (number + 0.5), HEIGHT - 10, group, "quiet")


def marks(panel: Panel, scale: Scale, colours: dict[str, int]) -> Iterator[str]:
    """A bar or a dot for each value, and its number above."""
    foot, height = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    group_width = (WIDTH - LEFT - RIGHT) / len(panel.groups)
    width = min(34, group_width * 0.8 / len(panel.series))
    for place, (name, values) in enumerate(panel.series.items()):
        for number, value in enumerate(values):
            if value is None or value <= 0:
                continue
            x = LEFT + group_width * (number + 0.5) + width * (place - len(panel.series) / 2)
            y = foot - height * scale.place(value)
            said = f"<title>{escape(name)}, {escape(panel.groups[number])}: {value:.4g} {escape(panel.unit)}</title>"
            if panel.logarithmic:
                yield f'<circle class="c{colours[name]}" cx="{x + width / 2:.1f}" cy="{y:.1f}" r="4.5">{said}</circle>'
            else:
                size = f'width="{width - 2:.1f}" height="{max(1, foot - y):.1f}"'
                yield f'<rect class="c{colours[name]}" x="{x + 1:.1f}" y="{y:.1f}" {size} rx="1.5">{said}</rect>'
            yield label(x + width / 2, y - (8 if panel.logarithmic else 4), short(value), "value")


def style_of(names: Sequence[str]) -> str:
    """The style sheet: one class for each series, twice."""
    light = "".join(f".c{n} {{ fill: {COLOURS.get(name, ('#888', '#999'))[0]} }}\n" for n, name in enumerate(names))
    dark = "".join(f".c{n} {{ fill: {COLOURS.get(name, ('#888', '#999'))[1]} }}\n" for n, name in enumerate(names))
    return f"<style>{STYLE}{light}@media (prefers-color-scheme: dark) {{{DARK}{dark}}}</style>"


def legend(names: Sequence[str]) -> Iterator[str]:
    """Which colour is who."""
    x = float(LEFT)
    for number, name in enumerate(names):
        yield f'<rect class="c{number}" x="{x:.1f}" y="38" width="10" height="10" rx="2"/>'
        yield label(x + 15, 47, name, anchor="start")
        x += 34 + 6.6 * len(name)


def draw(title: str, note: str, panels: Sequence[Panel]) -> str:
    """The whole picture."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colours = {name: number for number, name in enumerate(names)}
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = WIDTH * COLUMNS, HEADER + HEIGHT * rows + FOOTER
    parts = [style_of(names), label(LEFT, 24, title, "title", "start"), *legend(names)]
    for number, panel in enumerate(panels):
        scale = Scale(panel)
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH} {HEADER + row * HEIGHT})">')
        parts += [*axes(panel, scale), *marks(panel, scale, colours), "</g>"]
    parts.append(label(LEFT, height - 10, note, "quiet", "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>\n"])
