"""The arms of one round: which prompts they have, and how their answers become pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from safekv.audit.endpoint.judge import Place
from safekv.audit.endpoint.observation import Content, Observation, Pair, Scope

CONTROL: Final = None
Arm = tuple[Scope | None, Content, bool]
"""A scope, or `None` for the control arm; a content; and whether it is probed without a key."""

Ranks = dict[Scope | None, int]
"""The places in which prompts sent at once were served, from 1."""


@dataclass(slots=True)
class Round:
    """The prompts of one round and those of its crowd, and whether answers are asked for again."""

    texts: dict[Arm, str] = field(repr=False)
    crowd: dict[Arm, str] = field(repr=False)
    again: bool


def _changed(before: Observation, now: Observation | None) -> bool | None:
    """Whether two answers differ, by their digests; `None` when one of them is missing."""
    return before.digest != now.digest if now and now.digest and before.digest else None


def pairs(
    seen: Mapping[Arm, Observation], again: Mapping[Arm, Observation], ranks: Ranks
) -> Iterator[tuple[Place, Pair]]:
    """Each arm's answer with its control's.

    `again` are the answers to the same prompts asked for once more, by then out of the prober's
    own cache: a first answer that was a hit already changes less often. Places come from other
    requests than times do; as every channel is tested by itself, they may stand in one pair.
    """
    seen = {arm: replace(one, changed=_changed(one, again.get(arm))) for arm, one in seen.items()}
    for arm, primed in seen.items():
        scope, content, without_key = arm
        if scope is CONTROL:
            continue
        control = seen[CONTROL, content, without_key]
        if scope in ranks and CONTROL in ranks:
            primed = replace(primed, rank=ranks[scope])
            control = replace(control, rank=ranks[CONTROL])
        yield (scope, content), Pair(primed, control)
