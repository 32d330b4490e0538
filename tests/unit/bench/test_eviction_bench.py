"""Replaying a trace: counts that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safekv.bench.eviction import (
    EvictionPlan,
    flooded,
    popular_blocks,
    read,
    replay,
    run,
)

SYSTEM = [1, 2]
CHATS = [[*SYSTEM, 10], [*SYSTEM, 11], [*SYSTEM, 12]]


def quiet(done: int, total: int) -> None:
    assert done < total


def test_popular_is_what_lies_above_a_parting_of_three_ways() -> None:
    assert popular_blocks(CHATS) == set(SYSTEM)
    assert popular_blocks(CHATS[:2]) == set()


def test_hits_with_room_for_everything() -> None:
    hit_rate, kept = replay([(chat, True) for chat in CHATS], 99, 0.0, set(SYSTEM))
    assert (hit_rate, kept) == (pytest.approx(4 / 9), pytest.approx(4 / 6))


def test_a_flood_pushes_out_the_system_prompt_under_lru_and_not_with_a_floor() -> None:
    once = iter(range(100, 200))
    requests: list[tuple[list[int], bool]] = []
    for chat in CHATS * 2:
        requests += [(chat, True), *(([next(once) for _ in range(4)], False) for _ in range(2))]
    lru, floor = (replay(requests, 8, share, set(SYSTEM))[1] for share in (0.0, 0.25))
    assert lru == 0
    assert floor == 0, "a prompt that was not yet matched again is not protected"
    requests.insert(1, (CHATS[1], True))
    lru, floor = (replay(requests, 8, share, set(SYSTEM))[1] for share in (0.0, 0.25))
    assert lru < 0.2 < 0.9 * floor


def test_requests_larger_than_the_budget_are_cut_and_lose_nothing() -> None:
    requests = [(list(range(50)), True), (list(range(50)), True)]
    assert replay(requests, 10, 0.25, set())[0] == pytest.approx(10 / 100)


def test_a_flood_is_as_long_as_what_it_lies_between_and_never_repeats() -> None:
    mixed = list(flooded(CHATS * 50, 0.5, seed=1))
    extra = [request for request, real in mixed if not real]
    assert 40 < len(extra) < 110
    assert all(len(request) == 3 for request in extra)
    ids = [block for request in extra for block in request]
    assert len(set(ids)) == len(ids)


def test_every_order_replays_the_same_requests() -> None:
    plan = EvictionPlan(budgets=(0.5, 1.0), floods=(0.0,))
    rows = run(CHATS * 3, plan, quiet)["rows"]
    assert isinstance(rows, list)
    whole = [row["hit_rate"] for row in rows if row["budget"] == 1.0]
    assert len(rows) == 4
    assert whole[0] == whole[1] == pytest.approx((27 - 5) / 27)


def test_full_blocks_of_a_trace_are_read(tmp_path: Path) -> None:
    one = {"timestamp": 0, "output_length": 1}
    rows = [
        {**one, "hash_ids": [7, 8, 9], "input_length": 1100},
        {**one, "hash_ids": [7], "input_length": 20},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert read(path) == [[0, 1]]
