"""Line charts and request lanes as SVG, without a plotting library. The document's style sheet sets the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 44
LANE_HEIGHT = 6  # pixels
CHARACTER = 6.2  # approximate width of a legend's character in pixels

Points = Sequence[tuple[float, float]]

# The colours of a chart that is a file by itself. Any number of series is drawn, but only these can be told apart.
COLOURS = ("#3367d6", "#e37400", "#0b8043", "#a142f4", "#c5221f", "#00838f")
STYLE = ".grid { stroke: #ddd } .axis { stroke: #888 } .line { fill: none; stroke-width: 2 } " + " ".join(
    f".s{index} {{ stroke: {colour} }}" for index, colour in enumerate(COLOURS)
)


class Axis(NamedTuple):
    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Maps a value to its position on the axis, from 0 to 1."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(max(value, self.low)) if self.log else value
        return min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))

    def ticks(self) -> list[float]:
        """Returns round values: 1, 2 and 5 times powers of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) < 5 else (1,)
            values = [step * 10.0**power for power in powers for step in steps]
            return [value for value in values if self.low <= value <= self.high]
        step = _step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next((step * power for step in (1, 2, 5) if step * power >= rough), 10 * power)


def upto(label: str, values: Sequence[float]) -> Axis:
    """An axis from 0 to slightly above the largest value."""
    return Axis(label, 0.0, 1.05 * max(values, default=0.0) or 1.0)


def logarithmic(label: str, values: Sequence[float], least: float) -> Axis:
    """A logarithmic axis that starts slightly below the smallest value, and never below `least`."""
    low, high = min(values, default=least), max(values, default=least)
    return Axis(label, max(least, 0.8 * low), 1.25 * max(least, high), log=True)


def lines(series: dict[str, Points], x: Axis, y: Axis, about: str) -> str:
    """Draws one line per series. about: the chart's description for screen readers."""
    parts = _frame(x, y, HEIGHT)
    for index, points in enumerate(series.values()):
        path = "L".join(f"{_across(x, a):.1f},{_up(y, b, HEIGHT):.1f}" for a, b in points)
        parts.append(f'<path class="line s{index}" d="M{path}"/>' if points else "")
    parts += _legend(list(series)) if len(series) > 1 else []
    return _svg(parts, HEIGHT, about)


def standalone(chart: str) -> str:
    """The chart as the text of an SVG file, with its style."""
    head, rest = chart.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11"')
    return f"{head}><style>{STYLE}</style>{rest}\n"


def dots(points: Points, x: Axis, y: Axis, about: str) -> str:
    marks = (f'<circle class="dot" r="2.5" cx="{_across(x, a):.1f}" cy="{_up(y, b, HEIGHT):.1f}"/>' for a, b in points)
    return _svg([*_frame(x, y, HEIGHT), *marks], HEIGHT, about)


class RequestLane(NamedTuple):
    """One request: the times when it was due, got its first token and ended. failed: its answer is incomplete."""

    due: float
    first: float
    ended: float
    failed: bool


def lanes(rows: Sequence[RequestLane], x: Axis, about: str) -> str:
    """Draws one row per request: a thin line until its first token, a thick line while it is answered."""
    height = TOP + BOTTOM + LANE_HEIGHT * max(1, len(rows))
    parts = _frame(x, Axis("requests", 0, max(1, len(rows))), height)
    for index, lane in enumerate(rows):
        y = TOP + LANE_HEIGHT * (index + 0.5)
        kind = "failed" if lane.failed else "answered"
        parts.append(_segment("waited", y, _across(x, lane.due), _across(x, lane.first)))
        parts.append(_segment(kind, y, _across(x, lane.first), _across(x, lane.ended)))
    return _svg(parts, height, about)


def _segment(kind: str, y: float, start: float, end: float) -> str:
    return f'<line class="{kind}" x1="{start:.1f}" x2="{max(end, start + 1):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _up(axis: Axis, value: float, height: float) -> float:
    return height - BOTTOM - axis.place(value) * (height - TOP - BOTTOM)


def _frame(x: Axis, y: Axis, height: float) -> list[str]:
    foot = height - BOTTOM
    parts = []
    for value in y.ticks() if y.label != "requests" else ():
        at = _up(y, value, height)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_words(LEFT - 8, at + 4, _number(value), "end"))
    for value in x.ticks():
        parts.append(_words(_across(x, value), foot + 17, _number(value), "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{foot}" y2="{foot}"/>')
    parts.append(_words((LEFT + WIDTH - RIGHT) / 2, foot + 36, x.label, "middle"))
    turned = f"rotate(-90 14 {(TOP + foot) / 2:.0f})"
    parts.append(
        f'<text x="14" y="{(TOP + foot) / 2:.0f}" text-anchor="middle" transform="{turned}">{escape(y.label)}</text>'
    )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    """The legend: one row above the chart."""
    parts, x = [], float(LEFT)
    for index, name in enumerate(names):
        parts.append(f'<line class="line s{index}" x1="{x:.0f}" x2="{x + 18:.0f}" y1="10" y2="10"/>')
        parts.append(_words(x + 25, 14, name, "start"))
        x += 50 + CHARACTER * len(name)
    return parts


def _words(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _svg(parts: Sequence[str], height: float, about: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(about)}">'
    return "\n".join([head, *parts, "</svg>"])
