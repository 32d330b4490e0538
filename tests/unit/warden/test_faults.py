"""What fails leaves text private, and what was missed is not made up for in haste."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

import pytest

from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.detect.base import Document
from safekv.detect.cascade import Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.worker import DetectionWorker
from safekv.types import Mode, Profile, TenantId, Verdict
from safekv.warden import WardenConfig

A, READER = TenantId("a"), TenantId("reader")
CROWD = [TenantId(f"t{n}") for n in range(6)]
TEXT: Prompt = (*range(100, 108), 7)
FULL = 2 * BLOCK_TOKENS
PAPER = WardenConfig()
ANONYMOUS = WardenConfig(
    mode=Mode.SELECTIVE, profile=Profile.ANONYMOUS, threshold_low=3, threshold_width=2
)


def found(at: World, prompt: Prompt = TEXT) -> int:
    running, seen = at.start(READER, prompt)
    at.warden.release(running.lease)
    return len(prompt) - seen.waited_tokens


def sent(config: WardenConfig, **options: object) -> World:
    at = World(config, [A, READER, *CROWD], **options)  # type: ignore[arg-type]
    for tenant in CROWD:
        at.send(tenant, TEXT)
    return at


@pytest.mark.parametrize("config", [PAPER, ANONYMOUS])
def test_a_dead_detector_shares_nothing(config: WardenConfig) -> None:
    at = sent(config, judge=lambda block: None)
    at.tick()
    assert found(at) == 0


@pytest.mark.parametrize("config", [PAPER, ANONYMOUS])
def test_a_slow_detector_shares_later(config: WardenConfig) -> None:
    at = sent(config, delay=len(CROWD))
    at.tick()
    assert found(at) == 0
    for _ in CROWD:
        at.send(A, (1, 2, 3))
    at.tick()
    assert found(at) == FULL


def test_a_lying_detector_is_held_by_the_crowd_alone() -> None:
    """One tenant's text: shared under `paper`, which trusts the detector, not under `anonymous`."""
    for config, expected in ((PAPER, FULL), (ANONYMOUS, 0)):
        at = World(config, [A, READER])
        at.send(A, TEXT)
        at.tick()
        assert found(at) == expected


def test_a_verdict_that_comes_after_a_restart_belongs_to_nobody() -> None:
    at = sent(PAPER, delay=100)
    (_, job), *_ = at._jobs
    at.restart()
    at.warden.settle(job, [Verdict.SHAREABLE] * job.full_blocks)
    assert at.tick() == 0
    assert found(at) == 0


@pytest.mark.parametrize("config", [PAPER, ANONYMOUS])
def test_a_process_killed_after_a_promotion_keeps_nothing_shared(config: WardenConfig) -> None:
    """Nothing is recorded outside memory, so there is nothing that could disagree with it."""
    at = sent(config)
    assert at.tick() == 2
    at.restart()
    assert found(at) == 0
    at.tick()
    assert found(at) == 0


@pytest.mark.parametrize("config", [PAPER, ANONYMOUS])
def test_missed_ticks_put_promotion_off_and_nothing_else(config: WardenConfig) -> None:
    at = sent(config)
    for n in range(50):
        at.send(A, (n, n, n, n, 7))
        assert found(at) == 0
    at.tick()
    assert found(at) == FULL


def test_a_full_ledger_keeps_private_what_lacks_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood pushes out the flooder's own evidence; thresholds stay as they are."""
    start = World.restart

    def small(self: World) -> None:
        start(self)
        self.warden._policy._ledger._limit = 15

    monkeypatch.setattr(World, "restart", small)
    at = sent(ANONYMOUS)
    before = at.warden._policy._threshold.of(b"x" * 16, 0)
    for n in range(20):
        at.send(A, (n, n, n, n, 7))
    assert at.warden._policy._threshold.of(b"x" * 16, 0) == before
    assert len(at.warden._policy._ledger) == 15
    at.tick()
    assert found(at) == FULL, "the crowd's evidence is still there"
    assert found(at, (0, 0, 0, 0, 7)) == 0


class Clock:
    """Shows the times it is given, then goes on in small steps. `seen` after many looks."""

    def __init__(self, *times: float, after: int = 12) -> None:
        self._times = list(times)
        self._looks, self._after = count(), after
        self.seen = threading.Event()

    def now_s(self) -> float:
        n = next(self._looks)
        if n >= self._after:
            self.seen.set()
        return self._times[n] if n < len(self._times) else self._times[-1] + 0.2 * n


def ticking(clock: Clock, on_tick: Callable[[], object]) -> DetectionWorker[str]:
    return DetectionWorker(
        Cascade((), lambda stage, error: None),
        lambda job: Document(job, ()),
        lambda job, verdicts: None,
        on_tick,
        tenant_of=lambda job: A,
        epoch_s=1.0,
        config=DetectConfig(),
        clock=clock,
    )


def test_a_clock_set_back_does_not_stop_the_epochs() -> None:
    ticked = threading.Event()
    worker = ticking(Clock(1_000_000.0, 0.0), ticked.set)
    worker.start()
    assert ticked.wait(10)
    worker.stop()


def test_a_clock_that_leaps_ends_one_epoch_and_not_a_thousand() -> None:
    """Otherwise evidence and budgets of a whole window would be gone at once."""
    ticks: list[int] = []
    clock = Clock(0.0, 1_000.0, 1_000.0, 1_000.1, 1_000.1, 1_000.1)
    clock._times += [1_000.2] * 6
    worker = ticking(clock, lambda: ticks.append(1))
    worker.start()
    assert clock.seen.wait(10)
    worker.stop()
    assert 1 <= len(ticks) <= 3
