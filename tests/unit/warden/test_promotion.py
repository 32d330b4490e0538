"""Evidence for promotion: only a cleared run from the start counts."""

from __future__ import annotations

import threading

import pytest

from safekv.detect.base import Document, Finding
from safekv.detect.config import DetectConfig
from safekv.detect.worker import DetectionWorker
from safekv.events import DetectionFailed, Event, Judged
from safekv.types import TenantId, Verdict, pack_tokens
from safekv.warden import Evidence, PromotionQueue, PromptJob
from safekv.warden.promotion import evidence_from

YES, NO, MAYBE = Verdict.SHAREABLE, Verdict.PRIVATE, Verdict.UNSURE
TENANT = TenantId("a")


@pytest.mark.parametrize(
    ("verdicts", "n"),
    [
        ([YES, YES, YES], 3),
        ([YES, NO, YES], 1),
        ([YES, MAYBE, YES], 1),
        ([NO, YES, YES], 0),
        ([YES, YES], 0),
        ([YES] * 4, 0),
        ([], 0),
    ],
)
def test_the_run_ends_at_the_first_block_not_cleared(verdicts: list[Verdict], n: int) -> None:
    job = PromptJob(TENANT, pack_tokens(range(14)), 3)
    evidence = evidence_from(job, verdicts, block_tokens=4)
    expected = Evidence(TENANT, pack_tokens(range(4 * n)), n, n) if n else None
    assert evidence == expected


def test_the_queue_drops_the_oldest_evidence() -> None:
    queue = PromotionQueue(limit=2)
    pieces = [Evidence(TENANT, pack_tokens([n]), 1, 0) for n in range(3)]
    for piece in pieces:
        queue.add(piece)
    assert queue.take() == pieces[1:]
    assert queue.take() == []


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.settled: list[list[Verdict]] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class Scripted:
    """A detector that does what it is told, once per call."""

    name = "scripted"

    def __init__(self, *acts: object) -> None:
        self._acts = list(acts)

    def judge(self, document: Document) -> list[Finding]:
        act = self._acts.pop(0)
        if isinstance(act, Exception):
            raise act
        return [Finding(v, "scripted") for v in act]  # type: ignore[attr-defined]


def worker(detector: Scripted, heard: Recorder, queue_prompts: int = 2) -> DetectionWorker[str]:
    return DetectionWorker(
        detector,
        lambda job: Document(job, (1, 2)),
        lambda job, verdicts: heard.settled.append(list(verdicts)),
        lambda: None,
        tenant_of=lambda job: TENANT,
        epoch_s=60,
        config=DetectConfig(queue_prompts=queue_prompts),
        events=heard,
    )


def test_a_failing_detector_settles_nothing_and_says_no_text() -> None:
    heard = Recorder()
    judging = worker(Scripted(RuntimeError("SECRET"), [YES], [YES, NO]), heard)
    for _ in range(3):
        judging.judge(["SECRET"])
    assert heard.settled == [[YES, NO]]
    assert heard.events[0] == DetectionFailed("scripted", "RuntimeError")
    assert heard.events[1] == DetectionFailed("scripted", "ValueError")
    assert isinstance(heard.events[2], Judged)
    assert "SECRET" not in repr(heard.events)


def test_a_full_queue_drops_and_counts() -> None:
    heard = Recorder()
    judging = worker(Scripted(), heard, queue_prompts=1)
    judging.submit("one")
    judging.submit("two")
    assert judging.backlog() == 1
    assert heard.events == [DetectionFailed("scripted", "queue-full")]


def test_a_failing_tick_does_not_end_the_thread() -> None:
    heard, ticked = Recorder(), threading.Semaphore(0)

    def tick() -> None:
        ticked.release()
        raise RuntimeError("SECRET")

    judging: DetectionWorker[str] = DetectionWorker(
        Scripted(), lambda job: Document(job, ()), lambda job, v: None, tick,
        tenant_of=lambda job: TENANT, epoch_s=0.001, config=DetectConfig(), events=heard,
    )  # fmt: skip
    judging.start()
    assert ticked.acquire(timeout=10)
    assert ticked.acquire(timeout=10), "it ticks again after a failure"
    assert judging.state() == "running"
    judging.stop()
    assert DetectionFailed("tick", "RuntimeError") in heard.events
