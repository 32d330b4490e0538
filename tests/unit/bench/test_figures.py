"""Pictures show what records hold, have units, and are the same for the same records."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safekv.bench.figures import costs, serving
from safekv.bench.figures.page import PICTURES, page, pictures
from safekv.bench.figures.style import LOOKS, rendered
from safekv.bench.records import read, where
from safekv.bench.tick import TickPlan
from safekv.bench.tick import run as tick
from safekv.cli.bench import bench

MODES = ("stock", "global", "isolated", "selective")
STORED = Path(__file__).parents[3] / "docs" / "records"
SPREAD = {"p50": 0.1, "p95": 0.4, "p99": 0.5}


def serve_record(**changes: Any) -> dict[str, Any]:
    row = {
        "ttft_first_turn_s": SPREAD,
        "ttft_s": SPREAD,
        "throughput_tok_s": 100.0,
        "hit_rate": 0.5,
        "cpu": {"shares": {"safekv.cache": 0.004, "detector_process": 0.002, "sampler": 0.01}},
    }
    return {
        "benchmark": "serve",
        "model_name": "m",
        "plan": {"cold": False},
        "workloads": {"system": {mode: dict(row) for mode in MODES}, "chat": {"stock": row}},
        "bars": [
            {"bar": "x", "most": 1.0, "value": 0.5, "low": 0.4, "high": 0.6, "verdict": "met"}
        ],
    } | changes


def gpu_record() -> dict[str, Any]:
    cells = [
        {"sweep": "length", "common_words": n, "modes": {"global": {"ttft_first_turn_s": SPREAD}}}
        for n in (1024, 2048)
    ]
    return {"benchmark": "gpu", "cells": cells, "model_name": "m", "model": {"device": "d"}}


def troubled() -> dict[str, Any]:
    rows = serve_record()["workloads"]["system"]
    states = {name: dict(rows["selective"]) for name in LOOKS if name.startswith("selective")}
    return serve_record(workloads={"agent": states})


def all_records() -> list[dict[str, Any]]:
    ticks = tick(TickPlan(nodes=(200, 400), tenants=10, cleared=(0, 3), ticks=2), lambda a, b: None)
    return [*read(STORED), serve_record(), troubled(), gpu_record(), {"benchmark": "tick", **ticks}]


def test_every_picture_has_units_on_both_axes_and_a_legend_without_doubles() -> None:
    records = all_records()
    for picture in PICTURES:
        figure = picture.draw(records)
        assert figure is not None, picture.name
        for axes in figure.axes:
            shares_y = axes is not figure.axes[0]
            assert axes.get_xlabel() or axes.get_ylabel(), picture.name
            assert shares_y or axes.get_ylabel() or axes.get_yticklabels(), picture.name
        for legend in figure.legends:
            labels = [text.get_text() for text in legend.get_texts()]
            assert len(labels) == len(set(labels))
        svg, png = rendered(figure)
        assert svg.lstrip().startswith(b"<?xml")
        assert png.startswith(b"\x89PNG")


def test_bars_are_as_high_as_the_record_says() -> None:
    figure = serving.throughput([serve_record()])
    assert figure is not None
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [100.0] * 5  # four modes of one workload, one of the other
    cpu = serving.own_cpu([serve_record()])
    assert cpu is not None
    assert sum(patch.get_height() for patch in cpu.axes[0].patches) == pytest.approx(0.6)


def test_series_differ_without_colour() -> None:
    marks = [look.mark for look in LOOKS.values()]
    assert len(set(marks)) == len(marks)

    def lightness(fill: str) -> float:
        red, green, blue = (int(fill[n : n + 2], 16) for n in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = sorted(lightness(LOOKS[mode].fill) for mode in MODES)
    faces = [(look.fill, look.hatch) for look in LOOKS.values()]
    assert len(set(faces)) == len(faces)
    assert min(b - a for a, b in pairwise(shades)) > 25


def test_what_was_cold_or_cut_short_or_not_measured_is_not_drawn() -> None:
    assert serving.latency([serve_record(plan={"cold": True})]) is None
    only = {"system": {"selective:dead": {}}}
    assert serving.latency([serve_record(workloads=only)]) is None
    assert serving.latency([serve_record(partial=True)]) is None
    toy = serve_record(model_name="random:toy")
    assert serving.latency([toy]) is serving.throughput([toy]) is serving.own_cpu([toy]) is None
    assert serving.hit_rate([toy]) is not None
    assert costs.tick([]) is None
    assert serving.gpu([]) is None
    assert pictures([]) == {}


def test_the_page_needs_nothing_else_and_the_same_records_give_the_same_bytes() -> None:
    records = [*read(STORED / "engine.jsonl"), serve_record()]
    drawn = pictures(records)
    serves = {f"serve-{name}" for name in ("latency", "hits", "throughput", "cpu")}
    assert set(drawn) == serves | {"engine"}
    html = page(records, drawn)
    outside = html.replace("http://www.w3.org", "")
    assert "http://" not in outside
    assert "https://" not in outside
    assert "<script" not in html
    assert "[0.400, 0.600]" in html
    assert pictures(records) == drawn


def test_the_command_writes_page_and_figures(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "serve.jsonl").write_text(json.dumps(serve_record()) + "\n")
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    command = ["report", "--records", str(folder), "--out", str(out), "--figures", str(figures)]
    done = CliRunner().invoke(bench, [*command, "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)["written"]
    assert str(out) in written
    assert sorted(path.name for path in figures.iterdir()) == [
        f"serve-{name}.{kind}"
        for name in ("cpu", "hits", "latency", "throughput")
        for kind in ("png", "svg")
    ]
    assert CliRunner().invoke(bench, ["report", "--records", str(tmp_path / "x")]).exit_code != 0


def test_a_record_says_where_it_comes_from() -> None:
    facts = {"commit": "0123456789abcdef-dirty", "cpu": "C", "cores": 2, "load_average": [1.5]}
    assert where({"environment": facts}) == "0123456789-dirty; C, 2 cores, load 1.5; ?"
    assert where({}) == "unknown"
