"""Every detector keeps the promises of `Detector`."""

from __future__ import annotations

from functools import cache

from safekv.detect.base import Detector
from safekv.detect.cascade import Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.rules import RuleDetector
from safekv.testing.contracts import DetectorContract


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
