"""A roofline plot as SVG (Williams, Waterman, Patterson 2009).

It shows the highest speed that the machine allows for a number of operations per byte, and where workloads lie.
Both axes are logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from octavo.bench.limits import Limits

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 720, 400, 64, 44, 24, 20  # pixels
INTENSITY = (0.5, 4096.0)  # operations per byte
LETTER = 5.8  # approximate width of a letter in pixels
STEPS = (4, 16, -8, 28, -20, 40, -32)  # offsets in pixels to try, from a dot to the baseline of its name
ROOFS = {"int8": "#3367d6", "bf16": "#0b8043", "f32": "#9aa0a6"}


@dataclass(frozen=True)
class Point:
    """One workload. intensity: operations per byte that must be read. gops: 10^9 operations per second achieved."""

    name: str
    intensity: float
    gops: float


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float

    def x(self, intensity: float) -> float:
        part = math.log(intensity / INTENSITY[0]) / math.log(INTENSITY[1] / INTENSITY[0])
        return LEFT + min(max(part, 0), 1) * (WIDTH - LEFT - RIGHT)

    def y(self, gops: float) -> float:
        part = math.log(gops / self.low) / math.log(self.high / self.low)
        return HEIGHT - BOTTOM - min(max(part, 0), 1) * (HEIGHT - TOP - BOTTOM)


def roofline(limits: Limits, points: list[Point]) -> str:
    """Returns a self-contained <svg> element. The sloping roof is memory bandwidth, the flat ones are instructions."""
    peaks = {loop.kind: loop.gops[limits.threads] for loop in limits.loops if loop.kind in ROOFS}
    gbs = limits.bandwidth / 1e9
    scale = Scale(gbs * INTENSITY[0] / 2, 2 * max(peaks.values()))
    parts = [*_axes(scale), *_roofs(scale, peaks, gbs), *_dots(scale, points)]
    title = f"{limits.cpu}, {limits.isa}, {limits.threads} threads: memory {gbs:.1f} GB/s"
    return svg([_text(LEFT, TOP - 6, title), *parts])


def svg(parts: list[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11">', *parts, "</svg>", ""])


def _axes(scale: Scale) -> list[str]:
    parts = []
    for power in range(round(math.log2(INTENSITY[0])), round(math.log2(INTENSITY[1])) + 1, 2):
        x = scale.x(2.0**power)
        parts += [
            _line(x, TOP, x, HEIGHT - BOTTOM, "#eee"),
            _text(x, HEIGHT - BOTTOM + 14, f"{2.0**power:g}", "middle"),
        ]
    for power in range(math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high)) + 1):
        y = scale.y(10.0**power)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "#eee"), _text(LEFT - 6, y + 4, f"{10.0**power:g}", "end")]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, _text(middle, HEIGHT - 8, "operations per byte", "middle"), _text(4, TOP + 8, "GOPS")]


def _roofs(scale: Scale, peaks: dict[str, float], gbs: float) -> list[str]:
    parts = []
    for kind, peak in peaks.items():
        knee = max(peak / gbs, INTENSITY[0])
        parts.append(_line(scale.x(knee), scale.y(peak), WIDTH - RIGHT, scale.y(peak), ROOFS[kind], 2))
        parts.append(_text(WIDTH - RIGHT, scale.y(peak) - 4, f"{kind} {peak:,.0f} GOPS", "end"))
    top = max(peaks.values())
    start, end = INTENSITY[0], top / gbs
    parts.append(_line(scale.x(start), scale.y(start * gbs), scale.x(end), scale.y(top), "#202124", 2))
    return parts


def _dots(scale: Scale, points: list[Point]) -> Iterator[str]:
    """Draws each dot with its name beside it. If another name is there, the name moves and a line leads to it."""
    taken: list[tuple[float, float, float]] = []  # of names: left, right, baseline
    for point in points:
        x, y = scale.x(point.intensity), scale.y(max(point.gops, scale.low))
        width = LETTER * len(point.name)
        left = min(x + 7, WIDTH - width)
        beside = [at for start, end, at in taken if left < end and left + width > start]
        free = (y + step for step in STEPS if all(abs(y + step - at) >= 2 * LETTER for at in beside))
        baseline = next(free, y + STEPS[0])
        taken.append((left, left + width, baseline))
        if baseline != y + STEPS[0]:
            yield _line(x, y, left, baseline - LETTER / 2, "#c5221f")
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#c5221f"/>' + _text(left, baseline, point.name)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
