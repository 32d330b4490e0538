"""Channels that stay open, measured on the warden: how much they tell, and what they do not."""

from __future__ import annotations

import pytest

from safekv.audit.world import BLOCK_TOKENS, World
from safekv.cache import CacheConfig
from safekv.types import BlockId, Mode, TenantId, pack_tokens
from safekv.warden import Warden, WardenConfig

VICTIM, ATTACKER = TenantId("victim"), TenantId("attacker")
CAPACITY = 40


def survivors(overcommit: float, texts: list[int]) -> int:
    """How many of 30 blocks the attacker finds again after the victim has sent one block of each
    of `texts`, on a machine with 40 blocks."""
    cache = CacheConfig(
        block_tokens=BLOCK_TOKENS,
        capacity_blocks=CAPACITY,
        shared_blocks=0,
        quota_blocks=CAPACITY // 4,
        overcommit=overcommit,
    )
    warden = Warden(WardenConfig(mode=Mode.ISOLATED), cache)
    warden.open([VICTIM, ATTACKER])
    ids = iter(range(10_000))

    def send(tenant: TenantId, first: int) -> None:
        tokens = pack_tokens([first, 1, 1, 1, 7])
        lease = warden.admit(tenant, tokens)
        if not lease.n_blocks:
            lacking = warden.stored_blocks() + 1 - CAPACITY
            if lacking > 0:
                warden.evict(lacking)
            warden.store(tenant, lease, tokens[: 4 * BLOCK_TOKENS], [BlockId(next(ids))])
        warden.release(lease)
        warden.take_freed()

    for n in range(30):
        send(ATTACKER, 1000 + n)
    for text in texts:
        send(VICTIM, text)
    found = 0
    for n in range(30):
        lease = warden.admit(ATTACKER, pack_tokens([1000 + n, 1, 1, 1, 7]))
        found += lease.n_blocks
        warden.release(lease)
    return found


def test_under_overcommit_volume_is_felt_and_content_is_not() -> None:
    """Whoever is furthest over its quota loses a block for each that is lacking, whatever it is."""
    assert survivors(4.0, []) == 30
    by_volume = [survivors(4.0, list(range(n))) for n in (10, 15, 20)]
    assert by_volume == [30, 25, 20], "each block beyond memory costs one of the attacker's"
    other = [survivors(4.0, list(range(5000, 5000 + n))) for n in (10, 15, 20)]
    assert other == by_volume


def test_without_overcommit_not_even_volume_is_felt() -> None:
    found = {n: survivors(1.0, list(range(n))) for n in (0, 5, 25, 200)}
    assert found == dict.fromkeys(found, 10)


def when(act: int, ticks: int) -> list[int]:
    """What a reader finds after each tick when the victim sends at the `act`-th of 12 moments,
    three of which make an epoch."""
    world = World(WardenConfig(), [VICTIM, ATTACKER])
    text, found = (*range(100, 108), 7), list[int]()
    for moment in range(3 * ticks):
        if moment == act:
            world.send(VICTIM, text)
        if moment % 3 == 2:
            world.tick()
            running, seen = world.start(ATTACKER, text)
            world.warden.release(running.lease)
            found.append(len(text) - seen.waited_tokens)
    return found


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_moment_of_promotion_tells_the_epoch_and_no_more(epoch: int) -> None:
    views = [when(3 * epoch + moment, 4) for moment in range(3)]
    assert views[0] == views[1] == views[2], "within an epoch all moments look alike"
    assert views[0] == [0] * epoch + [8] * (4 - epoch)
