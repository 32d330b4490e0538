"""One tier below the device: quotas, places, and blocks without content."""

from __future__ import annotations

from pathlib import Path

import pytest

from safekv.cache import TiersConfig
from safekv.cache.shelf import Gap, Shelf
from safekv.errors import CacheError, ConfigError, IsolationBroken
from safekv.types import BlockId, TenantId
from support.blocks import BLOCK_TOKENS, tokens_of
from support.lockstep import A, B, C


def shelf(capacity: int = 8, quota: int | None = None, *tenants: TenantId) -> Shelf:
    made = Shelf(BLOCK_TOKENS, capacity, quota)
    for tenant in tenants:
        made.open(tenant)
    return made


def put(it: Shelf, tenant: TenantId, text: str) -> list[Gap]:
    lease = it.match(tenant, tokens_of(text))
    assert lease is not None
    gaps = it.grow(lease, tokens_of(text))
    it.release(lease)
    it.check()
    return gaps


def whole(it: Shelf, tenant: TenantId, text: str) -> int:
    lease = it.match(tenant, tokens_of(text))
    assert lease is not None
    it.release(lease)
    return it.whole_blocks(lease)


def test_only_what_is_missing_of_a_path_is_to_be_filled() -> None:
    it = shelf(8, None, A)
    (first,) = put(it, A, "abc")
    assert (first.start, first.end, first.parent) == (0, 3, None)
    assert put(it, A, "ab") == []
    (more,) = put(it, A, "abd")
    assert (more.start, more.end, more.parent) == (2, 3, first.blocks[1])


def test_equal_texts_of_two_tenants_lie_apart() -> None:
    it = shelf(8, None, A, B)
    mine, theirs = put(it, A, "abc"), put(it, B, "abc")
    assert set(mine[0].blocks).isdisjoint(theirs[0].blocks)


def test_a_lost_block_ends_the_path_until_it_is_filled_again() -> None:
    it = shelf(8, None, A)
    (gap,) = put(it, A, "abcd")
    it.lost.add(gap.blocks[1])
    assert whole(it, A, "abcd") == 1
    (again,) = put(it, A, "abcd")
    assert (again.start, list(again.blocks), again.parent) == (1, [gap.blocks[1]], gap.blocks[0])
    assert whole(it, A, "abcd") == 4


def test_a_path_longer_than_the_quota_is_kept_in_part() -> None:
    it = shelf(8, 3, A)
    (gap,) = put(it, A, "abcdab")
    assert gap.end == 3
    assert whole(it, A, "abcdab") == 3


def test_equal_shares_shrink_at_once_when_a_tenant_comes() -> None:
    it = shelf(8, None, A)
    put(it, A, "abcdabcd")
    it.open(B)
    it.check()
    assert it.quota_blocks == 4
    assert whole(it, A, "abcdabcd") == 4


def test_a_tenant_for_whom_no_quota_is_left_has_no_cache() -> None:
    it = shelf(8, 4, A, B, C)
    assert it.match(C, tokens_of("ab")) is None
    it = shelf(1, None, A, B)
    assert put(it, A, "ab") == []


def test_forget_gives_all_places_back() -> None:
    freed: list[BlockId] = []
    it = shelf(8, None, A, B)
    it.on_free = lambda tenant, blocks: freed.extend(blocks)
    (gap,) = put(it, A, "abc")
    lease = it.match(A, tokens_of("ab"))
    assert lease is not None
    with pytest.raises(CacheError):
        it.forget(A)
    it.release(lease)
    it.forget(A)
    assert sorted(freed) == sorted(gap.blocks)
    assert it.stored_blocks == 0
    it.check()


def test_check_finds_a_block_in_two_places() -> None:
    it = shelf(8, None, A)
    (gap,) = put(it, A, "ab")
    it._free.append(gap.blocks[0])
    with pytest.raises(IsolationBroken):
        it.check()


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("tiers.host_blocks", {"host_blocks": -1}),
        ("tiers.disk_blocks", {"disk_blocks": 4, "disk_path": Path("x")}),
        ("tiers.disk_path", {"host_blocks": 4, "disk_blocks": 4}),
        ("tiers.host_quota_blocks", {"host_blocks": 4, "host_quota_blocks": 5}),
        ("tiers.queue_blocks", {"queue_blocks": 0}),
        ("tiers.read_limit_s", {"read_limit_s": 0}),
    ],
)
def test_settings_that_cannot_work_are_refused(named: str, fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        TiersConfig(**fields)  # type: ignore[arg-type]
