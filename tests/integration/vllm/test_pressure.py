"""The channel that is open, shown: in vLLM others' volume can be felt, and their content cannot."""

from __future__ import annotations

from safekv.bench.vllm.rig import Rig, RigPlan
from safekv.types import Mode
from safekv.warden import WardenConfig

MINE = (*range(100, 140), 7)


def found_after(others: list[list[int]]) -> int:
    """How much of its own prompt a tenant finds again after what another one sent."""
    plan = RigPlan(
        warden=WardenConfig(mode=Mode.ISOLATED), block_tokens=4, blocks=48, prompt_tokens=256
    )
    rig = Rig(plan)
    rig.send("attacker", MINE)
    for prompt in others:
        rig.send("victim", prompt)
    return rig.send("attacker", MINE).hit


def test_who_sends_much_evicts_others() -> None:
    """A quota that hides this is not built: see decision 9 and the threat model."""
    assert found_after([]) == 40
    assert found_after([list(range(n, n + 160)) for n in (1000, 2000)]) == 0


def test_what_it_sends_makes_no_difference() -> None:
    guesses = [[*MINE[:40], n] for n in range(3)]
    texts = [[*range(1000, 1040), n] for n in range(3)]
    assert found_after(guesses) == found_after(texts)
