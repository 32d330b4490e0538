"""Every benchmark of the detector in one run: data sets, stages, peers, and the environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from safekv.detect import peers as peer_tools
from safekv.detect.adversarial import PROSE, adversarial_set
from safekv.detect.base import Detector
from safekv.detect.config import DetectConfig
from safekv.detect.evaluate import evaluate, latencies_us
from safekv.detect.labelled import LabelledText, half_of, read_labelled
from safekv.detect.registry import build_cascade, build_stage
from safekv.errors import DetectorError

TRICKS: Final = "adversarial"

PEER_TEXTS: Final = 60
"""Texts of each set that peers are measured on: some take 100 ms for each."""

_LATENCY_TEXTS: Final = 200
_LATENCY_CHARACTERS: Final = 4_000
_PACKAGES: Final = (
    "google-re2", "phonenumbers", "python-stdnum", "onnxruntime", "tokenizers", "numpy",
    "presidio-analyzer", "spacy", "detect-secrets",
)  # fmt: skip

Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Suite:
    """Named sets of labelled texts, each with a sentence on how it was divided."""

    sets: Mapping[str, tuple[str, Sequence[LabelledText]]] = field(repr=False)

    @classmethod
    def read(
        cls, data: Path | None, spans: Sequence[Path], conll: Sequence[Path], half: str
    ) -> Suite:
        """The adversarial set, the held-out parts of `data`, and the user's own files.

        Raises `ConfigError` for a file that is missing or not labelled text.
        """
        sets: dict[str, tuple[str, Sequence[LabelledText]]] = {
            TRICKS: ("made in code; the rules were tuned to its tricks", adversarial_set())
        }
        if data is not None:
            from safekv.detect.training.corpora import read_corpus

            sets |= read_corpus(data).held_out_sets()
        for path in (*spans, *conll):
            texts = read_labelled(path, conll=path in conll)
            chosen = texts if half == "both" else half_of(texts, held_out=half == "held-out")
            sets[path.name] = (half, chosen)
        return cls(sets)


def run_suite(suite: Suite, config: DetectConfig, peers: bool, report: Report) -> dict[str, Any]:
    """All figures as plain data. `config` must ask for no look-ahead, as texts end where they end.

    Raises `DetectorError` when a stage fails on a text: a figure without it would flatter.
    """
    cascade = build_cascade(config, _fail)
    steps = len(suite.sets) + 2
    datasets: dict[str, Any] = {}
    for number, (name, (split, texts)) in enumerate(suite.sets.items()):
        report(number, steps, name)
        datasets[name] = evaluate(cascade, texts, split)
    report(steps - 2, steps, "latency")
    latency = _latency(suite, config)
    report(steps - 1, steps, "peers")
    measured = _peers(suite) if peers else {}
    report(steps, steps, "")
    return {
        "datasets": datasets,
        "latency": latency,
        "peers": measured,
        "environment": _environment(config),
    }


def _latency(suite: Suite, config: DetectConfig) -> dict[str, Any]:
    """p50 and p99 per 1,000 tokens of each stage, on unlabelled texts, or prose without any."""
    texts = [one for name, (_, each) in suite.sets.items() if name != TRICKS for one in each]
    unlabelled = [one.text for one in texts if not one.spans]
    clean = unlabelled[:: max(1, len(unlabelled) // _LATENCY_TEXTS)]
    sample = clean if sum(map(len, clean)) >= _LATENCY_CHARACTERS else [PROSE * 24] * 4
    figures: dict[str, Any] = {
        "rules_us_per_1k_tokens": None,
        "classifier_ms_per_1k_tokens": None,
        "judge_ms_per_1k_tokens": None,
    }
    for name in config.stages:
        stage: Detector = build_stage(name, config)
        measured = latencies_us(stage, sample)
        if name == "rules":
            figures["rules_us_per_1k_tokens"] = measured
        if name == "classifier":
            figures["classifier_ms_per_1k_tokens"] = {
                key: None if value is None else round(value / 1e3, 2)
                for key, value in measured.items()
            }
    return figures


def _peers(suite: Suite) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, make in peer_tools.PEERS.items():
        peer = make()
        results[name] = peer if isinstance(peer, str) else _peer_figures(peer, suite)
    return results


def _peer_figures(peer: peer_tools.Peer, suite: Suite) -> dict[str, Any]:
    return {
        set_name: evaluate(peer, texts[:PEER_TEXTS], f"{split}; first {PEER_TEXTS} texts")
        for set_name, (split, texts) in suite.sets.items()
    }


def _environment(config: DetectConfig) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "packages": versions,
        "stages": list(config.stages),
        "classifier": _classifier_version(config),
    }


def _classifier_version(config: DetectConfig) -> str | None:
    if "classifier" not in config.stages:
        return None
    from safekv.detect.manifest import read_model, shipped_folder

    return read_model(config.classifier or shipped_folder())[0].version


def _fail(stage: str, reason: str) -> None:
    raise DetectorError(f"stage {stage} failed while it was measured ({reason})")
