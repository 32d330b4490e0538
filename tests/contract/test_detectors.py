"""Every detector keeps the promises of `Detector`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from safekv.detect.adapters import SpanDetector
from safekv.detect.base import Detector
from safekv.detect.cascade import Cascade
from safekv.detect.classifier import TokenClassifier
from safekv.detect.config import DetectConfig
from safekv.detect.rules import RuleDetector
from safekv.testing.contracts import DetectorContract
from support.classifiers import write_classifier


@cache
def shipped() -> RuleDetector:
    return RuleDetector.from_config(DetectConfig())


def fail(stage: str, error: str) -> None:
    raise AssertionError(f"{stage} failed with {error}")


class TestRules(DetectorContract):
    private_texts = (
        "reach me at jane.doe@mail.example.com please",
        "card 4111 1111 1111 1111",
        "our internal project Nightjar",
    )
    shareable_texts = ("You are a helpful assistant. Answer in English.",)

    def detector(self) -> Detector:
        return shipped()


class TestCascadeOfOne(TestRules):
    def detector(self) -> Detector:
        return Cascade([shipped()], fail)


class TestCascadeWithoutStages(DetectorContract):
    def detector(self) -> Detector:
        return Cascade([], fail)


class TestClassifier(DetectorContract):
    private_texts = ("please ask Ada Lovelace about it",)
    shareable_texts = ("the bridge",)

    @cache  # noqa: B019 - one for all tests; the class lives as long as they do
    def detector(self) -> Detector:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        with tempfile.TemporaryDirectory() as folder:
            return TokenClassifier.from_folder(write_classifier(Path(folder)))


class TestCascadeOfTwo(TestClassifier):
    def detector(self) -> Detector:
        return Cascade([shipped(), super().detector()], fail)


class TestSpanDetector(DetectorContract):
    private_texts = ("the password of the day is swordfish",)
    shareable_texts = ("the bridge",)

    def detector(self) -> Detector:
        return SpanDetector("fish", self._find)

    @staticmethod
    def _find(text: str) -> Iterator[tuple[int, int, str, float]]:
        yield from ((m.start(), m.end(), "Fish!", 0.9) for m in re.finditer("swordfish", text))
