"""What a report of stolen caches says, and that it says so when something is not as expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safekv.attack.errors import AttackError
from safekv.attack.prompts import BUNDLED, load_prompts
from safekv.audit.stolen.figure import heat_map
from safekv.audit.stolen.findings import findings
from safekv.audit.stolen.report import write


def row(attack: str, protection: str, value: float, **more: Any) -> dict[str, Any]:
    return {
        "attack": attack,
        "protection": protection,
        "layer": "first",
        "dtype": "fp32",
        "prompts": 20,
        "token_recovery": value,
        "token_recovery_ci": [max(0.0, value - 0.05), value],
        "rouge_l": value,
        "pii_recovered": None,
        "random_baseline": 0.0,
        "wrong_key_control": 0.0,
        "tokens_per_s": 1.0,
        **more,
    }


EXPECTED = [
    row("collision", "none", 1.0),
    row("collision", "cloak", 0.01),
    row("collision", "stream", 0.0),
    row("template", "cloak", 1.0),
    row("template", "permute", 1.0),
    row("template", "vault", 0.0),
    row("swap", "cloak", 1.0, layer="all"),
    row("swap", "vault", 0.0, layer="all"),
]


def test_what_is_expected_holds() -> None:
    chatter = row("injection", "stream", 0.14, wrong_key_control=0.06, layer="all")
    numbers = {"token_recovery_ci": [0.03, 0.1], "wrong_key_control": 0.02, "dtype": "int8"}
    common = row("inverter", "stream", 0.065, **numbers)
    found = findings([*EXPECTED, chatter, common])
    assert len(found) == 7
    assert all(one.holds for one in found)
    assert findings([]) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (row("collision", "none", 0.8), "Plain caches"),
        (row("inversion", "cloak", 0.4), "KV-Cloak stops"),
        (row("template", "cloak", 0.5), "KV-Cloak in float32"),
        (row("template", "permute", 0.5), "secret order"),
        (row("inverter", "stream", 0.2), "stream and the vault"),
        (row("inverter", "stream", 0.08, wrong_key_control=0.02), "stream and the vault"),
        (row("injection", "vault", 0.3, wrong_key_control=0.1), "stream and the vault"),
        (row("template", "cloak", 1.0, wrong_key_control=0.5), "another instance"),
        (row("swap", "vault", 1.0, layer="all"), "Only the vault"),
        (row("swap", "stream", 0.0, layer="all"), "Only the vault"),
    ],
)
def test_what_is_not_as_expected_is_named(changed: dict[str, Any], told: str) -> None:
    wrong = [one for one in findings([*EXPECTED, changed]) if not one.holds]
    assert len(wrong) == 1
    assert told in wrong[0].sentence
    assert f"{changed['attack']}/{changed['protection']}" in wrong[0].evidence


def test_files_of_a_report(tmp_path: Path) -> None:
    secret = "Ann <b> & 'Bob'"
    records = [
        {"row": one, "details": {"wall_s": 1.0}, "texts": [[secret, secret]]} for one in EXPECTED
    ]
    write(tmp_path, records, {"model": "m<i>", "cpu": "c"})
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {"report.json", "details.json", "report.md", "report.html", "heatmap.svg"}
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == EXPECTED
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    assert "m<i>" not in page
    assert "Ann &lt;b&gt;" in page


def test_the_heat_map_shows_every_cell() -> None:
    picture = heat_map(EXPECTED, standalone=True)
    assert picture.count('class="cell"') == len(EXPECTED)
    # Three attacks by five protections; the rest does not apply.
    assert picture.count(">·<") == 3 * 5 - len(EXPECTED)
    for name in ("collision", "template", "swap", "vault", "permute"):
        assert name in picture


def test_bundled_prompts_are_whole() -> None:
    prompts = load_prompts()
    assert len(prompts) == 24
    assert len({one.text for one in prompts}) == 24
    assert all(one.pii for one in prompts)
    assert repr(prompts[0]).count("4539") == 0


def test_bad_prompt_files_name_the_line_and_not_the_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    good = BUNDLED.read_text().splitlines()[0]
    for bad in ("secret words", '{"text": ""}', '{"text": "a", "pii": ["secret"]}', "[]"):
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(AttackError, match="line 2") as caught:
            load_prompts(path)
        assert "secret" not in str(caught.value)
    path.write_text("")
    with pytest.raises(AttackError, match="no prompts"):
        load_prompts(path)
    with pytest.raises(AttackError, match="cannot read"):
        load_prompts(tmp_path / "missing")
