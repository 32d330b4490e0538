"""A rule file with a mistake stops the start, and the message says where and what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.rules import RuleDetector
from safekv.detect.ruleset import load_rules
from safekv.errors import ConfigError
from safekv.types import Verdict

GOOD = """
[[rule]]
id = "badge"
pattern = '''\\bB-\\d{4}\\b'''
context = ["badge", "工牌"]
examples = ["badge B-1234", "工牌B-1234"]
counter_examples = ["B-1234", "badge B-12345"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_operators_rule_joins_the_shipped_ones(tmp_path: Path) -> None:
    detector = RuleDetector.from_config(DetectConfig(extra_rulesets=(write(tmp_path, GOOD),)))
    text = "my badge is B-1234."
    [found] = detector.judge(Document(text + " " * 64, (len(text),)))
    assert (found.verdict, found.rule) == (Verdict.PRIVATE, "badge")
    assert len(detector.rules) == len(load_rules()) + 1


WRONG = {
    "pattern": (GOOD.replace("{4}", "(4"), "badge", "RE2 refuses"),
    "look-around": (GOOD.replace("\\bB", "(?<=x)B"), "badge", "RE2 refuses"),
    "unknown key": (GOOD + "contxt = 'x'\n", "badge", "unknown keys ['contxt']"),
    "unknown validator": (GOOD + "validator = 'lune'\n", "badge", "validator 'lune'"),
    "unknown scope": (GOOD + "scope = 'chapter'\n", "badge", "scope 'chapter'"),
    "duplicate": (GOOD + GOOD, "badge", "defined already"),
    "duplicate of a shipped rule": (GOOD.replace('"badge"\np', '"card"\np'), "card", "financial"),
    "no examples": (GOOD.replace('["badge B-1234", "工牌B-1234"]', "[]"), "badge", "bad examples"),
    "no pattern": (GOOD.replace("pattern", "context_bytes = 9\n#"), "badge", "lacks ['pattern']"),
    "no id": (GOOD.replace('id = "badge"', ""), "1", "lacks ['id']"),
    "bad id": (GOOD.replace('"badge"\np', '"A badge"\np'), "A badge", "id"),
    "reserved id": (GOOD.replace('"badge"\np', '"clean"\np'), "clean", "id"),
    "bad type": (GOOD + "context_bytes = '9'\n", "badge", "bad context_bytes"),
    "flag for number": (GOOD + "context_bytes = true\n", "badge", "bad context_bytes"),
    "zero": (GOOD + "context_bytes = 0\n", "badge", "bad context_bytes"),
    "blank context": (GOOD.replace('"badge", "工', '" ", "工'), "badge", "bad context"),
    "empty match": (GOOD.replace("\\bB-\\d{4}\\b", "x*"), "badge", "empty text"),
    "example missed": (GOOD.replace('"badge B-1234"', '"badge C-1234"'), "badge", "example 1"),
    "counter-example hit": (
        GOOD.replace('["B-1234"', '["badge: B-1234"'),
        "badge",
        "counter-example 1",
    ),
    "escape eaten by TOML": (
        GOOD.replace("'''", '"""').replace("\\d", "[0-9]"),
        "badge",
        "example",
    ),
    "not TOML": ("[[rule", "own.toml", "not TOML"),
    "no rule": ("", "own.toml", "[[rule]]"),
    "other table": (GOOD + "[rules]\n", "own.toml", "rules"),
    "rule is no list": ("rule = 3", "own.toml", "[[rule]]"),
    "rule is no table": ("rule = [3]", "own.toml", "[[rule]]"),
}


@pytest.mark.parametrize(("text", "name", "complaint"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, name: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        RuleDetector.from_config(DetectConfig(extra_rulesets=(path,)))
    assert str(path) in caught.value.message
    assert name in caught.value.message
    assert complaint in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_wrong_rule_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + GOOD.replace("badge", "other").replace("{4}", "(4"))
    with pytest.raises(ConfigError) as caught:
        load_rules([path])
    assert f"{path}:9: rule 'other'" in caught.value.message


def test_context_words_are_normalised_as_texts_are(tmp_path: Path) -> None:
    # U+0E33 becomes two characters in a normalised text.
    path = write(tmp_path, GOOD.replace("工牌", "ประจำตัว"))
    assert load_rules([path])[-1].id == "badge"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ruleset", "matching", "validators"):
        monkeypatch.delitem(sys.modules, f"safekv.detect.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigError, match="re2") as caught:
        RuleDetector.from_config(DetectConfig())
    assert "safekv[detect]" in caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_rules([tmp_path / "absent.toml"])


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules([path])
