"""Masked release without an engine: the schedule, and when a tenant may know what it has."""

from __future__ import annotations

import math
import random

import pytest

from safekv.cache import CacheConfig
from safekv.errors import ConfigError
from safekv.types import BlockId, Mode, Release, TenantId, Verdict, pack_tokens
from safekv.warden import Prefill, ReleaseSchedule, Warden, WardenConfig
from safekv.warden.schedule import ENOUGH, GRID, PER_TENANT, fit

A, B, VICTIM = TenantId("a"), TenantId("b"), TenantId("victim")
BLOCK = 4
MASKED = WardenConfig(release=Release.MASKED)
TEXT = pack_tokens([*range(100, 112), 7])


class Time:
    def __init__(self) -> None:
        self.s = 0.0

    def now_s(self) -> float:
        return self.s


def seconds(new: int, cached: int) -> float:
    return 0.01 + 0.001 * new + 1e-6 * new * (cached + new / 2)


def calibrated(tail: float = 0.05) -> ReleaseSchedule:
    schedule = ReleaseSchedule(tail)
    schedule.calibrate([Prefill(n, 0, seconds(n, 0)) for n in (8, 64, 256, 1024)])
    return schedule


# -- the schedule ------------------------------------------------------------------------------


def test_the_fit_finds_the_price_of_a_token_and_of_a_pair() -> None:
    rows = [Prefill(n, c, seconds(n, c)) for n in (1, 16, 200, 1000) for c in (0, 300)]
    assert fit(rows) == pytest.approx((0.01, 0.001, 1e-6), rel=1e-6)


def test_a_fit_that_would_be_negative_leaves_the_term_out() -> None:
    terms = fit([Prefill(10, 0, 1.0), Prefill(100, 0, 9.0), Prefill(1000, 0, 80.0)])
    assert min(terms) >= 0
    assert max(terms) > 0


def test_nothing_goes_out_before_the_schedule_is_calibrated() -> None:
    assert ReleaseSchedule(0.01).hold_s(10, 0) == math.inf
    with pytest.raises(ConfigError, match="nothing was measured"):
        ReleaseSchedule(0.01).calibrate([])


def test_more_tokens_are_never_held_for_less() -> None:
    schedule, rng = calibrated(), random.Random(3)
    for n in range(4 * ENOUGH):
        new = rng.choice((3, 30, 300, 900))
        took = Prefill(new, 0, seconds(new, 0) * rng.uniform(0.5, 3))
        schedule.measure(TenantId(f"t{n}"), took, late=False)
        if n % 20 == 0:
            schedule.look()
    holds = [schedule.hold_s(n, 1200 - n) for n in range(1, 1200)]
    assert holds == sorted(holds)


def test_the_schedule_follows_the_machine_up_at_once_and_down_by_steps() -> None:
    schedule = calibrated()
    before = schedule.hold_s(64, 0)

    def measure(factor: float, looks: int) -> None:
        for look in range(looks):
            for n in range(ENOUGH * 8):
                took = Prefill(64, 0, factor * seconds(64, 0))
                schedule.measure(TenantId(f"t{look}-{n}"), took, late=False)
            schedule.look()

    measure(4.0, 1)
    slow = schedule.hold_s(64, 0)
    assert slow >= 4 * seconds(64, 0) > before
    measure(1.0, 1)
    assert schedule.hold_s(64, 0) == pytest.approx(slow / GRID)
    measure(1.0, 40)
    # No lower: shorter prompts, of which nothing was measured, keep their margin.
    assert seconds(64, 0) <= schedule.hold_s(64, 0) < 1.3 * seconds(64, 0)


def test_what_is_measured_counts_at_the_next_look_and_not_before() -> None:
    schedule = calibrated()
    before = schedule.hold_s(64, 0)
    for n in range(ENOUGH * 2):
        schedule.measure(TenantId(f"t{n}"), Prefill(64, 0, 9 * seconds(64, 0)), late=True)
    assert schedule.hold_s(64, 0) == before
    schedule.look()
    assert schedule.hold_s(64, 0) > 8 * seconds(64, 0)


def test_one_tenant_alone_does_not_move_the_schedule_between_two_looks() -> None:
    schedule = calibrated()
    before = schedule.hold_s(64, 0)
    for _ in range(10 * ENOUGH):
        schedule.measure(A, Prefill(64, 0, 50 * seconds(64, 0)), late=True)
    schedule.look()
    assert PER_TENANT < ENOUGH
    assert schedule.hold_s(64, 0) == before


def test_a_hit_and_a_miss_of_the_same_speed_teach_the_same() -> None:
    """What is learnt is how fast the machine is, not whether something was found."""
    holds = []
    for cached in (0, 256):
        schedule = calibrated()
        for n in range(2 * ENOUGH):
            took = Prefill(64, cached, 2 * seconds(64, cached))
            schedule.measure(TenantId(f"t{n}"), took, late=False)
        schedule.look()
        holds.append(schedule.hold_s(100, 0))
    assert holds[0] == holds[1]


