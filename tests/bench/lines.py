"""A line chart in SVG: panels over a common axis of seconds."""

from __future__ import annotations

from xml.sax.saxutils import escape

import msgspec

WIDTH, LEFT, RIGHT, HEIGHT, TITLE, GAP = 860, 50, 150, 130, 24, 26
COLOURS = ("#0b6e99", "#ac6199", "#5a9e6f", "#c9822b", "#8a8f3c")


class Line(msgspec.Struct):
    """A value for each second."""

    name: str
    values: list[float]


class Panel(msgspec.Struct):
    """`marks` are seconds at which something happens."""

    title: str
    lines: list[Line]
    marks: list[tuple[int, str]] = []


def lines(panels: list[Panel]) -> str:
    """Each panel has its own scale, from 0 to its greatest value."""
    parts: list[str] = []
    y = 10.0
    for panel in panels:
        parts.append(f'<text x="10" y="{y + 14:g}" class="title">{escape(panel.title)}</text>')
        y += TITLE
        parts += _panel(panel, y)
        y += HEIGHT + GAP
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}polyline{fill:none}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:g}" width="{WIDTH}">'
        f"<style>{style}</style>"
        f'<rect width="{WIDTH}" height="{y:g}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _panel(panel: Panel, y: float) -> list[str]:
    count = max(len(line.values) for line in panel.lines)
    most = max(max(line.values) for line in panel.lines) or 1.0
    across = (WIDTH - LEFT - RIGHT) / max(count - 1, 1)
    bottom = y + HEIGHT
    parts = [
        f'<path d="M{LEFT} {y:g}V{bottom:g}H{WIDTH - RIGHT}" stroke="#999" fill="none"/>',
        f'<text x="{LEFT - 6}" y="{y + 8:g}" text-anchor="end">{most:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom:g}" text-anchor="end">0</text>',
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 14:g}" text-anchor="end">{count} s</text>',
    ]
    for at, text in panel.marks:
        x = LEFT + at * across
        parts.append(f'<path d="M{x:.1f} {y:g}V{bottom:g}" stroke="#bbb" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="{bottom + 14:g}">{at} s: {escape(text)}</text>')
    for at, line in enumerate(panel.lines):
        colour = COLOURS[at % len(COLOURS)]
        points = " ".join(
            f"{LEFT + second * across:.1f},{bottom - value / most * HEIGHT:.1f}"
            for second, value in enumerate(line.values)
        )
        parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{y + 14 + 16 * at:g}" style="fill:{colour}">'
            f"{escape(line.name)}</text>"
        )
    return parts
