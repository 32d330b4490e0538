"""Several detector stages as one: each may veto, and only all together may clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from safekv.detect.base import Detector, Document, Finding
from safekv.types import Verdict

STAGE_FAILED: Final = Finding(Verdict.UNSURE, rule="stage-failed", confidence=0.0)
NO_STAGE: Final = Finding(Verdict.UNSURE, rule="no-stage", confidence=0.0)

OnFailure = Callable[[str, str], None]
"""Hears the stage's name and the type of its error; the error's text may quote a prompt."""


class Cascade:
    """A block is shareable only if every stage says so; one `PRIVATE` outweighs the rest.

    The first stage that said `PRIVATE` gives the finding. A stage that raises, or does
    not give one finding per block, leaves every block that is not private `UNSURE`, and
    no later stage can clear it. Without stages nothing is shareable.
    """

    name = "cascade"

    def __init__(self, stages: Sequence[Detector], on_failure: OnFailure) -> None:
        self._stages = tuple(stages)
        self._on_failure = on_failure

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. Stages run until every block is private."""
        blocks = len(document.block_ends)
        findings = [] if self._stages else [NO_STAGE] * blocks
        for stage in self._stages:
            if findings and all(found.verdict is Verdict.PRIVATE for found in findings):
                break
            answer = self._ask(stage, document)
            findings = [
                _stricter(before, now)
                for before, now in zip(findings or answer, answer, strict=True)
            ]
        return findings

    def _ask(self, stage: Detector, document: Document) -> list[Finding]:
        """What `stage` says, or `STAGE_FAILED` for each block when that is no answer."""
        blocks = len(document.block_ends)
        try:
            answer = list(stage.judge(document))
            if len(answer) != blocks:
                raise ValueError("not one finding per block")
            for found in answer:
                if not isinstance(found, Finding) or not isinstance(found.verdict, Verdict):
                    raise TypeError("not a finding")
        except Exception as error:
            self._on_failure(stage.name, type(error).__name__)
            return [STAGE_FAILED] * blocks
        return answer


def _stricter(before: Finding, now: Finding) -> Finding:
    if before.verdict is Verdict.PRIVATE or now.verdict is Verdict.SHAREABLE:
        return before
    if now.verdict is Verdict.PRIVATE or now is STAGE_FAILED:
        return now
    return now if before.verdict is Verdict.SHAREABLE else before
