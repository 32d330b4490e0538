"""Claim: whether a tenant sent a secret cannot be seen in what another tenant matches.

Two worlds run the same program of requests and epoch ticks; in one of them the victim also
sends prompts that hold a secret. The attacker, who knows all other text and guesses the
secret, must see the same in both. The same comparison must differ in `unsafe-global`:
otherwise the test could not fail.

Each tenant has a quota, so under pressure too nothing may differ, not even by how much the
victim sent. One thing is left out: in `selective`, a victim whose own cache is full may lose
clean blocks before they are promoted. There the worlds differ only in what the victim
wrote, not in how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.cache import CacheConfig
from safekv.types import BlockId, Mode, TenantId, Verdict, pack_tokens, unpack_tokens
from safekv.warden import PromptJob, Warden, WardenConfig

BLOCK = 4
SECRET = 99
"""The token that the stand-in detector vetoes: a block that holds it is private."""

VICTIM, ATTACKER = TenantId("victim"), TenantId("attacker")
TENANTS = (VICTIM, ATTACKER, TenantId("b"), TenantId("c"))


Block = tuple[int, ...]
Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Send:
    tenant: TenantId
    prompt: Prompt


Step = Send | None
"""A request, or the end of an epoch."""

words = st.sampled_from([1, 2])
clean_block = st.tuples(words, words).map(lambda pair: (*pair, 3, 3))
secret_block = st.tuples(words, words).map(lambda pair: (*pair, SECRET, 3))
clean = st.lists(clean_block, min_size=1, max_size=3)
tail = st.lists(clean_block, max_size=2)


def flat(blocks: list[Block]) -> Prompt:
    return (*(token for block in blocks for token in block), 7)


clean_prompt = clean.map(flat)
secret_prompt = st.builds(lambda a, s, b: flat([*a, s, *b]), clean, secret_block, tail)
others = st.sampled_from([TenantId("b"), TenantId("c"), ATTACKER])
open_step = st.one_of(
    st.builds(Send, others, clean_prompt),
    st.builds(Send, st.just(ATTACKER), secret_prompt),
    st.none(),
)
hidden_step = st.builds(Send, st.just(VICTIM), secret_prompt)
programs = st.lists(st.tuples(st.booleans(), open_step, hidden_step), min_size=3, max_size=25)


def verdicts(job: PromptJob) -> list[Verdict]:
    tokens = unpack_tokens(job.tokens)
    return [
        Verdict.PRIVATE if SECRET in tokens[n * BLOCK : (n + 1) * BLOCK] else Verdict.SHAREABLE
        for n in range(job.full_blocks)
    ]


def attackers_view(
    mode: Mode, program: list[Step], quota: int = 2_000
) -> list[tuple[int, int, int]]:
    """Matched and own blocks of each of the attacker's requests and the room left, in order."""
    pool = quota if mode is Mode.SELECTIVE else 0
    config = CacheConfig(
        block_tokens=BLOCK,
        capacity_blocks=(len(TENANTS) + 1) * quota + pool,
        shared_blocks=pool,
        quota_blocks=quota,
    )
    warden = Warden(WardenConfig(mode=mode), config)
    warden.open(TENANTS)
    ids, view = count(), []
    for step in program:
        if step is None:
            warden.tick()
            continue
        tokens = pack_tokens(step.prompt)
        lease = warden.admit(step.tenant, tokens)
        if step.tenant == ATTACKER:
            view.append((lease.hit_blocks, lease.own_blocks, _room(warden)))
        n_full = len(step.prompt) // BLOCK
        new = [BlockId(next(ids)) for _ in range(n_full - lease.n_blocks)]
        warden.store(step.tenant, lease, pack_tokens(step.prompt[: n_full * BLOCK]), new)
        if job := warden.computed(step.tenant, lease, tokens):
            warden.settle(job, verdicts(job))
        warden.release(lease)
        warden.check()
    return view


def _room(warden: Warden) -> int:
    usage = warden.usage(ATTACKER)
    return usage.ceiling_blocks - usage.charged_blocks


