"""The shipped rules as a judge of a trace's texts."""

from __future__ import annotations

from collections.abc import Sequence

from safekv.bench.traces.read import Judge
from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.rules import RuleDetector
from safekv.types import Verdict


def rule_judge() -> Judge:
    """Counts the leading blocks that stage 1 clears, as the engine would. Raises `ConfigError`
    when the extra `detect` is missing."""
    detector = RuleDetector.from_config(DetectConfig())

    def judge(text: str, ends: Sequence[int]) -> int:
        cleared = 0
        for finding in detector.judge(Document(text, tuple(ends))):
            if finding.verdict is not Verdict.SHAREABLE:
                break
            cleared += 1
        return cleared

    return judge
