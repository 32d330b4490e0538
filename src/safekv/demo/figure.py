"""The demo's pictures: strips of measured times, one dot a request, on a common axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safekv.attack.timing import median, quantile
from safekv.demo.findings import Results
from safekv.demo.result import ModeResult
from safekv.demo.svg import Canvas

LANE_HEIGHT: Final = 30.0
HEADER_HEIGHT: Final = 26.0
PANEL_GAP: Final = 12.0
MARGIN: Final = 16.0
TITLE_HEIGHT: Final = 50.0
AXIS_HEIGHT: Final = 46.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One strip of dots: times in seconds, a colour (`kind`), and filled or hollow (`shape`)."""

    label: str
    times_s: Sequence[float]
    kind: str
    shape: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One mode's lanes under a heading, with a dashed line at `cut_s` if it is given."""

    name: str
    remark: str
    lanes: tuple[Lane, ...]
    cut_s: float | None = None

    @property
    def height(self) -> float:
        """In pixels, heading included."""
        return HEADER_HEIGHT + LANE_HEIGHT * len(self.lanes) + 6


@dataclass(frozen=True, slots=True)
class Axis:
    """Milliseconds from 0 to `limit_ms`, drawn from pixel `left` to pixel `right`."""

    left: float
    right: float
    limit_ms: float

    @classmethod
    def over(cls, panels: Sequence[Panel], left: float, right: float) -> Axis:
        """An axis for all times, except that a few far outliers do not stretch it."""
        times = [t * 1000 for panel in panels for lane in panel.lanes for t in lane.times_s]
        wanted = min(max(times), 2 * quantile(times, 0.95))
        step = _step(wanted)
        return cls(left, right, step * math.ceil(wanted / step))

    def place(self, time_s: float) -> float:
        """The pixel of a time; times beyond the limit stay at the edge."""
        share = min(time_s * 1000 / self.limit_ms, 1.0)
        return self.left + share * (self.right - self.left)

    def ticks_ms(self) -> list[float]:
        """Round values from 0 to the limit."""
        step = _step(self.limit_ms)
        return [step * i for i in range(round(self.limit_ms / step) + 1)]


def _step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts `span` into four to ten parts."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return power * next(m for m in (1, 2, 5, 10) if rough <= m * power)


def attack_panels(results: Results, *, calibration: bool) -> list[Panel]:
    """What the attacker measured, per mode; with `calibration` also its own hits and misses."""
    return [_attack_panel(result, calibration) for result in results.values()]


def _attack_panel(result: ModeResult, calibration: bool) -> Panel:
    times = result.times
    own = (
        Lane("attacker's own, sent again (hit)", times.hit_s, "plain", "fill"),
        Lane("attacker's own, new (miss)", times.miss_s, "plain", "ring"),
    )
    lanes = (
        *(own if calibration else ()),
        Lane("victim sent this letter", times.target_s, "target", "fill"),
        Lane("nobody sent this letter", times.decoy_s, "decoy", "ring"),
    )
    card = "card number recovered" if result.card.recovered else "card number not recovered"
    remark = f"AUC {times.auc:.2f} · {card}"
    return Panel(result.mode.value, remark, lanes, times.threshold_s)


def first_turn_panels(results: Results) -> list[Panel]:
    """Honest tenants' first turns per mode; the very first one, which is always cold, apart."""
    panels = []
    for mode, result in results.items():
        times = result.honest.first_turn_ttft_s
        lanes = (
            Lane("first tenant (cold)", times[:1], "plain", "ring"),
            Lane("the tenants after it", times[1:], "target", "fill"),
        )
        remark = f"median of all {len(times)}: {result.first_turn_median_s * 1000:.0f} ms"
        panels.append(Panel(mode.value, remark, lanes))
    return panels


def attack_figure(results: Results) -> Canvas:
    """The attacker's times in full, calibration included."""
    return _figure(
        attack_panels(results, calibration=True),
        "Can the attacker see whose letters are in the cache?",
        "each dot is one request of the attacker; thick bars are medians;"
        " the dashed line is its own cut between hit and miss",
        "attacker's time to first token (ms)",
    )


def first_turn_figure(results: Results) -> Canvas:
    """Honest tenants' first turns."""
    return _figure(
        first_turn_panels(results),
        "How long does an honest tenant wait on its first turn?",
        "each dot is one tenant's first request; all begin with the same system prompt",
        "time to first token of first turns (ms)",
    )


