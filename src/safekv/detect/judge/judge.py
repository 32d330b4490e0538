"""The context judge: decides what the other stages leave in doubt, if it proved that it can."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from safekv.clock import Clock, SystemClock
from safekv.detect.base import Document, Finding
from safekv.detect.config import DetectConfig
from safekv.detect.judge.question import MARK, question, score, tokens
from safekv.detect.judge.record import Record, usable_record
from safekv.errors import ConfigError, DetectorError
from safekv.types import Verdict

VETO: Final = "judge-private"
UNVALIDATED: Final = Finding(Verdict.PRIVATE, "judge-unvalidated", 0.5)
OWN_QUESTION: Final = Finding(Verdict.PRIVATE, "judge-own-question", 0.5)
NO_ANSWER: Final = Finding(Verdict.UNSURE, "judge-no-answer", 0.0)
"""Its confidence of 0 says that another try may do better, so it is not remembered."""


class Asked(Protocol):
    """A language model."""

    model: str

    def ask(self, text: str, timeout_s: float) -> str: ...


class Judge:
    """Clears a block in doubt only if the model's score for it is below the record's threshold.

    It is asked about blocks that a stage called `UNSURE` for what they say, and about no
    others. Without a valid record for this model and question every such block is private,
    and nothing is asked. So it is when an answer is late, missing or no digit, and when the
    budget of the last minute is spent: those blocks stay `UNSURE`. Questions go one after
    another, equal ones once in a call. For one thread. Mutable state: what was spent.
    """

    name = "judge"

    def __init__(
        self,
        model: Asked | None,
        record: Record | None,
        *,
        time_limit_s: float,
        tokens_per_minute: int,
        clock: Clock | None = None,
    ) -> None:
        self._model = model
        self._record = record
        self._time_limit_s = time_limit_s
        self._tokens_per_minute = tokens_per_minute
        self._clock = clock or SystemClock()
        self._spent: list[tuple[float, int]] = []

    @classmethod
    def from_config(cls, config: DetectConfig) -> Judge:
        """The judge that `config` names; `detect.judge_record` decides whether it may clear.

        Raises `ConfigError` for a missing URL, model or package, a loose key file, and a record
        that cannot be trusted or is not of this model and question.
        """
        from safekv.detect.judge.endpoint import Endpoint, read_key

        if config.judge_url is None or config.judge_model is None:
            raise ConfigError(
                "detect.stages names judge, and detect.judge_url or detect.judge_model is missing",
                "name the endpoint that judges; `safekv serve` fills in its own",
            )
        record = None
        if config.judge_record is not None:
            record = usable_record(config.judge_record, config.judge_model, os.environ)
        endpoint = Endpoint(config.judge_url, config.judge_model, read_key(config.judge_key_file))
        return cls(
            endpoint,
            record,
            time_limit_s=min(config.judge_time_limit_s, config.time_limit_s / 2),
            tokens_per_minute=config.judge_tokens_per_minute,
        )

    def judge(self, document: Document) -> list[Finding]:
        """Every block in doubt: alone, this stage decides nothing."""
        return [NO_ANSWER] * len(document.block_ends)

    def decide(
        self, documents: Sequence[Document], doubtful: Sequence[Sequence[int]]
    ) -> list[Mapping[int, Finding]]:
        """What the blocks `doubtful` of each document are, by number. Raises nothing."""
        deadline_s = self._clock.now_s() + self._time_limit_s
        known: dict[str, Finding] = {}
        return [
            {n: self._finding(document, n, deadline_s, known) for n in numbers}
            for document, numbers in zip(documents, doubtful, strict=True)
        ]

    def _finding(
        self, document: Document, number: int, deadline_s: float, known: dict[str, Finding]
    ) -> Finding:
        record, model = self._record, self._model
        if record is None or model is None:
            return UNVALIDATED
        if MARK in document.text:
            return OWN_QUESTION
        asked = question(document, number)
        if asked not in known:
            known[asked] = self._answer(model.ask, asked, record.threshold, deadline_s)
        return known[asked]

    def _answer(
        self, ask: Callable[[str, float], str], asked: str, threshold: float, deadline_s: float
    ) -> Finding:
        left_s = deadline_s - self._clock.now_s()
        if left_s <= 0 or not self._may_spend(tokens(asked)):
            return NO_ANSWER
        try:
            how_private = score(ask(asked, left_s))
        except DetectorError:
            return NO_ANSWER
        if self._clock.now_s() > deadline_s:
            return NO_ANSWER
        if how_private < threshold:
            return Finding(Verdict.SHAREABLE, "judge-clean", round(1.0 - how_private, 2))
        return Finding(Verdict.PRIVATE, VETO, round(max(how_private, 0.01), 2))

    def _may_spend(self, cost: int) -> bool:
        """Whether `cost` tokens fit the budget of the last minute; counts them if so."""
        now_s = self._clock.now_s()
        self._spent = [(at, spent) for at, spent in self._spent if now_s - 60 < at <= now_s]
        if sum(spent for _, spent in self._spent) + cost > self._tokens_per_minute:
            return False
        self._spent.append((now_s, cost))
        return True
