"""The whole report on the real model, in its quick form, and what goes with it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.attack.prompts import load_prompts
from safekv.attack.public import PublicModel
from safekv.audit.stolen import run as running
from safekv.audit.stolen.plan import Plan
from safekv.audit.stolen.run import JOURNAL, run
from safekv.cli.main import cli
from safekv.errors import ConfigError

pytestmark = pytest.mark.model

KEYS = [
    *("attack", "protection", "layer", "dtype", "prompts", "token_recovery"),
    *("token_recovery_ci", "rouge_l", "pii_recovered", "random_baseline", "wrong_key_control"),
    "tokens_per_s",
]


class Outside(HTMLParser):
    """What a page would load or link to. Text is not: what attacks guess may spell anything."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._styles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._styles += tag == "style"
        if tag in ("link", "script", "iframe", "img", "object", "base"):
            self.found.append(tag)
        for name, value in attrs:
            if name != "xmlns" and ("//" in (value or "") or "url(" in (value or "")):
                self.found.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._styles -= tag == "style"

    def handle_data(self, data: str) -> None:
        if self._styles and ("url(" in data or "@import" in data):
            self.found.append(data)


def test_the_quick_report_shows_what_is_expected(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    # Four tokens of deep layers, as many as `quick` has, carry no expectation; that deep layers
    # are read at all is test_plain_caches' matter.
    arguments = ["attack", "report", "--quick", "--layer", "first", "--out", str(out)]
    arguments += ["--model", str(model_dir)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads((out / "report.json").read_text())
    assert set(told) == {"rows", "environment"}
    assert all(list(row) == KEYS for row in told["rows"])
    rows = {
        (row["attack"], row["protection"], row["layer"], row["dtype"]): row["token_recovery"]
        for row in told["rows"]
    }
    for dtype in ("fp32", "int8"):
        for protection in ("none", "quantised"):
            assert rows["collision", protection, "first", dtype] == 1.0
        assert rows["collision", "cloak", "first", dtype] < 0.1
        assert rows["template", "permute", "first", dtype] == 1.0
        for protection in ("stream", "vault"):
            assert rows["template", protection, "first", dtype] < 0.1
    assert rows["template", "cloak", "first", "fp32"] == 1.0
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert load_prompts()[0].text in page
    outside = Outside()
    outside.feed(page)
    assert outside.found == []


def test_an_interrupted_report_goes_on(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, prompts = PublicModel.load(model_dir), load_prompts()
    plan = replace(
        Plan.quick(), attacks=("collision",), protections=("none", "stream"), layers=("first",)
    )
    whole = run(public, "m", prompts, plan, tmp_path, lambda *told: None)
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + lines[3][:20])
    measured: list[str] = []
    real = running.measure

    def counted(session: object, cell: object) -> object:
        measured.append(cell.name)  # type: ignore[attr-defined]
        return real(session, cell)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "measure", counted)
    again = run(public, "m", prompts, plan, tmp_path, lambda *told: None)
    assert measured == [record["cell"] for record in whole[2:]]
    assert again[:2] == whole[:2]
    with pytest.raises(ConfigError, match="another plan"):
        run(public, "m", prompts, replace(plan, victims=3), tmp_path, lambda *told: None)


def test_one_attack_prints_one_row(model_dir: Path) -> None:
    arguments = ["attack", "collision", "--victims", "2", "--json", "--show"]
    result = CliRunner().invoke(cli, [*arguments, "--model", str(model_dir)])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert list(row) == [*KEYS, "texts"]
    assert (row["token_recovery"], row["pii_recovered"], row["prompts"]) == (1.0, 1.0, 2)
    assert row["texts"][0] == [load_prompts()[0].text] * 2
    assert row["random_baseline"] < 0.05
