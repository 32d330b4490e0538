"""Runs a detector off the request path, and the epoch ticks beside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from safekv.clock import Clock, SystemClock
from safekv.detect.backlog import Backlog
from safekv.detect.base import BatchDetector, Detector, Document, Finding, Living
from safekv.detect.config import DetectConfig
from safekv.detect.process import NoVerdictError
from safekv.detect.verdicts import VerdictCache
from safekv.events import DetectionFailed, EventSink, Judged, NullSink
from safekv.types import TenantId, Verdict

log = logging.getLogger(__name__)

Job = TypeVar("Job")


class DetectionWorker(Generic[Job]):
    """Judges prompts in one thread, and calls `on_tick` once per epoch in another.

    Fails closed: a full queue, a document that cannot be made, a detector that raises or
    answers short, and a dead thread all leave the blocks private. `submit` never waits.
    Ticks go on whatever the detector does: without verdicts they promote nothing, and a
    tick that waited for a slow prompt would let every tenant feel it. A batch holds prompts
    of one tenant alone, so that one which breaks the detector costs nobody else a verdict.
    Mutable state: the backlog, the verdicts remembered, and the threads.
    """

    def __init__(
        self,
        detector: Detector,
        document_of: Callable[[Job], Document],
        settle: Callable[[Job, Sequence[Verdict]], None],
        on_tick: Callable[[], object],
        *,
        tenant_of: Callable[[Job], TenantId],
        epoch_s: float,
        config: DetectConfig,
        events: EventSink | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._detector = detector
        self._document_of = document_of
        self._settle = settle
        self._on_tick = on_tick
        self._tenant_of = tenant_of
        self._epoch_s = epoch_s
        self._batch_prompts = config.batch_prompts
        self._events = events or NullSink()
        self._clock = clock or SystemClock()
        self._backlog: Backlog[Job] = Backlog(config.queue_prompts, config.tenant_prompts)
        self._verdicts = VerdictCache(config.remembered_prompts)
        self._stopping = threading.Event()
        self._judging = threading.Thread(target=self._judge_on, name="safekv-detect", daemon=True)
        self._ticking = threading.Thread(target=self._tick_on, name="safekv-epoch", daemon=True)

    def start(self) -> None:
        """Start the detector, where it must be, and both threads. Once."""
        if isinstance(self._detector, Living):
            self._detector.start()
        self._judging.start()
        self._ticking.start()

    def stop(self) -> None:
        """Stop after the prompts in hand; what waits stays private."""
        self._stopping.set()
        if isinstance(self._detector, Living):
            self._detector.stop()
        for thread in (self._judging, self._ticking):
            if thread.is_alive():
                thread.join(timeout=10)

    def state(self) -> str:
        """`running`, or why nothing new is promoted. The same for every tenant."""
        if not (self._judging.is_alive() and self._ticking.is_alive()):
            return "stopped: nothing new is promoted"
        return self._detector.state() if isinstance(self._detector, Living) else "running"

    def backlog(self) -> int:
        """Prompts that wait to be judged."""
        return len(self._backlog)

    def submit(self, job: Job) -> None:
        """Queue `job`; when the queue is full, a prompt stays private and is counted."""
        if not self._backlog.put(self._tenant_of(job), job):
            self._events.emit(DetectionFailed(self._detector.name, "queue-full"))

    def judge(self, jobs: Sequence[Job]) -> None:
        """Judge prompts of one tenant and settle them. Never raises; a failure settles nothing."""
        began = self._clock.now_s()
        waiting: list[tuple[Job, Document]] = []
        for job in jobs:
            try:
                document = self._document_of(job)
                known = self._verdicts.get(self._tenant_of(job), document)
            except Exception as error:
                self._failed(error)
                continue
            if known is None:
                waiting.append((job, document))
            else:
                self._conclude(job, known, began)
        if waiting:
            self._ask(waiting, began)

    def _ask(self, waiting: Sequence[tuple[Job, Document]], began: float) -> None:
        documents = [document for _, document in waiting]
        try:
            if isinstance(self._detector, BatchDetector):
                answers = self._detector.judge_all(documents)
            else:
                answers = [self._detector.judge(document) for document in documents]
            if [len(answer) for answer in answers] != [len(d.block_ends) for d in documents]:
                raise ValueError("wrong number of findings")
        except Exception as error:
            for _ in waiting:
                self._failed(error)
            return
        for (job, document), answer in zip(waiting, answers, strict=True):
            if self._conclude(job, answer, began):
                self._remember(job, document, answer)

    def _conclude(self, job: Job, findings: Sequence[Finding], began: float) -> bool:
        try:
            verdicts = [finding.verdict for finding in findings]
            self._settle(job, verdicts)
        except Exception as error:
            self._failed(error)
            return False
        self._events.emit(
            Judged(
                self._tenant_of(job),
                verdicts.count(Verdict.SHAREABLE),
                verdicts.count(Verdict.PRIVATE),
                verdicts.count(Verdict.UNSURE),
                self._clock.now_s() - began,
            )
        )
        return True

    def _remember(self, job: Job, document: Document, findings: Sequence[Finding]) -> None:
        """Keep what is a verdict. A stage that failed may succeed when it is asked again."""
        if all(finding.confidence > 0.0 for finding in findings):
            self._verdicts.put(self._tenant_of(job), document, findings)

    def _failed(self, error: Exception) -> None:
        # The type only: a detector's message may quote the text that it failed on.
        reason = error.reason if isinstance(error, NoVerdictError) else type(error).__name__
        self._events.emit(DetectionFailed(self._detector.name, reason))

    def _judge_on(self) -> None:
        while not self._stopping.is_set():
            # A bounded wait, so that `stop` is heard within a tenth of a second.
            self.judge(self._backlog.take(self._batch_prompts, timeout_s=0.1))

    def _tick_on(self) -> None:
        next_tick_s = self._clock.now_s() + self._epoch_s
        # A bounded wait, so that a clock which jumped is noticed.
        while not self._stopping.wait(min(max(next_tick_s - self._clock.now_s(), 0.0), 0.1)):
            now_s = self._clock.now_s()
            # A clock that was set back must not put the next tick off.
            next_tick_s = min(next_tick_s, now_s + self._epoch_s)
            if now_s < next_tick_s:
                continue
            # Ticks that were missed are not made up for: windows are counted in ticks.
            next_tick_s = now_s + self._epoch_s
            try:
                self._on_tick()
            except Exception as error:
                log.error("epoch tick failed: %s", type(error).__name__)
                self._events.emit(DetectionFailed("tick", type(error).__name__))
