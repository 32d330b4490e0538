"""A small SVG writer: shapes on a canvas, coloured by class so that a page's theme decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Final, Literal

Anchor = Literal["start", "middle", "end"]

# Blue and orange of Okabe and Ito's palette, which colour-blind readers can tell apart;
# filled and hollow marks say the same again for a reader in grey.
STYLE: Final = """\
.skv { --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --rule: #d5dae0; --panel: #f6f8fa;
  --target: #0072b2; --decoy: #c04d00; --plain: #59636e; }
@media (prefers-color-scheme: dark) {
  .skv { --paper: #12161b; --ink: #e8ebef; --soft: #a3adb8; --rule: #39424d; --panel: #1a2027;
    --target: #56b4e9; --decoy: #f0a030; --plain: #a3adb8; } }
.skv text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  font-size: 12.5px; fill: var(--ink); }
.skv .soft { fill: var(--soft); }
.skv .title { font-size: 16px; font-weight: 650; }
.skv .name { font-size: 14px; font-weight: 650; }
.skv .paper { fill: var(--paper); } .skv .panel { fill: var(--panel); }
.skv .rule { stroke: var(--rule); stroke-width: 1; }
.skv .cut { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; }
.skv .fill { stroke: none; fill-opacity: .8; }
.skv .ring { fill: none; stroke-width: 1.6; }
.skv .fill.target { fill: var(--target); } .skv .ring.target { stroke: var(--target); }
.skv .fill.decoy { fill: var(--decoy); } .skv .ring.decoy { stroke: var(--decoy); }
.skv .fill.plain { fill: var(--plain); } .skv .ring.plain { stroke: var(--plain); }
.skv .middle { stroke-width: 2.5; } .skv .middle.target { stroke: var(--target); }
.skv .middle.decoy { stroke: var(--decoy); } .skv .middle.plain { stroke: var(--plain); }
"""


@dataclass(slots=True)
class Canvas:
    """Shapes in the order they were drawn, later ones on top. Coordinates in pixels."""

    width: float
    height: float
    label: str
    _shapes: list[str] = field(default_factory=list, repr=False)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: Anchor = "start") -> None:
        """Write `text` with its baseline at `y`."""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        self._shapes.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a filled rectangle with slightly rounded corners."""
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"'
            f' class="{kind}"/>'
        )

    def dot(self, x: float, y: float, kind: str, title: str, radius: float = 3.6) -> None:
        """Draw a circle that shows `title` under the pointer."""
        self._shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def render(self, *, standalone: bool) -> str:
        """The picture as SVG; `standalone` adds the style sheet and a background."""
        inside = "\n".join(self._shapes)
        if standalone:
            paper = f'<rect width="{self.width:.0f}" height="{self.height:.0f}" class="paper"/>'
            inside = f"<style>\n{STYLE}</style>\n{paper}\n{inside}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="skv" role="img"'
            f' viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}"'
            f' height="{self.height:.0f}">\n<title>{escape(self.label)}</title>\n{inside}\n</svg>\n'
        )
