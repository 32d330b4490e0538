"""The life of a block as a small model, enumerated: no path to SHARED goes round the policy.

The model is written from the rules and knows nothing of the tree. Every state that any
sequence of acts can reach is visited (breadth first), and each transition is carried out on the
real warden too, which must agree on who sees the block.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, TenantId, Verdict
from safekv.warden import WardenConfig

TEMPLATE: Prompt = tuple(range(BLOCK_TOKENS))
BLOCK: Prompt = tuple(range(50, 50 + BLOCK_TOKENS))
PROMPT: Prompt = (*TEMPLATE, *BLOCK, 7)
"""The block in question lies below a template that everybody holds already."""

A, B, C = TENANTS = (TenantId("a"), TenantId("b"), TenantId("c"))
PROBER = TenantId("prober")
NEEDED = {Profile.PAPER: 1, Profile.ANONYMOUS: 2}


class Act(Enum):
    """What can happen next. `lost` verdicts are those of a detector that fails."""

    A_CLEARED = "a sends, cleared"
    A_VETOED = "a sends, vetoed"
    A_LOST = "a sends, no verdict"
    B_CLEARED = "b sends, cleared"
    B_LOST = "b sends, no verdict"
    EVICT_A = "a's copy is evicted"
    EVICT_B = "b's copy is evicted"
    TICK = "an epoch ends"
    PROBED = "a prober reads below the template until it is noticed, an epoch ends"
    STRICTER = "the mode is set again, at run time"
    CRASH = "the process is killed and started again"


@dataclass(frozen=True)
class Life:
    """All that decides what may happen to one block.

    PRIVATE: somebody holds it. PENDING: cleared in this epoch by `pending`. SHARED.
    QUARANTINED for good. `contributed` counts for this window.
    """

    holders: frozenset[TenantId] = frozenset()
    pending: frozenset[TenantId] = frozenset()
    contributed: frozenset[TenantId] = frozenset()
    shared: bool = False
    quarantined: bool = False


def after(life: Life, act: Act, profile: Profile) -> Life:
    """The rules. Nothing is shared anywhere else than in `_tick`."""
    if act is Act.CRASH:
        return Life()
    if act is Act.STRICTER:
        return replace(life, pending=frozenset(), contributed=frozenset(), shared=False)
    if act is Act.TICK:
        return _tick(life, profile)
    if act is Act.PROBED:
        # The suspicion comes first in the tick that ends the epoch, then what was cleared.
        return _tick(replace(life, shared=False, quarantined=True), profile)
    if act in (Act.EVICT_A, Act.EVICT_B):
        if life.shared:  # a shared run is charged to nobody, so nothing of it lapses
            return life
        return replace(life, holders=life.holders - {A if act is Act.EVICT_A else B})
    return _send(life, A if act.name.startswith("A") else B, act.name.endswith("CLEARED"))


def _send(life: Life, tenant: TenantId, cleared: bool) -> Life:
    computed = not life.shared and tenant not in life.holders
    holders = life.holders | {tenant}
    if not cleared or life.shared:
        return replace(life, holders=holders)
    contributed = life.contributed | {tenant} if computed else life.contributed
    return replace(life, holders=holders, pending=life.pending | {tenant}, contributed=contributed)


def _tick(life: Life, profile: Profile) -> Life:
    crowd = profile is Profile.PAPER or len(life.contributed) >= NEEDED[profile]
    who = life.pending | (life.contributed if profile is Profile.ANONYMOUS else frozenset())
    proven = bool(life.pending) and crowd and bool(who & life.holders)
    return replace(
        life,
        pending=frozenset(),
        shared=life.shared or (proven and not life.quarantined),
    )


class Replay:
    """The same acts on the real warden."""

    def __init__(self, profile: Profile) -> None:
        self.verdict: Verdict | None = None
        config = WardenConfig(
            mode=Mode.SELECTIVE,
            profile=profile,
            threshold_low=NEEDED[Profile.ANONYMOUS],
            threshold_width=2,
        )
        self.world = World(
            config,
            (*TENANTS, PROBER),
            judge=lambda block: self.verdict,
            declared=[TEMPLATE],
            safeguard=SafeguardConfig(armed_reads=2, low_diversity=0.9),
        )
        self._begin()

    def _begin(self) -> None:
        for tenant in (*TENANTS, PROBER):
            self.world.send(tenant, (*TEMPLATE, 7))
        self.world.tick()

    def do(self, act: Act) -> None:
        world, warden = self.world, self.world.warden
        match act:
            case Act.CRASH:
                world.restart()
                self._begin()
            case Act.STRICTER:
                warden.set_mode(warden.config.mode)
            case Act.TICK:
                world.tick()
            case Act.PROBED:
                for n in range(2):
                    read = (*TEMPLATE, *(900 + n for _ in range(BLOCK_TOKENS)), 7)
                    tokens = b"".join(t.to_bytes(4, "little") for t in read)
                    warden._guard.monitor.note(PROBER, tokens, 1, 2)
                world.tick()
            case Act.EVICT_A:
                self._evict(A)
            case Act.EVICT_B:
                self._evict(B)
            case _:
                self.verdict = {
                    "CLEARED": Verdict.SHAREABLE,
                    "VETOED": Verdict.PRIVATE,
                    "LOST": None,
                }[act.name.partition("_")[2]]
                world.send(A if act.name.startswith("A") else B, PROMPT)

    def _evict(self, tenant: TenantId) -> None:
        usage = self.world.warden.usage(tenant)
        self.world.evict(tenant, usage.charged_blocks)

    def sees(self, tenant: TenantId) -> bool:
        running, seen = self.world.start(tenant, PROMPT)
        self.world.warden.release(running.lease)
        return seen.waited_tokens == 1


def reachable(profile: Profile) -> dict[Life, tuple[Act, ...]]:
    """Every state and the shortest way there."""
    paths: dict[Life, tuple[Act, ...]] = {Life(): ()}
    todo = deque(paths)
    while todo:
        life = todo.popleft()
        for act in Act:
            then = after(life, act, profile)
            if then not in paths:
                paths[then] = (*paths[life], act)
                todo.append(then)
    return paths


@pytest.mark.parametrize("profile", list(Profile))
def test_no_path_reaches_shared_without_a_verdict_and_the_policys_conditions(
    profile: Profile,
) -> None:
    """Walks every transition of the model and asks what must have come before."""
    for life in reachable(profile):
        for act in Act:
            then = after(life, act, profile)
            if then.shared and not life.shared:
                assert act is Act.TICK, "only an epoch's end shares"
                assert life.pending, "only with a clean verdict"
                assert not life.quarantined
                assert len(life.contributed) >= NEEDED[profile] or profile is Profile.PAPER
            assert not (then.shared and then.quarantined)
            assert then.quarantined or not life.quarantined or act is Act.CRASH


@pytest.mark.parametrize("profile", list(Profile))
def test_the_warden_agrees_with_the_model_on_every_transition(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The threshold is secret, but the model has to know it: the lowest, always.
    monkeypatch.setattr(
        "safekv.warden.threshold.SecretThreshold.of", lambda self, block, window: self.low
    )
    visited = 0
    for life, path in reachable(profile).items():
        for act in Act:
            replay = Replay(profile)
            for step in (*path, act):
                replay.do(step)
            then = after(life, act, profile)
            steps = [one.value for one in (*path, act)]
            assert replay.sees(C) == then.shared, steps
            for tenant in (A, B):
                assert replay.sees(tenant) == (then.shared or tenant in then.holders), steps
            replay.world.warden.check()
            visited += 1
    assert visited > 200
