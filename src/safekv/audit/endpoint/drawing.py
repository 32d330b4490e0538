"""Two small pictures of a finding, as SVG: both arms' times, and the ROC curve."""

from __future__ import annotations

from typing import Final

import numpy as np

from safekv.audit.endpoint.channels import Floats
from safekv.audit.endpoint.effect import roc

WIDTH, HEIGHT, SIDE = 460, 110, 150
LEFT: Final = 70
LANES: Final = (("primed", 32.0), ("fresh", 68.0))
OUTERMOST: Final = 0.98
"""The axis ends at this quantile; what lies beyond is drawn at its end."""


def distributions(primed: Floats, control: Floats) -> str:
    """One dot a probe, in milliseconds; a bar at each median. Neither arm may be empty."""
    both = np.concatenate([primed, control]) * 1000
    low, high = float(both.min()), float(np.quantile(both, OUTERMOST))
    span = max(high - low, 1e-9)

    def place(value_ms: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * min(max((value_ms - low) / span, 0.0), 1.0)

    shapes = []
    for (name, y), arm in zip(LANES, (primed, control), strict=True):
        shapes.append(f'<text x="4" y="{y + 4}">{name}</text>')
        for index, value in enumerate(arm * 1000):
            # A fixed pattern, not chance: the same numbers give the same picture.
            offset = (index * 5 % 11 - 5) * 1.5
            shapes.append(
                f'<circle cx="{place(value):.1f}" cy="{y + offset:.1f}" r="3" class="{name}"/>'
            )
        x = place(float(np.median(arm)) * 1000)
        shapes.append(f'<path d="M{x:.1f} {y - 14}V{y + 14}" class="middle"/>')
    shapes.append(f'<text x="{LEFT}" y="104">{low:.0f} ms</text>')
    shapes.append(f'<text x="{WIDTH - 20}" y="104" text-anchor="end">{high:.0f} ms</text>')
    return _svg(WIDTH, HEIGHT, "times of primed and fresh prompts", shapes)


def roc_curve(primed: Floats, control: Floats) -> str:
    """True against false positives over all cuts; the dashed line is guessing."""
    size = SIDE - 20
    corners = " ".join(
        f"{10 + size * false:.1f},{10 + size * (1 - true):.1f}"
        for false, true in roc(primed, control)
    )
    shapes = [
        f'<rect x="10" y="10" width="{size}" height="{size}" class="frame"/>',
        f'<path d="M10 {10 + size}L{10 + size} 10" class="guess"/>',
        f'<polyline points="{corners}" class="roc"/>',
    ]
    return _svg(SIDE, SIDE, "ROC curve", shapes)


def _svg(width: int, height: int, label: str, shapes: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(shapes)}</svg>'
    )
