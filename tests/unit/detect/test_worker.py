"""The worker settles what was judged, remembers it for that tenant alone, and ticks regardless."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from safekv.detect.base import Document, Finding
from safekv.detect.config import DetectConfig
from safekv.detect.verdicts import VerdictCache
from safekv.detect.worker import DetectionWorker
from safekv.events import DetectionFailed, Event, Judged
from safekv.types import TenantId, Verdict

A, B = TenantId("a"), TenantId("b")
CLEARED = [Finding(Verdict.SHAREABLE, "clean")]


@dataclass(frozen=True)
class Prompt:
    tenant: TenantId
    text: str


@dataclass
class Stage:
    """Clears everything, or does what `answer` says. Remembers what it was asked."""

    name: str = "stage"
    answer: Callable[[Document], Any] = lambda document: CLEARED
    asked: list[str] = field(default_factory=list)

    def judge(self, document: Document) -> Sequence[Finding]:
        self.asked.append(document.text)
        return self.answer(document)  # type: ignore[no-any-return]


@dataclass
class World:
    """A worker with everything it touches."""

    stage: Stage = field(default_factory=Stage)
    config: DetectConfig = field(default_factory=DetectConfig)
    epoch_s: float = 3600.0
    settled: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ticked: threading.Event = field(default_factory=threading.Event)
    ticks: int = 0

    def __post_init__(self) -> None:
        self.worker: DetectionWorker[Prompt] = DetectionWorker(
            self.stage,
            lambda job: Document(job.text, (len(job.text),)),
            lambda job, verdicts: self.settled.append(job.text),
            self.tick,
            tenant_of=lambda job: job.tenant,
            epoch_s=self.epoch_s,
            config=self.config,
            events=self,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks >= 3:
            self.ticked.set()

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, DetectionFailed)]


def test_a_repeated_prompt_is_judged_once_for_each_tenant() -> None:
    world = World()
    for tenant, text in ((A, "x"), (A, "x"), (B, "x"), (A, "y"), (A, "x")):
        world.worker.judge([Prompt(tenant, text)])
    # Not once for both: B must not be able to tell by the time that A sent it too.
    assert world.stage.asked == ["x", "x", "y"]
    assert world.settled == ["x", "x", "x", "y", "x"]
    assert sum(isinstance(event, Judged) for event in world.events) == 5


def test_failures_settle_nothing_and_are_told_by_type() -> None:
    def refuse(document: Document) -> Any:
        raise RuntimeError(document.text)

    for answer, reason in (
        (refuse, "RuntimeError"),
        (lambda document: [], "ValueError"),
        (lambda document: None, "TypeError"),
    ):
        world = World(Stage(answer=answer))
        world.worker.judge([Prompt(A, "secret"), Prompt(A, "other")])
        assert world.settled == []
        assert world.reasons() == [reason, reason]
        assert "secret" not in repr(world.events)


def test_a_failed_stage_is_asked_again() -> None:
    world = World(Stage(answer=lambda document: [Finding(Verdict.UNSURE, "stage-failed", 0.0)]))
    for _ in range(2):
        world.worker.judge([Prompt(A, "x")])
    assert world.stage.asked == ["x", "x"]


def test_a_full_queue_is_counted_and_does_not_wait() -> None:
    world = World(config=DetectConfig(tenant_prompts=2))
    for number in range(4):
        world.worker.submit(Prompt(A, str(number)))
    assert world.worker.backlog() == 2
    assert world.reasons() == ["queue-full", "queue-full"]


def test_ticks_go_on_while_the_detector_hangs() -> None:
    let_go = threading.Event()

    def hang(document: Document) -> Any:
        let_go.wait(60)
        return CLEARED

    world = World(Stage(answer=hang), epoch_s=0.01)
    world.worker.start()
    world.worker.submit(Prompt(A, "x"))
    try:
        assert world.ticked.wait(30)
        assert world.settled == []
        assert world.worker.state() == "running"
    finally:
        let_go.set()
        world.worker.stop()
    assert world.worker.state().startswith("stopped")


def test_a_verdict_is_found_for_the_same_document_only() -> None:
    cache = VerdictCache(2)
    document = Document("ab", (1, 2))
    findings = (*CLEARED, *CLEARED)
    cache.put(A, document, findings)
    assert cache.get(A, Document("ab", (1, 2))) == findings
    assert cache.get(B, document) is None
    for other in (Document("ab", (2,)), Document("ac", (1, 2)), Document("ab", (1, 2), (0, 1))):
        assert cache.get(A, other) is None


def test_the_oldest_verdicts_are_forgotten() -> None:
    cache = VerdictCache(2)
    first, second, third = (Document(text, (1,)) for text in "abc")
    cache.put(A, first, CLEARED)
    cache.put(A, second, CLEARED)
    assert cache.get(A, first) is not None
    cache.put(B, third, CLEARED)
    cache.put(A, third, CLEARED)
    assert cache.get(A, second) is None
    assert cache.get(A, first) is not None
    assert cache.get(B, third) is not None


def test_nothing_is_remembered_when_told_so() -> None:
    cache = VerdictCache(0)
    cache.put(A, Document("a", (1,)), CLEARED)
    assert cache.get(A, Document("a", (1,))) is None