def test_prompts_that_overlap_count_as_one_long_one() -> None:
    """So when the second was scheduled does not tell how much was computed for the first."""
    dues = []
    for second_s in (0.0, 0.02, 0.05):
        schedule = calibrated()
        first = schedule.due_s(A, 0.0, 100, 0)
        assert second_s < first
        dues.append(schedule.due_s(A, second_s, 50, 0))
        assert dues[-1] > first
        assert schedule.due_s(B, second_s, 50, 0) < dues[-1], "others are not held for it"
        assert schedule.due_s(A, 100.0, 50, 0) == pytest.approx(100 + schedule.hold_s(50, 0))
    assert len(set(dues)) == 1


# -- what a tenant is told ---------------------------------------------------------------------


def warden(config: WardenConfig = MASKED, quota: int = 50) -> tuple[Warden, Time]:
    time = Time()
    cache = CacheConfig(
        block_tokens=BLOCK, capacity_blocks=4 * quota, shared_blocks=quota, quota_blocks=quota
    )
    made = Warden(config, cache, clock=time)
    made.open([A, B, VICTIM])
    return made, time


def ask(at: Warden, tenant: TenantId, tokens: bytes, due_s: float | None) -> int:
    """One request, computed at once; how many blocks its tenant was told of."""
    lease = at.admit(tenant, tokens)
    told = at.visible_blocks(lease)
    full = len(tokens) // 4 // BLOCK
    ids = [BlockId(ask.next_id + n) for n in range(full - lease.n_blocks)]  # type: ignore[attr-defined]
    ask.next_id += len(ids)  # type: ignore[attr-defined]
    at.store(tenant, lease, tokens[: full * BLOCK * 4], ids)
    job = at.computed(tenant, lease, tokens)
    if due_s is not None:
        at.ripen(lease, due_s)
    at.release(lease)
    if job is not None:
        at.settle(job, [Verdict.SHAREABLE] * job.full_blocks)
    return told


ask.next_id = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("shared", [False, True])
def test_a_prompt_is_its_tenants_when_its_answer_is_out_hit_or_miss(shared: bool) -> None:
    at, time = warden()
    if shared:
        ask(at, VICTIM, TEXT, 0.0)
        at.tick()
        assert at.shared_blocks_of(TEXT) == 3
    assert ask(at, A, TEXT, due_s=5.0) == 0
    time.s = 4.9
    assert ask(at, A, TEXT, due_s=9.0) == 0, "the same text again while the first is held"
    time.s = 5.0
    assert ask(at, A, TEXT, due_s=9.0) == 3
    at.check()


@pytest.mark.parametrize("shared", [False, True])
def test_a_tenants_room_does_not_depend_on_what_is_shared(shared: bool) -> None:
    at, _ = warden(quota=5)
    if shared:
        ask(at, VICTIM, TEXT, 0.0)
        at.tick()
    other = pack_tokens([*range(200, 212), 7])
    ask(at, A, other, 0.0)
    ask(at, A, TEXT, 0.0)
    usage = at.usage(A)
    assert usage.ceiling_blocks - usage.charged_blocks == 0
    lease = at.admit(A, other)
    assert at.visible_blocks(lease) == 2, "one block of the older text lapsed"


def test_a_request_that_never_answered_leaves_its_blocks_unknown() -> None:
    at, time = warden()
    ask(at, A, TEXT, due_s=None)
    time.s = 1e9
    assert ask(at, A, TEXT, due_s=1e9) == 0
    assert ask(at, A, TEXT, due_s=1e9) == 3, "the second one has answered"


def test_a_request_that_stored_nothing_hides_nothing() -> None:
    at, _ = warden()
    ask(at, A, TEXT, 0.0)
    at.release(at.admit(A, TEXT))
    assert ask(at, A, TEXT, 0.0) == 3


def test_what_one_tenant_waits_for_is_nothing_to_another() -> None:
    at, _ = warden()
    ask(at, A, TEXT, due_s=100.0)
    ask(at, B, TEXT, due_s=0.0)
    assert ask(at, B, TEXT, 0.0) == 3


def test_declared_blocks_are_told_of_at_once() -> None:
    at, _ = warden()
    at.declare([TEXT])
    ask(at, VICTIM, TEXT, 0.0)
    at.tick()
    assert ask(at, A, TEXT, due_s=5.0) == 3


def test_where_nothing_is_masked_own_blocks_are_told_of_at_once() -> None:
    at, _ = warden(WardenConfig())
    ask(at, A, TEXT, due_s=None)
    assert ask(at, A, TEXT, due_s=None) == 3
    assert at.schedule is None


def test_masked_release_is_refused_where_it_hides_nothing() -> None:
    with pytest.raises(ConfigError, match="hides nothing"):
        WardenConfig(mode=Mode.UNSAFE_GLOBAL, release=Release.MASKED)
    with pytest.raises(ConfigError, match="release_tail"):
        WardenConfig(release_tail=0.0)


def test_a_stricter_mode_ends_the_masks_and_shares_nothing() -> None:
    at, _ = warden()
    ask(at, VICTIM, TEXT, 0.0)
    at.tick()
    at.set_mode(Mode.ISOLATED)
    assert not at.config.masked
    assert ask(at, A, TEXT, due_s=0.0) == 0
    at.check()
