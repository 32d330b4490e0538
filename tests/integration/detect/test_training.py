"""The training recipe from end to end, on a network small enough for a few seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("faker")

import torch

from safekv.detect.encoding import SHAPES, Encoder
from safekv.detect.manifest import TOKENIZER
from safekv.detect.training.corpora import LABELS, read_corpus
from safekv.detect.training.export import export
from safekv.detect.training.network import Network, NetworkShape, narrowed
from safekv.detect.training.recipe import Recipe, Run, tensors
from safekv.detect.training.run import train_model
from safekv.detect.training.windows import Mixture, epoch_windows
from safekv.errors import ConfigError
from support.classifiers import write_classifier
from support.corpora import write_corpora


def test_a_tiny_run_trains_exports_and_loads(tmp_path: Path) -> None:
    """The whole recipe on a network of one layer and a few words: no figure, but every step."""
    corpus = read_corpus(write_corpora(tmp_path / "data"))
    tokenizer = (write_classifier(tmp_path / "names") / TOKENIZER).read_text()
    encoder = Encoder(tokenizer)
    shape = NetworkShape(
        vocabulary=len(json.loads(tokenizer)["model"]["vocab"]), labels=len(LABELS), shapes=SHAPES,
        layers=1, width=24, heads=2, inner=32, positions=64,
    )  # fmt: skip
    mixture = Mixture(
        window_tokens=32, private_texts=20, report_texts=10, template_texts=10, public_texts=10
    )
    recipe = Recipe(layers=1, inner=16, epochs=2.0, batch_windows=8, mixture=mixture)
    losses: list[float] = []
    checkpoint = tmp_path / "run.checkpoint"
    *inputs, _ = tensors(epoch_windows(corpus.train, encoder, mixture, 1)[:9], encoder.pad_id)
    network = narrowed(Network(shape), tuple(inputs), recipe.inner)
    assert network.shape.inner == 16
    happened = Run(network, encoder, recipe, checkpoint).train(
        corpus, lambda one: losses.append(one.loss)
    )
    assert happened["steps"] == len(losses) >= 3
    assert losses[-1] < losses[0]
    again = Network(network.shape)
    went_on = Run(again, encoder, recipe, checkpoint).train(corpus, lambda one: None)
    assert went_on["steps"] == happened["steps"]
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))
    longer = replace(recipe, epochs=3.0)
    more = Run(again, encoder, longer, checkpoint).train(corpus, lambda one: None)
    assert more["steps"] > happened["steps"]
    assert [one["until_step"] for one in more["before"]] == [happened["steps"]]
    with pytest.raises(ConfigError, match="another network"):
        Run(again, encoder, replace(recipe, inner=8), checkpoint).train(corpus, lambda one: None)
    parity = export(network, tmp_path / "tiny.onnx")
    assert parity["fp32_max_difference"] < 1e-4
    assert parity["int8_same_label"] > 0.8


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:

    with pytest.raises(ConfigError, match="exists already"):
        train_model(tmp_path, tmp_path, Recipe(), lambda one: None)