def _figure(panels: Sequence[Panel], title: str, subtitle: str, unit: str) -> Canvas:
    width, left = 860.0, 240.0
    axis = Axis.over(panels, left, width - MARGIN - 14)
    canvas = Canvas(width, _height(panels), title)
    canvas.text(MARGIN, 22, title, "title")
    canvas.text(MARGIN, 41, subtitle, "soft")
    _column(canvas, panels, axis, MARGIN, unit)
    return canvas


def summary_figure(results: Results) -> Canvas:
    """Both questions side by side, for a README: what sharing leaks, and what it saves."""
    attack, honest = attack_panels(results, calibration=False), first_turn_panels(results)
    split, width = 560.0, 1000.0
    canvas = Canvas(width, _height(attack), "What sharing a prefix cache leaks, and what it saves")
    canvas.text(MARGIN, 22, "What it leaks: the attacker's probes", "title")
    canvas.text(MARGIN, 41, "one dot a request; dashed: the attacker's cut", "soft")
    left = Axis.over(attack, 190, split - 30)
    _column(canvas, attack, left, MARGIN, "attacker's time to first token (ms)")
    canvas.text(split + MARGIN, 22, "What it saves: honest first turns", "title")
    canvas.text(split + MARGIN, 41, "one dot a tenant, same system prompt", "soft")
    right = Axis.over(honest, split + 160, width - 30)
    _column(canvas, honest, right, split + MARGIN, "time to first token (ms)")
    return canvas


def _height(panels: Sequence[Panel]) -> float:
    return TITLE_HEIGHT + sum(panel.height + PANEL_GAP for panel in panels) + AXIS_HEIGHT


def _column(canvas: Canvas, panels: Sequence[Panel], axis: Axis, left: float, unit: str) -> None:
    top = TITLE_HEIGHT
    for panel in panels:
        canvas.box(left, top, axis.right + 14 - left, panel.height, "panel")
        _grid(canvas, axis, top + HEADER_HEIGHT, top + panel.height)
        _draw_panel(canvas, panel, axis, left, top)
        top += panel.height + PANEL_GAP
    _draw_axis(canvas, axis, top, unit)


def _grid(canvas: Canvas, axis: Axis, top: float, bottom: float) -> None:
    for tick in axis.ticks_ms():
        x = axis.place(tick / 1000)
        canvas.line(x, top, x, bottom, "rule")


def _draw_panel(canvas: Canvas, panel: Panel, axis: Axis, left: float, top: float) -> None:
    canvas.text(left + 10, top + 18, panel.name, "name")
    canvas.text(axis.right + 4, top + 18, panel.remark, "", "end")
    if panel.cut_s is not None:
        x = axis.place(panel.cut_s)
        canvas.line(x, top + HEADER_HEIGHT, x, top + panel.height, "cut")
    for place, lane in enumerate(panel.lanes):
        y = top + HEADER_HEIGHT + LANE_HEIGHT * (place + 0.5)
        canvas.text(left + 10, y + 4, lane.label, "soft")
        _draw_lane(canvas, lane, axis, y)


def _draw_lane(canvas: Canvas, lane: Lane, axis: Axis, y: float) -> None:
    for place, time_s in enumerate(lane.times_s):
        # A fixed pattern, not chance: the same numbers give the same picture.
        offset = ((place * 5) % 11 - 5) * 1.6
        beyond = ", beyond the axis" if time_s * 1000 > axis.limit_ms else ""
        title = f"{time_s * 1000:.0f} ms{beyond}"
        canvas.dot(axis.place(time_s), y + offset, f"{lane.shape} {lane.kind}", title)
    if len(lane.times_s) > 1:
        x = axis.place(median(lane.times_s))
        canvas.line(x, y - 12, x, y + 12, f"middle {lane.kind}")


def _draw_axis(canvas: Canvas, axis: Axis, y: float, unit: str) -> None:
    canvas.line(axis.left, y, axis.right, y, "rule")
    for tick in axis.ticks_ms():
        x = axis.place(tick / 1000)
        canvas.line(x, y, x, y + 4, "rule")
        canvas.text(x, y + 17, f"{tick:g}", "soft", "middle")
    canvas.text((axis.left + axis.right) / 2, y + 35, unit, "soft", "middle")
