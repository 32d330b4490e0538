"""The heat map of a report as SVG: attacks down, protections across, one stripe per dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

LEFT, TOP = 170, 56
WIDTH, HEIGHT = 92, 30

STYLE: Final = """\
.skv { --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --rule: #d5dae0; --panel: #f6f8fa;
  --heat: #c04d00; }
@media (prefers-color-scheme: dark) {
  .skv { --paper: #12161b; --ink: #e8ebef; --soft: #a3adb8; --rule: #39424d; --panel: #1a2027;
    --heat: #e07b20; } }
.skv text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: var(--ink); }
.skv .soft { fill: var(--soft); } .skv .heat { fill: var(--heat); }
.skv .cell { fill: var(--panel); stroke: var(--rule); } .skv .paper { fill: var(--paper); }
"""

Row = Mapping[str, Any]


def heat_map(rows: Sequence[Row], *, standalone: bool = False) -> str:
    """Token recovery of each cell. The number is the largest of its dtypes, the stripes are all."""
    places = list(dict.fromkeys((row["attack"], row["layer"]) for row in rows))
    columns = list(dict.fromkeys(row["protection"] for row in rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    by_cell: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = (row["attack"], row["layer"], row["protection"])
        by_cell.setdefault(key, {})[row["dtype"]] = row["token_recovery"]
    width, height = LEFT + WIDTH * len(columns) + 12, TOP + HEIGHT * len(places) + 12
    shapes = [
        f'<text x="8" y="20" class="soft">token recovery; stripes: {", ".join(dtypes)}</text>'
    ]
    for n, column in enumerate(columns):
        x = LEFT + WIDTH * (n + 0.5)
        shapes.append(f'<text x="{x}" y="{TOP - 10}" text-anchor="middle">{escape(column)}</text>')
    for line, (attack, layer) in enumerate(places):
        y = TOP + HEIGHT * line
        shapes.append(
            f'<text x="8" y="{y + 19}">{escape(attack)} <tspan class="soft">{escape(layer)}'
            "</tspan></text>"
        )
        for n, column in enumerate(columns):
            shapes += _cell(LEFT + WIDTH * n, y, by_cell.get((attack, layer, column)), dtypes)
    return _svg(width, height, shapes, standalone=standalone)


def _cell(x: int, y: int, found: Mapping[str, float] | None, dtypes: Sequence[str]) -> list[str]:
    if found is None:
        return [
            f'<text x="{x + WIDTH / 2}" y="{y + 19}" text-anchor="middle" class="soft">·</text>'
        ]
    wide, high = WIDTH - 6, HEIGHT - 4
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    shapes = [f'<rect x="{x + 3}" y="{y + 2}" width="{wide}" height="{high}" class="cell"/>']
    for n, dtype in enumerate(dtypes):
        value = found.get(dtype, 0.0)
        stripe = wide / len(dtypes)
        shapes.append(
            f'<rect x="{x + 3 + n * stripe:.1f}" y="{y + 2}" width="{stripe:.1f}" height="{high}"'
            f' class="heat" fill-opacity="{0.85 * value:.3f}"/>'
        )
    shapes.append(
        f'<text x="{x + WIDTH / 2}" y="{y + 19}" text-anchor="middle">{max(found.values()):.2f}'
        f"<title>{escape(told)}</title></text>"
    )
    return shapes


def _svg(width: int, height: int, shapes: list[str], *, standalone: bool) -> str:
    inside = "\n".join(shapes)
    if standalone:
        paper = f'<rect width="{width}" height="{height}" class="paper"/>'
        inside = f"<style>\n{STYLE}</style>\n{paper}\n{inside}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="skv" role="img"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<title>Token recovery of each attack against each protection</title>\n{inside}\n</svg>\n"
    )
