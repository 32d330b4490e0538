"""What the figures count, which files are read, and that commands never print the text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.detect import detect
from safekv.detect.config import DetectConfig
from safekv.detect.evaluate import evaluate, latencies_us
from safekv.detect.labelled import LabelledSpan, LabelledText, half_of, read_labelled
from safekv.detect.peers import NOT_INSTALLED, PEERS
from safekv.detect.rules import RuleDetector
from safekv.errors import ConfigError

CARD = "4111 1111 1111 1111"


@cache
def shipped() -> RuleDetector:
    return RuleDetector.from_config(DetectConfig())


def labelled(text: str, **values: str) -> LabelledText:
    spans = [LabelledSpan(text.index(v), text.index(v) + len(v), k) for k, v in values.items()]
    return LabelledText(text, tuple(spans))


def test_counts_entities_by_kind() -> None:
    texts = [
        labelled(f"pay with {CARD} for Ada", card=CARD, person="Ada"),
        labelled("Ada went home to London", person="Ada", location="London"),
        labelled("write to ada@example.org"),
        labelled("nothing here"),
    ]
    entity = evaluate(shipped(), texts, "all")["entity"]
    assert entity["card"] == {"recall": 1.0, "precision": 1.0, "f1": 1.0, "support": 1}
    assert entity["person"]["recall"] == 0.0
    assert entity["person"]["support"] == 2
    assert entity["location"]["support"] == 1
    assert entity["ALL"] == {
        "recall": pytest.approx(1 / 3, abs=1e-4), "precision": 0.5, "f1": 0.4, "support": 3,
    }  # fmt: skip


def test_counts_blocks_of_joined_texts() -> None:
    prose = "the old bridge was painted in the end, by people whom nobody had asked. " * 5
    texts = [
        labelled(prose + CARD + prose, card=CARD),
        labelled(prose + "in London" + prose, location="London"),
        labelled(prose + "ada@example.org" + prose),
    ]
    result = evaluate(shipped(), texts, "all")
    for size in ("16", "32", "64"):
        assert result["blocks"][size]["recall"] == 1.0
        # The address is found and not labelled, so it counts as a false flag.
        assert 0.0 < result["blocks"][size]["precision"] < 1.0
    clean_blocks = sum(len(one.text) + 2 for one in texts) // 256
    assert result["false_flag_rate"] == pytest.approx(1 / (clean_blocks - 1), abs=0.02)


def test_no_texts_have_no_figures() -> None:
    result = evaluate(shipped(), [], "none")
    assert result["entity"]["ALL"]["recall"] is None
    assert result["false_flag_rate"] is None
    assert latencies_us(shipped(), []) == {"p50": None, "p99": None}


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


def test_scan_prints_places_and_masks_the_text() -> None:
    result = run("scan", "--rules-only", "-", stdin=f"é card {CARD}.".encode())
    assert result.exit_code == 1
    assert result.stdout == "7-26\tcard\trules\t0.85\t************\n"
    told = run("scan", "--rules-only", "-", "--json", stdin=f"card {CARD}".encode())
    assert json.loads(told.stdout) == {
        "start": 5, "end": 24, "type": "card", "stage": "rules", "confidence": 0.85,
    }  # fmt: skip
    assert "4111" not in result.output + told.output


def test_scan_shows_values_only_when_asked() -> None:
    shown = run("scan", "--rules-only", "-", "--show", "--json", stdin=f"card {CARD}".encode())
    assert json.loads(shown.stdout)["value"] == CARD
    assert CARD in run("scan", "--rules-only", "-", "--show", stdin=f"card {CARD}".encode()).stdout


def test_scan_of_clean_and_of_unreadable_bytes() -> None:
    assert run("scan", "--rules-only", "-", stdin=b"nothing here").exit_code == 0
    assert run("scan", "--rules-only", "-", stdin=b"\xff\xfe \x80").exit_code == 0
    assert run("scan", "--rules-only", "-", stdin=b"").output == ""


def test_scan_of_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    for arguments in ((str(tmp_path / "absent"),), ("-", "--classifier", str(tmp_path / "absent"))):
        result = run("scan", *arguments)
        assert isinstance(result.exception, ConfigError)
        assert result.exception.exit_code == 2


def test_scan_asks_stage_2_too_unless_told_not_to() -> None:
    pytest.importorskip("onnxruntime")
    text = b"The defendant, Rajesh Venkataraman, had never met Ms Castellanos."
    both = run("scan", "-", "--json", stdin=text)
    assert "classifier" in {json.loads(line)["stage"] for line in both.stdout.splitlines()}
    assert run("scan", "--rules-only", "-", stdin=text).exit_code == 0
    assert run("scan", "--rules-only", "-", "--classifier", "x", stdin=text).exit_code == 2


def test_eval_prints_the_documented_keys(tmp_path: Path) -> None:
    spans, conll = tmp_path / "a.jsonl", tmp_path / "b.txt"
    spans.write_text(json.dumps({"text": CARD, "spans": [{"start": 0, "end": 19, "type": "CARD"}]}))
    conll.write_text("Ada B-person\nsings O\n")
    files = ("--spans", str(spans), "--conll", str(conll))
    told = json.loads(run("eval", "--rules-only", *files, "--no-peers", "--json").stdout)
    assert set(told) == {"datasets", "latency", "peers", "environment"}
    assert set(told["datasets"]) == {"adversarial", "a.jsonl", "b.txt"}
    for one in told["datasets"].values():
        assert set(one) == {"split", "entity", "blocks", "false_flag_rate", "decided_by"}
        assert set(one["blocks"]) == {"16", "32", "64"}
        assert all(set(score) == {"recall", "precision", "f1"} for score in one["blocks"].values())
    assert told["datasets"]["a.jsonl"]["entity"]["CARD"]["recall"] == 1.0
    assert told["datasets"]["b.txt"]["entity"]["person"]["support"] == 1
    assert set(told["latency"]) == {
        "rules_us_per_1k_tokens", "classifier_ms_per_1k_tokens", "judge_ms_per_1k_tokens",
    }  # fmt: skip
    assert "CARD" in run("eval", "--rules-only", *files, "--no-peers").stdout


def test_peers_are_measured_or_said_to_be_missing() -> None:
    for make in PEERS.values():
        peer = make()
        assert peer == NOT_INSTALLED or not isinstance(peer, str)
