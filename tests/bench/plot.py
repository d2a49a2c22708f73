"""A bar chart in SVG: panels of horizontal bars with their range."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

COLOURS = {
    "fleetmesh": "#0b6e99",
    "envoy": "#ac6199",
    "haproxy": "#5a9e6f",
    "nginx": "#8a8f3c",
    "direct": "#999999",
}
WIDTH, LEFT, RIGHT, BAR, GAP, TITLE = 860, 90, 130, 16, 4, 30

Bar = tuple[str, dict[str, Any], str]
"""A contender, its spread, the format of its numbers."""


def plot(panels: list[tuple[str, list[Bar]]]) -> str:
    """Each panel has its own scale, from 0."""
    parts: list[str] = []
    y = 10
    for title, bars in panels:
        parts.append(f'<text x="10" y="{y + 16}" class="title">{escape(title)}</text>')
        y += TITLE
        scale = (WIDTH - LEFT - RIGHT) / max(spread["max"] for _, spread, _ in bars)
        for name, spread, form in bars:
            parts += _bar(name, spread, form, scale, y)
            y += BAR + GAP
        y += 8
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}">'
        f"<style>{style}</style>"
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _bar(name: str, spread: dict[str, Any], form: str, scale: float, y: int) -> list[str]:
    length = spread["median"] * scale
    low, high = LEFT + spread["min"] * scale, LEFT + spread["max"] * scale
    colour = COLOURS.get(name, "#444")
    middle, base = y + BAR / 2, y + 12
    return [
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#222" stroke-width="1.5"/>',
        f'<text x="{max(high, LEFT + length) + 6:.1f}" y="{base}">{spread["median"]:{form}}</text>',
    ]
