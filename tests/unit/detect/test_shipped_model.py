"""The classifier that comes with safekv: whole, licensed, small, and better than nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

from safekv.detect.base import Document
from safekv.detect.classifier import TokenClassifier
from safekv.detect.config import DetectConfig
from safekv.detect.manifest import MODEL, read_model, shipped_folder
from safekv.detect.registry import build_cascade
from safekv.errors import DetectorError
from safekv.types import Verdict

MAX_BYTES = 15_000_000

PRIVATE = (
    "Dear Margaret Holloway, your appointment with Dr. Petrossian was moved to Friday.",
    "my name is oluwaseun adeyemi and i cannot pay my rent, what do i write to my landlord",
    "Patient: Annika Lindqvist. Next of kin: Erik Lindqvist. She was admitted with chest pain.",
    "Please ship it to Tobias Brenner, 14 Larkspur Lane, Bridgeport.",
    "The defendant, Rajesh Venkataraman, told the court that he had never met Ms Castellanos.",
)
PUBLIC = (
    "You are a helpful assistant. Answer briefly, and say so when you do not know.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n",
    "I want you to act as a travel guide. I will write you where I am; suggest a place.",
    "Explain the difference between a list and a tuple in Python, with two examples of each.",
    "Tom has 5 apples and gives 2 of them to Mary. How many apples does Tom have left?",
    "Compare the philosophy of Aristotle with that of Plato in three paragraphs.",
)


@pytest.fixture(scope="module")
def classifier() -> TokenClassifier:
    return TokenClassifier.from_config(DetectConfig(lookahead_chars=0))


def test_it_is_whole_small_and_says_where_it_comes_from() -> None:
    manifest, files = read_model(shipped_folder())
    assert sum(len(content) for content in files.values()) < MAX_BYTES
    assert manifest.version == manifest.files[MODEL][:12]
    trained = [one for one in manifest.training["corpora"] if one["trained_on"] != "none"]
    assert len(trained) > 5
    assert all(len(one["sha256"]) == 64 and one["licence"] for one in manifest.training["corpora"])
    shared_alike = [one for one in manifest.licences if "SA" in one]
    assert not shared_alike
    card = (shipped_folder() / "MODEL_CARD.md").read_text()
    assert manifest.version in card
    for needed in ("CC BY 4.0", "WNUT", "Broad Twitter", "Wikigold", "Apache"):
        assert needed in card


def test_its_manifest_has_figures_of_texts_that_it_did_not_learn_from() -> None:
    manifest, _ = read_model(shipped_folder())
    assert {"ner/re3d-test.conll", "prompts/gsm8k_test.jsonl"} <= manifest.metrics.keys()
    for one in manifest.metrics.values():
        assert one["split"]
        assert one["blocks"].keys() == {"16", "32", "64"}


@pytest.mark.parametrize("text", PRIVATE)
def test_it_finds_people(classifier: TokenClassifier, text: str) -> None:
    assert classifier.locate(text)
    (found,) = classifier.judge(Document(text, (len(text),)))
    assert found.verdict is not Verdict.SHAREABLE


@pytest.mark.parametrize("text", PUBLIC)
def test_it_lets_ordinary_prompts_pass(classifier: TokenClassifier, text: str) -> None:
    (found,) = classifier.judge(Document(text, (len(text),)))
    assert found.verdict is Verdict.SHAREABLE


def test_it_is_a_stage_by_default() -> None:
    def fail(stage: str, reason: str) -> None:
        raise DetectorError(reason)

    cascade = build_cascade(DetectConfig(lookahead_chars=0), fail)
    text = PRIVATE[0]
    (found,) = cascade.judge(Document(text, (len(text),)))
    assert found.verdict is not Verdict.SHAREABLE
    assert found.rule.startswith("classifier-")


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    from safekv.errors import ModelError

    for one in shipped_folder().iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    content = bytearray((tmp_path / MODEL).read_bytes())
    content[-1] ^= 1
    (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        TokenClassifier.from_folder(tmp_path)
