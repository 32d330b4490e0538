"""The prefix tree against a model that knows single blocks and nothing of nodes."""

from __future__ import annotations

import os

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from safekv.types import TenantId
from support.blocks import LETTERS
from support.lockstep import A, B, C, Lockstep, small

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
settings.register_profile("tree", max_examples=150, stateful_step_count=40, deadline=None)
settings.register_profile("nightly", max_examples=3000, stateful_step_count=60, deadline=None)

tenants = st.sampled_from([A, B, C])
alphabets = st.sampled_from([2, 2, 3, 4, 1])


class TreeMachine(RuleBasedStateMachine):
    """Any sequence of operations; `Lockstep` compares everything after each of them."""

    @initialize(
        letters=alphabets,
        capacity=st.sampled_from([24, 16, 10, 4]),
        pool=st.sampled_from([3, 6, 1, 0]),
        overcommit=st.sampled_from([1.0, 1.0, 1.5, 3.0]),
        floor=st.sampled_from([0.25, 0.0, 0.5, 1.0]),
        quota=st.sampled_from([None, None, None, 1, 5]),
        quotas=st.lists(st.none() | st.integers(0, 8), max_size=3),
        first=st.lists(
            st.tuples(tenants, st.text("ab", min_size=1, max_size=6), st.integers(0, 4)),
            min_size=4,
            max_size=9,
        ),
    )
    def start(
        self,
        letters: int,
        capacity: int,
        pool: int,
        overcommit: float,
        floor: float,
        quota: int | None,
        quotas: list[int | None],
        first: list[tuple[TenantId, str, int]],
    ) -> None:
        pool = min(pool, capacity - 1)
        self.both = Lockstep(
            small(
                capacity_blocks=capacity,
                shared_blocks=pool,
                quota_blocks=quota and min(quota, capacity - pool),
                overcommit=overcommit,
                reused_floor=floor,
            )
        )
        self.alphabet = LETTERS[:letters]
        self.more = st.text(self.alphabet, min_size=1, max_size=4)
        for tenant, text, shared in first:
            self.both.hit(tenant, "") is None or self.both.put(tenant, text)
            self.both.promote(tenant, text, shared)

    def text(self, data: st.DataObject) -> str:
        """A text, mostly one that is stored already, up to somewhere, and perhaps goes on."""
        stored = sorted(self.both.model.block, key=lambda p: (-len(p), p))
        stem = data.draw(st.sampled_from(stored)) if stored else ""
        text = stem + data.draw(st.sampled_from(["", "", *self.alphabet]) | self.more)
        note(f"text {text!r}")
        return text

    def lease(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.both.leases) - 1))

    @rule(tenant=tenants, data=st.data())
    def put(self, tenant: TenantId, data: st.DataObject) -> None:
        if (n := self.both.match(tenant, self.text(data))) is not None:
            self.both.insert(n, data.draw(self.more))
            self.both.release(n)

    @rule(tenant=tenants, data=st.data())
    def hold(self, tenant: TenantId, data: st.DataObject) -> None:
        if (n := self.both.match(tenant, self.text(data))) is not None:
            self.both.insert(n, data.draw(self.more))

    @rule(tenant=tenants, data=st.data(), most=st.none() | st.integers(0, 5))
    def match(self, tenant: TenantId, data: st.DataObject, most: int | None) -> None:
        self.both.match(tenant, self.text(data), most)

    @rule(tenant=tenants, data=st.data())
    def hit(self, tenant: TenantId, data: st.DataObject) -> None:
        self.both.hit(tenant, self.text(data))

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data())
    def insert(self, data: st.DataObject) -> None:
        self.both.insert(self.lease(data), data.draw(self.more))

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        self.both.adopt(self.lease(data))

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.both.release(self.lease(data))

    @rule(tenant=tenants, data=st.data(), most=st.integers(-1, 9))
    def promote(self, tenant: TenantId, data: st.DataObject, most: int) -> None:
        self.both.promote(tenant, self.text(data), most)

    @rule(data=st.data(), keep=st.integers(0, 4))
    def demote(self, data: st.DataObject, keep: int) -> None:
        self.both.demote(self.text(data), keep)

    @rule(n=st.integers(-1, 8), tenant=st.none() | tenants)
    def evict(self, n: int, tenant: TenantId | None) -> None:
        self.both.evict(n, tenant)

    @rule(tenant=tenants, quota=st.none() | st.integers(0, 8), forget=st.booleans())
    def open_or_forget(self, tenant: TenantId, quota: int | None, forget: bool) -> None:
        if forget:
            self.both.forget(tenant)
        else:
            self.both.open(tenant, quota)
            self.both.agree()

    @rule()
    def end_epoch(self) -> None:
        self.both.end_epoch()

    @rule(n=st.none() | st.integers(0, 3))
    def compact(self, n: int | None) -> None:
        self.both.compact(n)

    def teardown(self) -> None:
        """The order in which everything leaves shows all ages, which nothing else does."""
        if (both := getattr(self, "both", None)) is not None:
            both.drain(ticked=len(both.leases) % 2 == 0)


TestTree = TreeMachine.TestCase
TestTree.settings = settings.get_profile("nightly" if NIGHTLY else "tree")
