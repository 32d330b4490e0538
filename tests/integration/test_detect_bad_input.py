"""Texts that break detectors: each gets a verdict for every block, in time, and nothing is lost."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.cli.detect import detect
from safekv.detect.base import Document
from safekv.detect.cascade import Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.registry import build_cascade
from safekv.types import Verdict

pytest.importorskip("onnxruntime")

CARD = "4111 1111 1111 1111"
SCRIPTS = (
    "The weather is fine today", "Погода сегодня хорошая", "Ο καιρός είναι καλός σήμερα",
    "今日は天気がいいです", "今天天气很好", "오늘은 날씨가 좋습니다", "الطقس جميل اليوم",
    "מזג האוויר יפה היום", "आज मौसम अच्छा है", "আজ আবহাওয়া ভালো", "ਅੱਜ ਮੌਸਮ ਚੰਗਾ ਹੈ",
    "આજે હવામાન સારું છે", "இன்று வானிலை நன்றாக உள்ளது", "ఈరోజు వాతావరణం బాగుంది",
    "ಇಂದು ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ", "ഇന്ന് കാലാവസ്ഥ നല്ലതാണ്", "අද කාලගුණය හොඳයි", "วันนี้อากาศดี",
    "ມື້ນີ້ອາກາດດີ", "ယနေ့ရာသီဥတုကောင်းသည်", "ថ្ងៃនេះអាកាសធាតុល្អ", "დღეს კარგი ამინდია",
    "Այսօր եղանակը լավ է", "ዛሬ አየሩ ጥሩ ነው",
)  # fmt: skip


@lru_cache
def cascade() -> Cascade:
    """Rules and the shipped classifier; a stage that fails fails the test."""
    return build_cascade(
        DetectConfig(stages=("rules", "classifier")), lambda stage, reason: pytest.fail(reason)
    )


def verdicts(text: str, block_chars: int = 256) -> list[Verdict]:
    """One for each block of so many characters."""
    ends = [*range(block_chars, len(text), block_chars), len(text)]
    found = cascade().judge(Document(text, tuple(ends)))
    assert len(found) == len(ends)
    return [one.verdict for one in found]


@pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "\ufeff"])
def test_next_to_nothing_has_a_verdict_and_finds_nothing(text: str) -> None:
    assert cascade().judge(Document(text, ())) == []
    assert Verdict.PRIVATE not in verdicts(text)


@pytest.mark.parametrize("char", ["a", "0", "é", "\u200b", "\ufffd", "\x01", " "])
def test_a_megabyte_of_one_character_is_judged_block_by_block(char: str) -> None:
    found = verdicts(char * (1 << 20), block_chars=4096)
    assert Verdict.PRIVATE not in found
    # Only blank space is understood; the rest is no word that anybody knows.
    assert (found[0] is Verdict.SHAREABLE) == (char == " ")


@pytest.mark.parametrize("char", ["漢", "("])
def test_each_of_many_pieces_is_read_in_windows(char: str) -> None:
    """A piece per character: the dearest text there is, 16,384 of them here."""
    found = verdicts(char * (1 << 14), block_chars=4096)
    assert (found[0] is Verdict.SHAREABLE) == (char == "(")


@pytest.mark.parametrize("line", SCRIPTS)
def test_no_script_hides_a_card_number_or_is_cleared_unread(line: str) -> None:
    plain = f"{line}. " * 20
    assert Verdict.PRIVATE in verdicts(plain + CARD + plain)
    found = verdicts(plain)
    assert Verdict.PRIVATE not in found
    # English is read; of every other script nobody knows what names look like there.
    assert (Verdict.SHAREABLE in found) == (line == SCRIPTS[0])


def test_names_in_other_scripts_are_not_cleared() -> None:
    """Single letters of these are in the vocabulary, so they were read, and cleared."""
    for said in (
        "Με λένε Γιώργο Παπαδόπουλο και μένω στην οδό Σταδίου 12 στην Αθήνα. ",
        "Меня зовут Иван Петров, я живу на улице Ленина, дом 5, квартира 12. ",
    ):
        assert Verdict.SHAREABLE not in verdicts(said * 12)


def test_symbols_accents_and_emoji_do_not_make_a_text_foreign() -> None:
    said = "Write a naïve résumé in a café – “quoted” → 100 % of ½ the words • with ĉapeloj 🙂. "
    assert Verdict.SHAREABLE in verdicts(said * 12)


def test_a_card_number_between_control_and_broken_characters_is_found() -> None:
    for junk in ("\x00", "\x1b[31m", "\u202e", "\ufffd", "\ud800", "\u0300"):
        said = f"{junk} see the invoice {junk} " * 30
        assert Verdict.PRIVATE in verdicts(said + CARD + said), repr(junk)


def test_half_a_character_at_the_end_of_a_block_is_no_error() -> None:
    """Tokens may end within a character; what is decoded then ends with U+FFFD."""
    text = ("The ünïcode of a rainy day is grey. " * 30).encode()[:-1]
    cut = text[: text.rindex("ü".encode()) + 1].decode(errors="replace")
    assert cut.endswith("\ufffd")
    assert Verdict.SHAREABLE in verdicts(cut)


def test_a_bad_rule_file_is_named_with_its_line_and_nothing_starts(tmp_path: Path) -> None:
    bad = tmp_path / "rules.toml"
    bad.write_text(
        '[[rule]]\nid = "badge"\npattern = "B-(\\\\d{4}"\npositive = ["B-1234"]\nnegative = ["B"]\n'
    )
    result = CliRunner().invoke(detect, ["scan", "-", "--rules", str(bad)], input="hello")
    assert result.exit_code != 0
    said = str(result.exception) + result.output
    assert str(bad) in said
    assert "badge" in said


def test_nothing_found_is_an_empty_answer_and_json_stays_json() -> None:
    runner = CliRunner()
    empty = runner.invoke(detect, ["scan", "-", "--json"], input="")
    assert (empty.exit_code, empty.output) == (0, "")
    found = runner.invoke(
        detect, ["scan", "-", "--json"], input=b"\xff\xfe my card is " + CARD.encode()
    )
    assert found.exit_code == 1
    assert all(
        {"start", "end", "type"} <= json.loads(line).keys() for line in found.output.splitlines()
    )
