"""Several detector stages as one: each may veto, and only all together may clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from safekv.detect.base import (
    Arbiter,
    BatchDetector,
    Detector,
    Document,
    Finding,
    Located,
    Locator,
    is_doubt,
)
from safekv.types import Verdict

STAGE_FAILED: Final = Finding(Verdict.UNSURE, rule="stage-failed", confidence=0.0)
NO_STAGE: Final = Finding(Verdict.UNSURE, rule="no-stage", confidence=0.0)

OnFailure = Callable[[str, str], None]
"""Hears the stage's name and the type of its error; the error's text may quote a prompt."""


class Cascade:
    """A block is shareable only if every stage says so; one `PRIVATE` outweighs the rest.

    The first stage that said `PRIVATE` gives the finding. A stage that raises, or does
    not give one finding per block, leaves every block that is not private `UNSURE`, and
    no later stage can clear it. An arbiter is asked about blocks in doubt alone: those that a
    stage before it looked at and called `UNSURE`, and none called `PRIVATE`. Without stages
    nothing is shareable.
    """

    name = "cascade"

    def __init__(self, stages: Sequence[Detector], on_failure: OnFailure) -> None:
        self._stages = tuple(stages)
        self._on_failure = on_failure

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. Stages run until every block is private."""
        (findings,) = self.judge_all([document])
        return findings

    def locate(self, text: str) -> list[Located]:
        """What all stages that can say where find in `text`, ascending. Raises what they raise."""
        found = [
            one
            for stage in self._stages
            if isinstance(stage, Locator)
            for one in stage.locate(text)
        ]
        return sorted(found, key=lambda one: (one.start, one.end, one.stage))

    def judge_all(self, documents: Sequence[Document]) -> list[list[Finding]]:
        """As `judge` for each of `documents`; a stage sees those that are not all private yet."""
        answers: list[list[Finding]] = [
            [] if self._stages else [NO_STAGE] * len(one.block_ends) for one in documents
        ]
        for stage in self._stages:
            if isinstance(stage, Arbiter):
                self._arbitrate(stage, documents, answers)
                continue
            waiting = [i for i, answer in enumerate(answers) if not _is_settled(answer)]
            told = self._ask_all(stage, [documents[i] for i in waiting])
            for i, now in zip(waiting, told, strict=True):
                answers[i] = [
                    _stricter(old, new) for old, new in zip(answers[i] or now, now, strict=True)
                ]
        # A cascade of arbiters alone has nothing that looked at the blocks.
        return [
            answer or [NO_STAGE] * len(document.block_ends)
            for answer, document in zip(answers, documents, strict=True)
        ]

    def _arbitrate(
        self, stage: Arbiter, documents: Sequence[Document], answers: list[list[Finding]]
    ) -> None:
        """Lets `stage` decide the blocks in doubt; when it fails they stay in doubt."""
        doubtful = [[n for n, one in enumerate(answer) if is_doubt(one)] for answer in answers]
        waiting = [i for i, numbers in enumerate(doubtful) if numbers]
        if not waiting:
            return
        try:
            decided = stage.decide([documents[i] for i in waiting], [doubtful[i] for i in waiting])
            found = [dict(one) for one in decided]
            if len(found) != len(waiting):
                raise ValueError("not one answer per document")
            for i, one in zip(waiting, found, strict=True):
                if not one.keys() <= set(doubtful[i]):
                    raise ValueError("a block that was not asked about")
                _require_answer(list(one.values()), len(one))
        except Exception as error:
            self._on_failure(stage.name, type(error).__name__)
            return
        for i, one in zip(waiting, found, strict=True):
            for number, finding in one.items():
                answers[i][number] = finding

    def _ask_all(self, stage: Detector, documents: Sequence[Document]) -> list[list[Finding]]:
        """What `stage` says of each. Asked one by one when it has no answer to all together."""
        if len(documents) > 1 and isinstance(stage, BatchDetector):
            try:
                told = [list(one) for one in stage.judge_all(documents)]
                for document, answer in zip(documents, told, strict=True):
                    _require_answer(answer, len(document.block_ends))
            except Exception as error:
                self._on_failure(stage.name, type(error).__name__)
            else:
                return told
        return [self._ask(stage, one) for one in documents]

    def _ask(self, stage: Detector, document: Document) -> list[Finding]:
        """What `stage` says, or `STAGE_FAILED` for each block when that is no answer."""
        blocks = len(document.block_ends)
        try:
            answer = list(stage.judge(document))
            _require_answer(answer, blocks)
        except Exception as error:
            self._on_failure(stage.name, type(error).__name__)
            return [STAGE_FAILED] * blocks
        return answer


def _require_answer(answer: Sequence[object], blocks: int) -> None:
    """Raises `ValueError` or `TypeError` unless `answer` is one finding for each of `blocks`."""
    if len(answer) != blocks:
        raise ValueError("not one finding per block")
    for found in answer:
        if not isinstance(found, Finding) or not isinstance(found.verdict, Verdict):
            raise TypeError("not a finding")


def _is_settled(findings: Sequence[Finding]) -> bool:
    return bool(findings) and all(found.verdict is Verdict.PRIVATE for found in findings)


def _stricter(before: Finding, now: Finding) -> Finding:
    if before.verdict is Verdict.PRIVATE or now.verdict is Verdict.SHAREABLE:
        return before
    if now.verdict is Verdict.PRIVATE or now is STAGE_FAILED:
        return now
    if is_doubt(before) and not is_doubt(now):  # an arbiter must not clear what was not seen
        return now
    return now if before.verdict is Verdict.SHAREABLE else before
