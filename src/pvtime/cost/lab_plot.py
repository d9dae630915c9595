# SPDX-License-Identifier: GPL-2.0-or-later
"""The instructions of each update, by part, as bars in an SVG image."""

from __future__ import annotations

from html import escape
from typing import Final

from pvtime.cost.lab_cost import LabCost
from pvtime.cost.lab_parts import Part

__all__ = ["updates_svg"]

COLOURS: Final = {
    Part.SRCU: "#4477aa",
    Part.LOOKUP: "#ee6677",
    Part.ACCESS: "#228833",
    Part.DIRTY: "#ccbb44",
    Part.REST: "#bbbbbb",
}
"""Paul Tol's bright scheme, which colour-blind people can tell apart."""

LEFT: Final = 190
WIDTH: Final = 760
ROW: Final = 34
BAR: Final = 22
TOP: Final = 60


def updates_svg(cost: LabCost) -> str:
    """Return the image."""
    most = max((update.instructions for update in cost.updates), default=1)
    scale = (WIDTH - LEFT - 60) / most
    height = TOP + ROW * len(cost.updates) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, f"instructions of one update, Linux {cost.kernel.split()[0]}"),
    ]
    for index, (part, colour) in enumerate(COLOURS.items()):
        left = LEFT + 110 * index
        out += [_bar(left, 32, 12, 12, colour), _text(left + 17, 43, part.value)]
    for index, update in enumerate(cost.updates):
        y, x = TOP + ROW * index, float(LEFT)
        out.append(_text(10, y + 16, update.name))
        for part, colour in COLOURS.items():
            width = update.parts.get(part, 0) * scale
            out.append(_bar(x, y, width, BAR, colour))
            x += width
        out.append(_text(x + 6, y + 16, str(update.instructions)))
    return "\n".join([*out, "</svg>\n"])


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'
