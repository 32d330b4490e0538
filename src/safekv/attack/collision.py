"""Collision: recompute candidates' keys and values and see which one is in the cache.

KV-Cloak paper (arXiv 2508.09442), section 3. At layer 0 keys and values depend on token and
position alone, so the whole vocabulary is compared at once (`nearest`). Deeper, a candidate is run
behind what was recovered so far (`search`), the likeliest ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Final, Protocol

import torch

from safekv.attack.capture import Captured
from safekv.attack.errors import AttackError, MismatchError
from safekv.attack.public import PublicModel
from safekv.attack.recovered import Recovered
from safekv.attack.walk import Walk

SIGMAS: Final = 3.0
"""The published rule: a hit is this many standard deviations below its batch's mean."""

SAME: Final = 0.05
"""Relative distance of a token's own states, rounding in any dtype but 4-bit included."""

OTHER: Final = 0.5
"""Relative distance from which states are strangers'."""


PROBED: Final = 8
"""How many of the known tokens are looked for before a search starts."""


class Rule(Enum):
    """When a candidate is taken: at its batch's best below a cut, or as the paper's outlier."""

    CUT = "cut"
    OUTLIER = "outlier"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """How long `search` looks. `cut` is a relative distance; see `calibration`.

    `budget` bounds the candidates of one position. After `patience` positions in a row without
    a hit nothing more is tried: what does not match is not this model's cache.
    """

    rule: Rule = Rule.CUT
    cut: float = SAME
    first: int = 16
    batch: int = 256
    budget: int = 1024
    patience: int = 3


