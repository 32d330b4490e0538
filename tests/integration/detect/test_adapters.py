"""Other people's detectors as stages: each real one keeps the contract where it is installed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from safekv.detect.adapters import from_spacy, from_transformers
from safekv.detect.base import Detector, Document
from safekv.detect.manifest import TOKENIZER
from safekv.detect.peers import detect_secrets, presidio
from safekv.testing.contracts import DetectorContract
from safekv.types import Verdict
from support.classifiers import write_classifier


class TestTransformers(DetectorContract):
    """A pipeline of random weights: what it finds means nothing, and it finds something."""

    @cache  # noqa: B019 - one for all tests; the class lives as long as they do
    def detector(self) -> Detector:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("onnx")
        import tempfile

        folder = write_classifier(Path(tempfile.mkdtemp()))
        words = json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / TOKENIZER), pad_token="[PAD]", unk_token="[UNK]",
            cls_token="[CLS]", sep_token="[SEP]", model_max_length=64,
        )  # fmt: skip
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, max_position_embeddings=64, num_labels=2,
        )  # fmt: skip
        pipeline = transformers.pipeline(
            "token-classification", model=transformers.BertForTokenClassification(config).eval(),
            tokenizer=tokenizer, aggregation_strategy="simple", stride=16,
            ignore_labels=["LABEL_0"],
        )  # fmt: skip
        return from_transformers(pipeline, private_from=0.4)

    def test_judges_long_texts(self) -> None:
        """Shorter than the contract's, as a forward pass of 200,000 characters takes minutes."""
        text = "the bridge of Ada " * 60
        assert len(self._judge(Document(text, (500, 1000)))) == 2

    def test_finds_something(self) -> None:
        found = self._judge(Document("the bridge of Ada Lovelace " * 10, (27, 54)))
        assert any(one.verdict is Verdict.PRIVATE for one in found)
        assert all(one.rule.startswith(("transformers-label-1", "clean")) for one in found)


def test_spacy_entities_become_findings() -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada"}])
    (found,) = from_spacy(pipeline).locate("We met Ada there")
    assert (found.start, found.end, found.kind) == (7, 10, "person")


def test_presidio_finds_a_card() -> None:
    pytest.importorskip("presidio_analyzer")
    peer = presidio()
    assert not isinstance(peer, str)
    assert any(one.start == 8 for one in peer.locate("my card 4111 1111 1111 1111"))


def test_detect_secrets_finds_a_key() -> None:
    pytest.importorskip("detect_secrets")
    peer = detect_secrets()
    assert not isinstance(peer, str)
    text = "first line\naws_key = 'AKIAIOSFODNN7EXAMPLQ'\n"
    assert text.index("AKIA") in {one.start for one in peer.locate(text)}
