"""Runs a detector off the request path, in one thread, and drives the epoch ticks."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from safekv.clock import Clock, SystemClock
from safekv.detect.base import Detector, Document
from safekv.events import DetectionFailed, EventSink, Judged, NullSink
from safekv.types import TenantId, Verdict

log = logging.getLogger(__name__)

Job = TypeVar("Job")


class DetectionWorker(Generic[Job]):
    """Judges prompts one after another and calls `on_tick` once per epoch.

    Fails closed: a full queue, a document that cannot be made, a detector that raises or
    answers short, and a dead thread all leave the blocks private. `submit` never blocks.
    Mutable state: the queue and the thread.
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
        queue_prompts: int,
        events: EventSink | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._detector = detector
        self._document_of = document_of
        self._settle = settle
        self._on_tick = on_tick
        self._tenant_of = tenant_of
        self._epoch_s = epoch_s
        self._events = events or NullSink()
        self._clock = clock or SystemClock()
        self._queue: queue.Queue[Job] = queue.Queue(maxsize=queue_prompts)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="safekv-detect", daemon=True)

    def start(self) -> None:
        """Start the thread. Once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the prompt in hand; what waits stays private."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def alive(self) -> bool:
        """Whether prompts are still judged. When not, nothing more is ever promoted."""
        return self._thread.is_alive()

    def backlog(self) -> int:
        """Prompts that wait to be judged."""
        return self._queue.qsize()

    def submit(self, job: Job) -> None:
        """Queue `job`; when the queue is full, it stays private and is counted."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._events.emit(DetectionFailed(self._detector.name, "queue-full"))

    def judge(self, job: Job) -> None:
        """Judge one prompt and settle it. Never raises; a failure settles nothing."""
        began = self._clock.now_s()
        try:
            document = self._document_of(job)
            findings = self._detector.judge(document)
            if len(findings) != len(document.block_ends):
                raise ValueError("wrong number of findings")
            verdicts = [finding.verdict for finding in findings]
            self._settle(job, verdicts)
        except Exception as error:
            # The type only: a detector's message may quote the text that it failed on.
            self._events.emit(DetectionFailed(self._detector.name, type(error).__name__))
            return
        self._events.emit(
            Judged(
                self._tenant_of(job),
                verdicts.count(Verdict.SHAREABLE),
                verdicts.count(Verdict.PRIVATE),
                verdicts.count(Verdict.UNSURE),
                self._clock.now_s() - began,
            )
        )

    def _run(self) -> None:
        next_tick_s = self._clock.now_s() + self._epoch_s
        while not self._stopping.is_set():
            # A clock that was set back must not put the next tick off.
            next_tick_s = min(next_tick_s, self._clock.now_s() + self._epoch_s)
            try:
                # A bounded wait, so that `stop` is heard within a tenth of a second.
                left_s = next_tick_s - self._clock.now_s()
                job = self._queue.get(timeout=min(max(left_s, 0.0), 0.1))
                self.judge(job)
            except queue.Empty:
                pass
            now_s = self._clock.now_s()
            if now_s >= next_tick_s:
                # Ticks that were missed are not made up for: windows are counted in ticks.
                next_tick_s = now_s + self._epoch_s
                try:
                    self._on_tick()
                except Exception as error:
                    log.error("epoch tick failed: %s", type(error).__name__)
                    self._events.emit(DetectionFailed("tick", type(error).__name__))