class Target(Protocol):
    """What candidates are compared with."""

    def distances(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> torch.Tensor:
        """Relative distances (candidates, parts) of keys and values (heads, candidates, dim)."""
        ...

    def take(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> None:
        """Hear which candidate (heads, 1, dim) was taken."""
        ...

    def rows(self, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows (heads, n, dim) that may stand there; values are `None` where unknown."""
        ...


Hint = Callable[[torch.Tensor, torch.Tensor | None, int], torch.Tensor]
"""Log-scores of the vocabulary for the rows that may stand at a position (`Target.rows`)."""


class Rows:
    """The rows of a plain cache: position n is row n. Parts: keys, values."""

    def __init__(self, captured: Captured, layer: int) -> None:
        self._start = captured.start
        self._keys, self._values = captured.layer(layer)

    def distances(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> torch.Tensor:
        row = position - self._start
        return torch.stack(
            [relative(keys, self._keys[:, row]), relative(values, self._values[:, row])], dim=1
        )

    def take(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> None:
        """Nothing changes: each position has its row."""

    def rows(self, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The one row."""
        row = slice(position - self._start, position - self._start + 1)
        return self._keys[:, row], self._values[:, row]


def relative(states: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """The distance of each of `states` (heads, n, dim) to `row` (heads, dim), by its own norm."""
    gap = (states - row[:, None]).pow(2).sum((0, 2))
    return (gap / states.pow(2).sum((0, 2)).clamp_min(1e-20)).sqrt()


# -- layer 0 ---------------------------------------------------------------------------------


def nearest(public: PublicModel, captured: Captured, *, positions: bool = True) -> Recovered:
    """For each row of layer 0 the token of the vocabulary that is nearest to it.

    Without `positions` rows may stand anywhere and values alone are compared: a page of a pool,
    say. Needs no key, no template and no prior. O(rows * vocabulary * heads * dim). Raises
    `MismatchError` where values fit and keys do not: then rotary positions are others'.
    """
    started = perf_counter()
    captured.require_match(public.shapes)
    keys, values = captured.layer(0)
    if public.shapes.rope_base is None:
        tokens = _per_position(public, captured, keys, values)
    else:
        table = public.vocabulary
        flat_keys = public.unrotate(keys, captured.positions).transpose(0, 1).flatten(1)
        flat_values = values.transpose(0, 1).flatten(1)
        from_values = squared(flat_values, table[1])
        if positions:
            from_keys = squared(flat_keys, table[0])
            _require_rotary(from_keys, from_values)
            from_values = from_values + from_keys
        tokens = from_values.argmin(1).tolist()
    return Recovered(
        tuple(tokens),
        captured.start,
        tried=captured.tokens * public.shapes.vocabulary,
        wall_s=perf_counter() - started,
    )


def squared(rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Squared distances (rows, vocabulary) in units of the table's mean squared norm."""
    norms = table.pow(2).sum(1)
    found = rows.pow(2).sum(1, keepdim=True) + norms - 2 * rows @ table.T
    return found.clamp_min(0) / norms.mean()


def _per_position(
    public: PublicModel, captured: Captured, keys: torch.Tensor, values: torch.Tensor
) -> list[int]:
    found = []
    for row, position in enumerate(captured.positions.tolist()):
        table = public.enumerated(position)
        both = zip((keys, values), table, strict=True)
        gaps = sum(squared(own[:, row].reshape(1, -1), one) for own, one in both)
        assert isinstance(gaps, torch.Tensor)
        found.append(int(gaps.argmin()))
    return found


def _require_rotary(from_keys: torch.Tensor, from_values: torch.Tensor) -> None:
    """Most values match a token closely whose key is far off: only a rotation explains that."""
    best = from_values.argmin(1, keepdim=True)
    fits = from_values.gather(1, best) < SAME**2
    off = fits & (from_keys.gather(1, best) > OTHER**2)
    if int(fits.sum()) > 4 and int(off.sum()) > 0.75 * int(fits.sum()):
        raise MismatchError(
            "the values are this model's and the keys are not: rows stand at other positions, or "
            "were rotated with another base",
            "say where the rows start, or compare the model's rope_theta with the cache's",
        )


# -- any layer -------------------------------------------------------------------------------


def search(
    public: PublicModel,
    target: Target,
    layer: int,
    known: Sequence[int],
    until: int,
    plan: SearchPlan,
    hint: Hint | None = None,
) -> Recovered:
    """Recover positions `len(known)` to `until` from left to right, candidates by likelihood.

    Behind `known` (a public template, say) the model itself orders the candidates; without any,
    the vocabulary's own order does, in which frequent tokens come first. A `hint` (of a learned
    inverter) adds what the rows themselves look like. Where the last known
    tokens' own states are not in the cache, nothing is searched: it is not this model's, or
    hidden. A wrong token makes all later states wrong, so errors do not stay alone. One forward
    pass per batch, as deep as `layer`, and one in full per position. What `public.remembered`
    spares counts as time, as if it had been computed.
    """
    if plan.first < 1 or plan.batch < plan.first or plan.budget < 1:
        raise AttackError(f"a search in batches of {plan.first} to {plan.batch} finds nothing")
    started = perf_counter()
    if known and not _recognised(public, target, layer, known, plan):
        nothing = (None,) * (until - len(known))
        return Recovered(nothing, len(known), wall_s=perf_counter() - started)
    walk = Walk(public, layer, list(known))
    tokens: list[int | None] = []
    tried, misses = 0, 0
    for position in range(len(known), until):
        if misses >= plan.patience:
            break
        scores = None if hint is None else hint(*target.rows(position), position)
        order = walk.order(scores)[: plan.budget]
        token, seen, hit = _one(walk, target, position, order, plan)
        tried += seen
        misses = 0 if hit else misses + 1
        tokens.append(token if hit else None)
        walk.append(token)
    tokens += [None] * (until - len(known) - len(tokens))
    wall_s = perf_counter() - started + walk.spared_s
    return Recovered(tuple(tokens), len(known), tried=tried, wall_s=wall_s)


def _recognised(
    public: PublicModel, target: Target, layer: int, known: Sequence[int], plan: SearchPlan
) -> bool:
    """Whether most of the last known tokens lie where they should, by the cut or a stranger's."""
    kept = public.cached(known, layer).layers[layer]
    gaps = []
    for position in range(max(0, len(known) - PROBED), len(known)):
        row = slice(position, position + 1)
        parts = target.distances(kept.keys[0, :, row], kept.values[0, :, row], position)
        gaps.append(float(parts.pow(2).mean().sqrt()))
    limit = plan.cut if plan.rule is Rule.CUT else OTHER
    return sum(gap < limit for gap in gaps) > len(gaps) / 2


def _one(
    walk: Walk, target: Target, position: int, order: torch.Tensor, plan: SearchPlan
) -> tuple[int, int, bool]:
    """The token of one position, how many were tried, and whether it was a hit."""
    nearest_yet, guess = float("inf"), int(order[0])
    at, size = 0, plan.first if plan.rule is Rule.CUT else plan.batch
    while at < len(order):
        batch = order[at : at + size]
        at, size = at + len(batch), min(plan.batch, 4 * size)
        keys, values = walk.states(batch, position)
        parts = target.distances(keys, values, position)
        whole = parts.pow(2).mean(1).sqrt()
        hits = _hits(parts, whole, plan)
        if len(hits):
            first = int(hits[0])
            taken = slice(first, first + 1)
            target.take(keys[:, taken], values[:, taken], position)
            return int(batch[first]), at, True
        if float(whole.min()) < nearest_yet:
            nearest_yet, guess = float(whole.min()), int(batch[whole.argmin()])
    return guess, at, False


def _hits(parts: torch.Tensor, whole: torch.Tensor, plan: SearchPlan) -> torch.Tensor:
    """Indices that the rule accepts, the one to take first."""
    if plan.rule is Rule.CUT:
        best = whole.argmin()[None]
        return best[whole[best] < plan.cut]
    if len(parts) < 3:
        return torch.empty(0, dtype=torch.long)
    low = parts.mean(0) - SIGMAS * parts.std(0)
    return (parts < low).all(1).nonzero()[:, 0]
