"""Events as Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from safekv.events import (
    Admitted,
    Demoted,
    DetectionFailed,
    Event,
    Evicted,
    Judged,
    Promoted,
    Stored,
    Suspected,
)

CONTENT_TYPE: Final = str(CONTENT_TYPE_LATEST)
DETECTION_BUCKETS_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class PrometheusSink:
    """Counts events. For operators only: the sums tell of every tenant.

    `emit` is thread-safe, does not raise, and costs a few dictionary look-ups.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        tenant = ("tenant",)
        self._prompt = self._counter("prompt_tokens", "Prompt tokens admitted.", tenant)
        self._hit = self._counter("hit_tokens", "Prompt tokens found in the cache.", tenant)
        self._own_hit = self._counter(
            "own_hit_tokens", "Prompt tokens found in the tenant's own cache.", tenant
        )
        self._stored = self._counter("stored_blocks", "Blocks that entered the tree.")
        self._duplicate = self._counter("duplicate_blocks", "Blocks freed as stored already.")
        self._promoted = self._counter("promoted_blocks", "Blocks that became shared.")
        self._demoted = self._counter("demoted_blocks", "Blocks that are shared no more.")
        self._suspicions = self._counter(
            "suspicions", "Times that reads of shared runs looked like probing.", ("kind",)
        )
        self._evicted = self._counter("evicted_blocks", "Blocks evicted.")
        self._judged = self._counter("judged_blocks", "Blocks judged.", ("verdict",))
        self._failures = self._counter(
            "detection_failures", "Detections that failed; the blocks stay private.",
            ("stage", "reason"),
        )  # fmt: skip
        self._detection = Histogram(
            "safekv_detection_seconds",
            "Time to judge one prompt, off the request path.",
            registry=self._registry,
            buckets=DETECTION_BUCKETS_S,
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"safekv_{name}", text, labels, registry=self._registry)

    def emit(self, event: Event) -> None:
        """Count `event`."""
        match event:
            case Admitted():
                self._count_admitted(event)
            case Stored():
                self._stored.inc(event.new_blocks)
                self._duplicate.inc(event.duplicate_blocks)
            case Judged():
                self._count_judged(event)
            case Promoted():
                self._promoted.inc(event.blocks)
            case Demoted():
                self._demoted.inc(event.blocks)
            case Suspected():
                self._suspicions.labels("surge" if event.surge else "low-diversity").inc()
                self._demoted.inc(event.demoted_blocks)
            case Evicted():
                self._evicted.inc(event.blocks)
            case DetectionFailed():
                self._failures.labels(event.stage, event.reason).inc()

    def _count_admitted(self, event: Admitted) -> None:
        self._prompt.labels(event.tenant).inc(event.prompt_tokens)
        self._hit.labels(event.tenant).inc(event.hit_tokens)
        self._own_hit.labels(event.tenant).inc(event.own_tokens)

    def _count_judged(self, event: Judged) -> None:
        self._judged.labels("shareable").inc(event.shareable_blocks)
        self._judged.labels("private").inc(event.private_blocks)
        self._judged.labels("unsure").inc(event.unsure_blocks)
        self._detection.observe(event.seconds)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show `read()` as the gauge `safekv_<name>`. A `read` that raises shows as NaN.

        Raises `ValueError` for a name that is taken.
        """

        def safely() -> float:
            try:
                return float(read())
            except Exception:
                return float("nan")

        Gauge(f"safekv_{name}", text, registry=self._registry).set_function(safely)

    def render(self) -> bytes:
        """All metrics as text of type `CONTENT_TYPE`."""
        return bytes(generate_latest(self._registry))
