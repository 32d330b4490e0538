from __future__ import annotations

import json
import os
import stat
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from safekv.demo.figure import Axis, Lane, Panel, attack_figure, first_turn_figure, summary_figure
from safekv.demo.page import page
from safekv.demo.plan import PLAYED, StoryPlan
from safekv.demo.play import Performance
from safekv.demo.report import COLUMNS, require_writable, row, table, write_text
from safekv.demo.result import ModeResult
from safekv.errors import ConfigError
from safekv.types import Mode

Results = dict[Mode, ModeResult]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def performance(results: Results) -> Performance:
    return Performance(results, {"cpu": "<a & b>", "cores": 2, "model": "m", "utc": "now"})


def test_json_has_the_promised_keys_and_nothing_that_json_lacks(performance: Performance) -> None:
    whole = json.loads(json.dumps(performance.to_json(), allow_nan=False))
    assert set(whole) == {"modes", "environment"}
    assert set(whole["modes"]) == {"isolated", "selective", "unsafe-global"}
    wanted = {"hit_rate", "ttft_first_turn_median_s", "ttft_p95_s", "attacker_auc"}
    wanted |= {"secret_recovered", "guesses"}
    assert all(wanted <= set(mode) for mode in whole["modes"].values())
    assert whole["modes"]["unsafe-global"]["secret_recovered"] is True
    assert whole["modes"]["isolated"]["secret_recovered"] is False


def test_the_table_has_one_row_a_mode(results: Results) -> None:
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(results))
    text = console.export_text()
    assert all(mode.value in text for mode in PLAYED)
    assert all(len(row(result)) == len(COLUMNS) for result in results.values())


def test_the_row_says_yes_only_for_the_leaky_mode(results: Results) -> None:
    said = {mode: row(result)[-1].partition(" ")[0] for mode, result in results.items()}
    assert said == {Mode.ISOLATED: "no", Mode.SELECTIVE: "no", Mode.UNSAFE_GLOBAL: "yes"}


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_the_page_is_whole_and_needs_nothing_else(performance: Performance) -> None:
    html = page(performance)
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert outline.references == []
    assert {"script", "link", "img", "iframe"}.isdisjoint(outline.seen)
    assert "url(" not in html
    assert "@import" not in html
    assert outline.seen.count("svg") == 2


def test_the_page_escapes_what_it_is_told(performance: Performance) -> None:
    html = page(performance)
    assert "&lt;a &amp; b&gt;" in html
    assert "<a & b>" not in html


def test_every_probe_is_one_dot(results: Results) -> None:
    times = [result.times for result in results.values()]
    wanted = sum(len(t.hit_s + t.miss_s + t.target_s + t.decoy_s) for t in times)
    figure = ElementTree.fromstring(attack_figure(results).render(standalone=True))  # noqa: S314
    assert len(figure.findall(f"{SVG}circle")) == wanted
    figure = ElementTree.fromstring(first_turn_figure(results).render(standalone=True))  # noqa: S314
    assert len(figure.findall(f"{SVG}circle")) == StoryPlan().honest_tenants * len(results)


def test_nothing_is_drawn_outside_the_picture(results: Results) -> None:
    canvas = summary_figure(results)
    figure = ElementTree.fromstring(canvas.render(standalone=True))  # noqa: S314
    for dot in figure.findall(f"{SVG}circle"):
        assert 0 < float(dot.attrib["cx"]) < canvas.width
        assert 0 < float(dot.attrib["cy"]) < canvas.height


def test_the_axis_reaches_all_times_but_a_far_outlier() -> None:
    lane = Lane("", [0.1] * 50 + [0.3], "plain", "fill")
    axis = Axis.over([Panel("", "", (lane,))], 0, 100)
    assert 200 <= axis.limit_ms < 300
    assert axis.place(0.3) == 100
    assert axis.ticks_ms()[-1] == pytest.approx(axis.limit_ms)


@pytest.mark.parametrize("longest_s", [0.00003, 0.07, 0.1, 0.35, 1.0, 42.0])
def test_axes_have_a_readable_number_of_ticks(longest_s: float) -> None:
    axis = Axis.over([Panel("", "", (Lane("", [longest_s] * 3, "plain", "fill"),))], 0, 100)
    assert 4 <= len(axis.ticks_ms()) <= 11
    assert axis.limit_ms >= longest_s * 1000 * (1 - 1e-9)


def test_a_file_is_replaced_in_one_step_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    write_text(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert os.listdir(tmp_path) == ["page.html"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_an_impossible_place_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "page.html"):
        with pytest.raises(ConfigError, match="cannot write"):
            require_writable(path)
        with pytest.raises(ConfigError, match="cannot write"):
            write_text(path, "x")
    assert os.listdir(tmp_path) == []
