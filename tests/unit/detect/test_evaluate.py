"""What the figures count, which files are read, and that commands never print the text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.detect import detect
from safekv.detect.config import DetectConfig
from safekv.detect.evaluate import LabelledSpan, LabelledText, evaluate, half_of, read_labelled
from safekv.detect.rules import RuleDetector
from safekv.errors import ConfigError

CARD = "4111 1111 1111 1111"


@cache
def shipped() -> RuleDetector:
    return RuleDetector.from_config(DetectConfig())


def labelled(text: str, **values: str) -> LabelledText:
    spans = [LabelledSpan(text.index(v), text.index(v) + len(v), k) for k, v in values.items()]
    return LabelledText(text, tuple(spans))


def test_counts_characters_and_documents_by_kind() -> None:
    texts = [
        labelled(f"pay with {CARD} for Ada", card=CARD, person="Ada"),
        labelled("Ada went home", person="Ada"),
        labelled("write to ada@example.org"),
        labelled("nothing here"),
    ]
    result = evaluate(shipped(), texts)
    assert result["characters"]["card"] == {
        "recall": 1.0, "precision": 1.0, "f1": 1.0, "support": len(CARD),
    }  # fmt: skip
    assert result["characters"]["person"]["recall"] == 0.0
    assert result["by_document"]["person"]["support"] == 2
    assert result["overall"]["recall"] == pytest.approx(19 / 25, abs=1e-4)
    assert result["overall"]["precision"] == pytest.approx(19 / 34, abs=1e-4)
    assert result["false_flag_rate"] == 0.5


def test_no_texts_have_no_figures() -> None:
    result = evaluate(shipped(), [])
    assert result["overall"]["recall"] is None
    assert result["latency_us_per_4000_characters"] == {"p50": None, "p99": None}


def test_halves_share_no_template_and_lose_no_text() -> None:
    texts = [LabelledText(f"text {i}", group=str(i % 7)) for i in range(70)]
    tuned, held_out = half_of(texts, held_out=False), half_of(texts, held_out=True)
    assert len(tuned) + len(held_out) == 70
    assert not {t.group for t in tuned} & {t.group for t in held_out}


def test_reads_json_lines_lists_and_conll(tmp_path: Path) -> None:
    line = {"text": "Ada", "spans": [{"start": 0, "end": 3, "type": "person"}]}
    row = {"full_text": "Ada", "spans": [{"start_position": 0, "end_position": 3,
           "entity_type": "person"}]}  # fmt: skip
    expected = [LabelledText("Ada", (LabelledSpan(0, 3, "person"),))]
    for name, content in (
        ("a.jsonl", json.dumps(line) + "\n\n"),
        ("a.json", json.dumps([row])),
        ("a.conll", "Ada\tB-person\n"),
    ):
        (tmp_path / name).write_text(content)
        assert read_labelled(tmp_path / name) == expected


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"text": "a"}', '{"text": "a", "spans": [{"start": 0, "end": 2, "type": "x"}]}'],
)
def test_refuses_what_is_not_labelled_text(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.jsonl"):
        read_labelled(path)


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(detect, arguments, input=stdin)


def test_check_prints_places_and_never_the_text() -> None:
    result = run("check", "-", stdin=f"é card {CARD}.".encode())
    assert result.exit_code == 1
    assert result.stdout == "7-26\tcard\n"
    told = run("check", "-", "--json", stdin=f"card {CARD}".encode())
    assert json.loads(told.stdout) == {
        "start": 5, "end": 24, "type": "card", "stage": "rules", "confidence": 1.0,
    }  # fmt: skip
    assert "4111" not in result.output + told.output


def test_check_of_clean_and_of_unreadable_bytes() -> None:
    assert run("check", "-", stdin=b"nothing here").exit_code == 0
    assert run("check", "-", stdin=b"\xff\xfe \x80").exit_code == 0
    assert run("check", "-", stdin=b"").output == ""


def test_check_of_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "absent"))
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2


def test_eval_prints_one_object_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": CARD, "spans": [{"start": 0, "end": 19, "type": "CARD"}]}))
    told = json.loads(run("eval", "--data", str(path), "--json").stdout)
    assert told["datasets"]["a.jsonl"]["characters"]["CARD"]["recall"] == 1.0
    assert "CARD" in run("eval", "--data", str(path)).stdout
