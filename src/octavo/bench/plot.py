"""A bar chart as SVG, written by hand: the speed-ups of `octavo bench spec`."""

from __future__ import annotations

from html import escape
from typing import Any

BAR, GAP, LEFT, WIDTH = 16, 14, 320, 420  # pixels
COLOURS = ("#9aa0a6", "#3367d6", "#0b8043", "#e37400", "#a142f4", "#c5221f", "#00838f", "#795548")


def bars(rows: list[dict[str, Any]]) -> str:
    """Draws one bar per row, grouped by workload and batch. The dashed line marks the speed without drafts."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['workload']}, batch {row['batch']}", []).append(row)
    scale = WIDTH / max([1.0, *(row["speedup"] for row in rows)])
    colours = {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(dict.fromkeys(r["method"] for r in rows))}
    parts: list[str] = []
    y = GAP
    for name, group in groups.items():
        parts.append(_text(GAP, y + BAR - 4, name, "bold"))
        for row in group:
            length = row["speedup"] * scale
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 3}" fill="{colours[row["method"]]}"/>'
            )
            parts.append(_text(LEFT - 160, y + BAR - 4, row["method"][:24]))
            parts.append(_text(LEFT + length + 4, y + BAR - 4, f"{row['speedup']:.2f}x"))
            y += BAR
        y += GAP
    one = LEFT + scale
    parts.append(f'<line x1="{one:.1f}" y1="0" x2="{one:.1f}" y2="{y}" stroke="black" stroke-dasharray="3 3"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{y}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11">', *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(text)}</text>'