def worlds(program: list[tuple[bool, Step, Send]]) -> tuple[list[Step], list[Step]]:
    without: list[Step] = [step for _, step, _ in program]
    with_secret: list[Step] = []
    for sends, step, hidden in program:
        with_secret += [hidden, step] if sends else [step]
    return without, with_secret


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
@settings(max_examples=400, deadline=None)
@given(program=programs)
def test_the_attacker_sees_the_same_in_both_worlds(
    mode: Mode, program: list[tuple[bool, Step, Send]]
) -> None:
    """In `selective` the victim's clean first blocks may be shared, so they are sent in both."""
    without, with_secret = worlds(program)
    if mode is Mode.SELECTIVE:
        without = _keep_clean_part(program)
    assert attackers_view(mode, without) == attackers_view(mode, with_secret)


def _keep_clean_part(program: list[tuple[bool, Step, Send]]) -> list[Step]:
    steps: list[Step] = []
    for sends, step, hidden in program:
        if sends:
            at = hidden.prompt.index(SECRET) // BLOCK * BLOCK
            steps.append(Send(VICTIM, (*hidden.prompt[:at], 8)))
        steps.append(step)
    return steps


def rewrite(before: list[Block], secret: Block, behind: list[Block]) -> tuple[Prompt, Prompt]:
    """A prompt with a secret, and the same one with a secret that nobody guesses.

    One to one, so that the victim repeats itself in both worlds alike.
    """
    unguessed = (*secret[:2], 77, SECRET)
    return flat([*before, secret, *behind]), flat([*before, unguessed, *behind])


rewritten = st.builds(rewrite, clean, secret_block, tail)
tight = st.lists(st.tuples(open_step, st.none() | rewritten), min_size=4, max_size=40)


@settings(max_examples=400, deadline=None)
@given(program=programs, quota=st.integers(6, 12))
def test_under_pressure_how_much_the_victim_sent_changes_nothing(
    program: list[tuple[bool, Step, Send]], quota: int
) -> None:
    without, with_secret = worlds(program)
    assert attackers_view(Mode.ISOLATED, without, quota) == attackers_view(
        Mode.ISOLATED, with_secret, quota
    )


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
@settings(max_examples=400, deadline=None)
@given(program=tight, quota=st.integers(6, 12))
def test_under_pressure_what_the_victim_wrote_changes_nothing(
    mode: Mode, program: list[tuple[Step, tuple[Prompt, Prompt] | None]], quota: int
) -> None:
    """Not by what is kept alive, and not by the room that equal texts would save."""
    views = []
    for world in (0, 1):
        steps: list[Step] = []
        for step, texts in program:
            if texts is not None:
                steps.append(Send(VICTIM, texts[world]))
            steps.append(step)
        views.append(attackers_view(mode, steps, quota))
    assert views[0] == views[1]


def test_the_same_comparison_finds_the_leak_of_global_sharing() -> None:
    """Positive control: without isolation the two worlds differ."""
    prompt = flat([(1, 1, 3, 3), (1, 2, SECRET, 3)])
    program: list[tuple[bool, Step, Send]] = [(True, Send(ATTACKER, prompt), Send(VICTIM, prompt))]
    without, with_secret = worlds(program)
    seen = [attackers_view(Mode.UNSAFE_GLOBAL, steps)[0][0] for steps in (without, with_secret)]
    assert seen == [0, 2]


def test_sharing_really_happens_in_selective_mode() -> None:
    """Utility control: clean text of one tenant is a hit for another after a tick."""
    prompt = flat([(1, 1, 3, 3), (2, 2, 3, 3)])
    program: list[Step] = [Send(VICTIM, prompt), None, Send(ATTACKER, prompt)]
    assert [seen[:2] for seen in attackers_view(Mode.SELECTIVE, program)] == [(2, 0)]
    assert [seen[:2] for seen in attackers_view(Mode.ISOLATED, program)] == [(0, 0)]
