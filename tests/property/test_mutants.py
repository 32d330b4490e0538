"""Bugs put in on purpose: each must make a named program fail, which passes without it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from safekv.cache import eviction
from safekv.cache import tree as tree_module
from safekv.cache.node import Claim, Node
from safekv.cache.quota import EPOCH_BITS, Account, Pool
from safekv.cache.structure import Structure
from safekv.errors import SafeKVError
from safekv.types import TOKEN_BYTES, TenantId
from support.lockstep import SHARED, A, B, C, Lockstep, small

Program = Callable[[], None]


def strangers() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.hit(B, "abcd")


def locked() -> None:
    both = Lockstep(small())
    both.hold(A, "abcd")
    both.evict(3, A)


def shared_in_part() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "ab")
    both.promote(B, "abcd")
    both.hit(C, "abcd")


def behind_the_shared() -> None:
    """A private run lies behind a shared one that everybody may read."""
    both = Lockstep(small())
    both.put(A, "abcd")
    both.promote(A, "ab")
    both.hit(B, "abcd")


def branches() -> None:
    """A branch point lives as long as the last use of a branch that has lapsed."""
    both = Lockstep(small())
    for text in ("abc", "abd"):
        both.put(A, text)
    n = both.hold(A, "dd")
    both.hit(A, "abd")
    both.evict(2, A)
    both.release(n)
    both.drain(ticked=False)


def beginnings() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(A, "ddd")
    both.hit(A, "ab")
    both.drain(ticked=False)


def charges() -> None:
    both = Lockstep(small())
    for tenant in (A, B):
        both.put(tenant, "abcd")
    both.promote(A, "ab")
    both.put(C, "ab")


def merged() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "ab")
    for text in ("ab", "abc"):
        both.match(A, text)
    both.forget(B)
    both.compact()
    both.evict(4, A)


def two_holders() -> None:
    both = Lockstep(small())
    for text in ("ab", "cd"):
        both.put(A, text)
        both.put(B, text)
    both.hit(B, "ab")
    both.drain(ticked=False)


def flooded() -> None:
    """A prompt that is matched again, then others that never are; it keeps two blocks."""
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0, reused_floor=0.25))
    both.put(A, "aaa")
    both.hit(A, "aaa")
    for text in ("bbb", "ccc", "ddd", "bcd"):
        both.put(A, text)


def overcommitted() -> None:
    """Who is over quota loses what was used least recently, though another is further over it."""
    both = Lockstep(small(capacity_blocks=10, shared_blocks=0, quota_blocks=2, overcommit=3))
    both.put(A, "aaa")
    both.put(B, "bbbb")
    both.evict(1)
    both.hit(B, "b")
    both.put(C, "c")
    both.evict(4)


def read_in_this_epoch() -> None:
    """A read counts when its epoch ends, so what B reads now saves nothing now."""
    both = Lockstep(small(shared_blocks=2))
    for text in ("a", "b"):
        both.put(A, text)
        both.promote(A, text)
    both.end_epoch()
    both.hit(B, "a")
    both.put(A, "c")
    both.promote(A, "c")


def see_all(node: Node, tenant: TenantId) -> bool:
    return True


def see_others(node: Node, tenant: TenantId) -> bool:
    return node.claim(tenant) is None


def ask_once(root: Node, width: int, tenant: TenantId, tokens: bytes) -> tuple[Node, int, int]:
    """A walk that takes all that lies below a visible run for visible."""
    node, at = root, 0
    while (child := node.children.get(tokens[at : at + width])) is not None:
        if node is root and not child.visible_to(tenant):
            break
        tail = 1 + child.common_blocks(tokens, at + width, (len(tokens) - at) // width - 1)
        node, at = child, at + tail * width
        if tail < child.size:
            return node, at // width, tail
    return node, at // width, node.size


def unlocked(structure: Structure, node: Node, account: Account) -> int:
    return 0


def share_the_end_only(structure: Structure, node: Node) -> None:
    if node.parent is not structure.root:
        share(structure, node)


def share_and_charge_on(structure: Structure, node: Node) -> None:
    structure.hold(node, structure.ledger.pool, structure.ledger.pool.tick())


def drop_without_time(structure: Structure, node: Node, account: Account) -> None:
    """The parent of what is dropped does not learn when that was used."""
    claim = node.claim(account.holder)
    assert claim is not None
    claim.set_uses(0, None)
    drop(structure, node, account)


def mark_all(claim: Claim, n_blocks: int, size: int, now: int) -> None:
    mark(claim, size, size, now)


def mark_nothing(claim: Claim, n_blocks: int, size: int, now: int) -> None:
    if n_blocks == size:
        mark(claim, n_blocks, size, now)


def mark_everybody(claim: Claim, n_blocks: int, size: int, now: int) -> None:
    node = claim.node
    for each in [node.claim(holder) for holder in node.holders()]:
        assert each is not None
        mark(each, n_blocks, size, max(now, each.used))


def merge_without_leases(structure: Structure, upper: Node, lower: Node) -> None:
    tails = {lease: lease.tail for lease in structure.ends.get(lower, ())}
    merge(structure, upper, lower)
    for lease, tail in tails.items():
        lease.tail = tail


def split_without_leases(structure: Structure, node: Node, upper: Node, n: int) -> None:
    return None


def forget_to_grow(structure: Structure, account: Account, n_blocks: int) -> None:
    structure.blocks += n_blocks


def lose_the_last_block(structure: Structure, node: Node, account: Account, keep: int) -> None:
    node.rest = node.rest[: (keep - 1) * structure.width]
    dropped = node.size - keep
    node.blocks = node.blocks[: keep * TOKEN_BYTES]
    structure.blocks -= dropped
    account.charged_blocks -= dropped
    node.shorten(keep)
    structure.offer(node, account)


def forget_reuse(structure: Structure, node: Node, account: Account, n_blocks: int) -> None:
    return None


def read_at_once(pool: Pool, node: Node, n_blocks: int, tokens: bytes, total: int) -> None:
    pool.read(node, n_blocks, pool.epoch << EPOCH_BITS | node.born)
    claim = node.claim(SHARED)
    assert claim is not None
    Account.touch(pool, claim)


def from_the_fullest(structure: Structure, goal: int) -> None:
    return None


def beyond_the_quota(structure: Structure, account: Account) -> tuple[int, Account] | None:
    """Takes what is within quotas for borrowed."""
    claim = account.first(0)
    return None if claim is None else (claim.used, account)


def youngest_first(account: Account, floor_blocks: float) -> Claim | None:
    waiting = [claim for claim in account.waiting() if account.may_lapse(claim)]
    return max(waiting, key=lambda claim: claim.used, default=None)


share, drop, merge, mark = Structure.share, Structure.drop, Structure._merge, Claim.mark

MUTANTS: dict[str, tuple[type | ModuleType, str, Callable[..., object], Program]] = {
    "everybody sees everything": (Node, "visible_to", see_all, strangers),
    "visibility is the wrong way round": (Node, "visible_to", see_others, strangers),
    "who sees a run sees all below": (tree_module, "visible_path", ask_once, behind_the_shared),
    "a lock does not lock": (Structure, "locked_blocks", unlocked, locked),
    "a run is shared below a private one": (Structure, "share", share_the_end_only, shared_in_part),
    "a shared run is charged twice": (Structure, "share", share_and_charge_on, charges),
    "a parent forgets the uses of its children": (Structure, "drop", drop_without_time, branches),
    "a part used is the whole used": (Claim, "mark", mark_all, beginnings),
    "a part used is not used": (Claim, "mark", mark_nothing, beginnings),
    "my use is everybody's": (Claim, "mark", mark_everybody, two_holders),
    "a merge forgets leases": (Structure, "_merge", merge_without_leases, merged),
    "a split forgets leases": (Structure, "_split_leases", split_without_leases, merged),
    "what is stored is not charged": (Structure, "_grow", forget_to_grow, locked),
    "blocks are lost instead of freed": (Structure, "_truncate", lose_the_last_block, beginnings),
    "the fullest loses first": (eviction, "_reclaim_borrowed", from_the_fullest, overcommitted),
    "a quota is not kept": (eviction, "_borrowed", beyond_the_quota, overcommitted),
    "the youngest goes first": (Account, "first", youngest_first, beginnings),
    "a second match counts for nothing": (Structure, "reuse", forget_reuse, flooded),
    "a read of a shared run counts at once": (Pool, "note_read", read_at_once, read_in_this_epoch),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, mutant, program = MUTANTS[name]
    program()
    monkeypatch.setattr(owner, attribute, mutant)
    # Not any error: a mutant that cannot even run would prove nothing.
    with pytest.raises((AssertionError, SafeKVError)):
        program()
