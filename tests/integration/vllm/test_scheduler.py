"""Who finds what in vLLM's block pool, with vLLM's scheduler and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pool import check

from safekv.bench.vllm.rig import SECRET, Rig, RigPlan
from safekv.engines.vllm.claim import sign
from safekv.engines.vllm.hasher import keyed_of
from safekv.engines.vllm.index.wire import Kind
from safekv.engines.vllm.keys import BlockKeys
from safekv.errors import IsolationBroken
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, TenantId, Verdict, pack_tokens
from safekv.warden import WardenConfig

SYSTEM = tuple(range(1000, 1016))
LETTER = (*SYSTEM, *range(2000, 2020), 7)
"""Four shared blocks of four tokens, five more, and a token to compute."""

ALL = 36


def rig(mode: Mode = Mode.SELECTIVE, **more: Any) -> Rig:
    judge = more.pop("judge", None)
    plan = RigPlan(
        warden=WardenConfig(mode=mode, profile=more.pop("profile", Profile.PAPER)),
        block_tokens=4,
        **{"blocks": 300, "prompt_tokens": 256, **more},
    )
    return Rig(plan, judge) if judge is not None else Rig(plan)


def only_system(block: Sequence[int]) -> Verdict:
    return Verdict.SHAREABLE if block[0] < 2000 else Verdict.PRIVATE


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_letter_stays_its_senders_and_the_template_is_everybodys(asynchronous: bool) -> None:
    served = rig(judge=only_system, asynchronous=asynchronous)
    assert served.send("a", LETTER) == (0, 0)
    assert served.send("b", LETTER) == (0, 0)
    assert served.send("a", LETTER) == (ALL, ALL)
    assert served.tick() == 4
    assert served.send("a", LETTER) == (ALL, ALL)
    assert served.send("c", LETTER) == (16, 0)
    assert served.send("c", LETTER) == (ALL, ALL)
    assert served.send(None, LETTER) == (0, 0)
    assert served.send(None, LETTER) == (0, 0)


def test_what_is_promoted_is_found_without_being_computed_and_not_told() -> None:
    served = rig()
    served.send("a", LETTER)
    assert served.send("d", (*LETTER[:16], 9)) == (0, 0)
    served.tick()
    assert served.send("e", LETTER) == (ALL, 0)
    assert served.send("e", LETTER) == (ALL, ALL)


def test_demotion_stops_new_hits_and_takes_nothing_from_those_who_hold() -> None:
    served = rig()
    served.send("a", LETTER)
    served.send("b", LETTER)
    served.tick()
    assert served.send("d", LETTER) == (ALL, 0)
    served.book.warden.set_mode(Mode.ISOLATED)
    # Out of sight before the engine has renamed a block.
    assert not served.keeper.visible.shared
    served.keeper.drain()
    assert served.send("e", LETTER) == (0, 0)
    for holder in ("a", "b", "d"):
        assert served.send(holder, LETTER) == (ALL, ALL)


def test_all_owners_copies_are_shared_and_each_keeps_one() -> None:
    served = rig()
    for tenant in ("a", "b", "c"):
        served.send(tenant, LETTER)
    assert served.tick() == 9
    assert served.keeper.renamer.renamed == 27
    name = BlockKeys(SECRET).chain(b"\0" * 32, pack_tokens(LETTER), 4)[0] + bytes(4)
    assert len(served.pool.cached_block_hash_to_block._cache[name]) == 3
    served.book.warden.set_mode(Mode.ISOLATED)
    served.keeper.drain()
    assert name not in served.pool.cached_block_hash_to_block._cache
    for tenant in ("a", "b", "c"):
        assert served.send(tenant, LETTER).hit == ALL


def test_a_running_request_keeps_what_it_reads_when_that_is_demoted() -> None:
    served = rig()
    served.send("a", LETTER)
    served.tick()
    request = served.add(served.request("d", LETTER, max_tokens=12))
    served.step()
    held = [
        b.block_id
        for b in served.scheduler.kv_cache_manager.get_blocks(request.request_id).blocks[0]
    ]
    served.book.warden.set_mode(Mode.ISOLATED)
    served.step()
    blocks = served.scheduler.kv_cache_manager.get_blocks(request.request_id).blocks[0]
    assert [b.block_id for b in blocks][: len(held)] == held
    assert all(b.ref_cnt for b in blocks)
    served.run()
    assert served.send("e", LETTER).hit == 0
    assert served.send("d", LETTER).hit == ALL


def test_generated_blocks_are_private_until_somebody_sends_them() -> None:
    served = rig()
    served.send("a", LETTER, max_tokens=13)
    served.tick()
    answered = (*LETTER, *[7] * 12)
    assert served.send("b", answered).hit == ALL
    assert served.send("a", answered).hit == len(answered) - 1


def test_whoever_forges_fields_is_nobody() -> None:
    served = rig(judge=only_system)
    served.send("a", LETTER)
    served.tick()
    expired = sign(SECRET, TenantId("a"), now_s=1.0, lifetime_s=60.0)
    other = sign(b"x" * 32, TenantId("a"), now_s=2e9, lifetime_s=60.0)
    for forged in (expired, other, "a", "skvc1.a", None, 7, {"tenant": "a"}, ["a"]):
        request = served.request(None, LETTER, extra={"safekv": forged, "tenant": "a"})
        served.add(request)
        served.run()
        assert served.hits[request.request_id] == 0
        assert keyed_of(request).tenant is None  # type: ignore[union-attr]


def test_a_salt_that_got_through_gets_nothing_shared_and_nothing_of_its_own() -> None:
    served = rig()
    served.book.declare([pack_tokens(SYSTEM)])
    served.send("a", LETTER)
    served.tick()
    for salt in ("x", "x", "a"):
        assert served.send("a", LETTER, salt=salt) == (0, 0)


def test_nobodys_requests_read_declared_blocks_only() -> None:
    served = rig()
    served.book.declare([pack_tokens(SYSTEM)])
    served.send("a", LETTER)
    served.tick()
    assert served.send(None, LETTER) == (16, 16)
    assert served.send("b", LETTER) == (ALL, 16)


def test_a_request_that_was_never_named_is_refused() -> None:
    served = rig()
    request = served.request("a", LETTER)
    del request.safekv
    with pytest.raises(IsolationBroken, match="without names"):
        served.add(request)
    assert not served.scheduler.requests


def test_who_reads_too_much_gets_its_own_alone() -> None:
    served = rig(safeguard=SafeguardConfig(reads_per_node=3, reads_per_tenant=3, armed_reads=2))
    letters = [(*SYSTEM, *(3000 + n for _ in range(4)), 7) for n in range(6)]
    for letter in letters:
        served.send("a", letter)
    served.tick()
    found = [served.send("probe", letter).hit for letter in letters]
    assert found == [20, 20, 20, 16, 16, 16]
    assert served.keeper.visible.denied == 3
    # What it was answered, and what it computed itself, it may have again.
    assert [served.send("probe", letter).hit for letter in letters] == [20] * 6
    assert served.send("other", letters[5]).hit == 20


def test_a_window_gives_new_budgets() -> None:
    guard = SafeguardConfig(
        reads_per_node=2, reads_per_tenant=2, armed_reads=2, window_epochs=2, low_diversity=0.0
    )
    served = rig(safeguard=guard)
    letters = [(*SYSTEM, *(3000 + n for _ in range(4)), 7) for n in range(6)]
    for letter in letters:
        served.send("a", letter)
    served.tick()
    assert [served.send("p", one).hit for one in letters[:3]] == [20, 20, 16]
    served.tick()
    assert served.send("p", letters[3]).hit == 20


def frames_of(served: Rig) -> list[tuple[Kind, bytes]]:
    """What the index says from now on, held back."""
    held: list[tuple[Kind, bytes]] = []
    served.book._say = lambda kind, payload: held.append((kind, payload))
    return held


def test_a_verdict_that_is_taken_back_before_it_was_applied_is_none() -> None:
    served = rig()
    held = frames_of(served)
    served.send("a", LETTER)
    served.book.tick()
    served.book.warden.set_mode(Mode.ISOLATED)
    promoted = [frame for frame in held if frame[0] is Kind.SHARED]
    demoted = [frame for frame in held if frame[0] is Kind.PRIVATE]
    assert promoted
    assert demoted
    for frame in (*promoted, *demoted):
        served.keeper.hear(*frame)
    served.keeper.drain()
    assert not served.keeper.visible.shared
    assert served.keeper.renamer.renamed == 0
    for frame in (*promoted, *demoted, *promoted):
        served.keeper.hear(*frame)
    served.keeper.drain()
    assert served.send("b", LETTER).hit == ALL
    for frame in demoted:
        served.keeper.hear(*frame)
    assert served.send("c", LETTER).hit == 0
    assert served.send("a", LETTER).hit == ALL
    check(served)


def test_verdicts_of_an_index_that_is_gone_are_void_and_those_of_the_next_count() -> None:
    served = rig()
    held = frames_of(served)
    served.send("a", LETTER)
    served.book.tick()
    promoted = [frame for frame in held if frame[0] is Kind.SHARED]
    for frame in promoted:
        served.keeper.hear(*frame)
    served.keeper.lost()
    served.keeper.drain()
    assert not served.keeper.visible.shared
    served.keeper.lost()
    for frame in promoted:
        served.keeper.hear(*frame)
    assert served.send("b", LETTER).hit == ALL


def test_a_step_applies_no_more_than_its_budget() -> None:
    served = rig()
    served.keeper.renamer._budget_s = 0.0
    held = frames_of(served)
    served.send("a", LETTER)
    served.book.tick()
    for frame in held:
        served.keeper.hear(*frame)
    for done in range(1, 10):
        served.keeper.drain()
        assert len(served.keeper.visible.shared) == done
        assert served.keeper.renamer.looked_at == done
    assert served.send("b", LETTER).hit == ALL


def test_the_index_gone_means_nothing_is_shared() -> None:
    served = rig()
    served.send("a", LETTER)
    served.tick()
    served.keeper.lost()
    assert served.send("b", LETTER).hit == 0
    assert not served.keeper.visible.shared


def test_a_preempted_request_is_looked_up_again_as_its_tenants() -> None:
    """Two requests that do not fit together; the one set back finds its own blocks again."""
    served = rig(blocks=24)
    first = served.add(served.request("a", LETTER, max_tokens=30))
    second = served.add(served.request("b", [5, *LETTER[1:]], max_tokens=30))
    served.run()
    assert first.num_preemptions + second.num_preemptions > 0
    assert first.num_output_tokens == second.num_output_tokens == 30
    check(served)


def test_long_prompts_come_in_chunks_and_are_filed_under_the_names_of_their_moment() -> None:
    served = rig(batch_tokens=64)
    long = tuple(range(100, 301))
    served.send("a", long)
    request = served.add(served.request("b", long))
    served.step()
    assert request.num_computed_tokens < 200
    served.tick()
    served.run()
    assert served.send("c", long).hit == 200
    assert served.send("b", long).hit == 200


def test_a_session_goes_on_in_its_tenants_namespace_and_in_no_other() -> None:
    served = rig()
    parts = [tuple(range(50, 63)), tuple(range(70, 83))]
    for part in parts:
        served.add(served.request("a", part, request_id="session", resumable=True))
        for _ in range(3):
            served.step()
    session = served.scheduler.requests["session"]
    assert keyed_of(session).tenant == "a"  # type: ignore[union-attr]
    served.add(served.request("b", parts[1], request_id="session", resumable=True))
    assert keyed_of(session).tenant is None  # type: ignore[union-attr]
    assert session.block_hashes == keyed_of(session).private  # type: ignore[union-attr]
