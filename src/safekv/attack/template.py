"""The template attack: a public chat template is known plaintext, and it opens the cloak.

Every request begins with rows that anybody can compute. From them `mixing` solves for the
secrets of a layer, which then give the rows of all other blocks back, in an order of their own
within each block. Rows become tokens by collision: the vocabulary at layer 0, candidates behind
what was recovered so far in deeper layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import torch

from safekv.attack.capture import Captured, capture
from safekv.attack.collision import Hint, SearchPlan, relative, search, squared
from safekv.attack.errors import AttackError
from safekv.attack.mixing import Secrets, refined, settle, solve
from safekv.attack.public import PublicModel, plane_lengths
from safekv.attack.recovered import Recovered

FAR: Final = 0.5
"""A row whose nearest token is this far, relative to that token's own key, is padding."""

SURE: Final = 0.2
EXACT: Final = 1e-3
"""Gaps from which on a row is taken as known, and as known exactly."""

FEWEST: Final = 0.25
"""With a smaller share of sure rows there is nothing to refine the secrets with."""

SHORT: Final = 48
"""Tokens on a row's short list."""

PASSES: Final = 4

INDEX: Final = (torch.long, torch.long)


def known_rows(
    public: PublicModel, template: Sequence[int], layer: int, block_tokens: int
) -> torch.Tensor:
    """The keys of the first block, (heads, block_tokens, dim), which the template fills."""
    if len(template) < block_tokens:
        raise AttackError(
            f"the template has {len(template)} tokens, and a block {block_tokens}",
            "use a longer known prefix; `membership` needs none once M is known",
        )
    return capture(public, template[:block_tokens], [layer]).layer(layer)[0].double()


def blocks_of(captured: Captured, layer: int, block_tokens: int) -> torch.Tensor:
    """One layer's stored keys as whole blocks (n, heads, block_tokens, dim)."""
    keys, _ = captured.layer(layer)
    whole = captured.tokens // block_tokens
    if not whole:
        raise AttackError(
            f"{captured.tokens} rows are no whole block of {block_tokens}",
            "name the block size that the cache was stored with",
        )
    heads, _, dim = keys.shape
    return keys[:, : whole * block_tokens].view(heads, whole, block_tokens, dim).transpose(0, 1)


def secrets_of(
    public: PublicModel,
    captured: Captured,
    layer: int,
    template: Sequence[int],
    block_tokens: int = 16,
) -> Secrets:
    """One layer's secrets, from a capture that begins with `template`. Under a second.

    `ratio` of the result tells whether the template was the right one.
    """
    captured.require_match(public.shapes)
    known = known_rows(public, template, layer, block_tokens)
    stored = blocks_of(captured, layer, block_tokens)
    return settle(solve(known, stored[0]), known, stored[0], stored[1:])


def read(
    public: PublicModel,
    captured: Captured,
    layer: int,
    template: Sequence[int],
    *,
    block_tokens: int = 16,
    plan: SearchPlan | None = None,
    until: int | None = None,
    secrets: Secrets | None = None,
    hint: Hint | None = None,
) -> Recovered:
    """The prompt behind a cloaked cache, from nothing but one layer's pages and the template.

    `secrets` replaces what would be solved from the template here. `until` ends the search in
    deeper layers, which costs forward passes; layer 0 is read whole.
    """
    started = perf_counter()
    if secrets is None:
        secrets = secrets_of(public, captured, layer, template, block_tokens)
    stored = blocks_of(captured, layer, block_tokens)
    if layer == 0 and public.shapes.rope_base is not None:
        tokens = surface(public, secrets, stored, captured.start)
        tried = len(tokens) * public.shapes.vocabulary
        return Recovered(tuple(tokens), captured.start, tried=tried, wall_s=_since(started))
    end = captured.start + len(stored) * block_tokens
    found = search(
        public,
        Heap(secrets, stored, captured.start),
        layer,
        template,
        min(end, until if until is not None else end),
        plan or SearchPlan(),
        hint,
    )
    return Recovered(found.tokens, found.start, tried=found.tried, wall_s=_since(started))


def _since(started: float) -> float:
    return perf_counter() - started


def surface(
    public: PublicModel, secrets: Secrets, stored: torch.Tensor, start: int
) -> list[int | None]:
    """The tokens of layer 0's blocks (n, heads, b, d).

    What was read with confidence is known from then on: the secrets are refined with it, and
    everything is read again. That is what 16-bit caches need.
    """
    b, before = stored.shape[2], list[int | None]()
    for _ in range(PASSES):
        pages = [
            placed(public, secrets, secrets.rows(block), start + at * b)
            for at, block in enumerate(stored)
        ]
        gaps = torch.stack([page.gaps for page in pages])
        tokens = [token for page in pages for token in page.in_order()]
        sure = gaps < SURE
        # Exact, hopeless, or no different from the last time.
        few = float(sure.float().mean()) < FEWEST
        if few or tokens == before or bool((gaps[sure] < EXACT).all()):
            break
        before, known = tokens, torch.stack([page.rows(public) for page in pages])
        secrets = refined(secrets, known, sure, stored)
    return tokens


@dataclass(frozen=True, slots=True)
class Placed:
    """One block's rows, in the order in which they were solved for: token, position and gap."""

    tokens: torch.Tensor = field(repr=False)
    positions: torch.Tensor
    gaps: torch.Tensor

    def rows(self, public: PublicModel) -> torch.Tensor:
        """The plain keys (heads, b, d) that these tokens have."""
        keys = public.split(public.vocabulary[0][self.tokens])
        return public.rotate(keys, self.positions).double()

    def in_order(self) -> list[int | None]:
        """The tokens by position; `None` for padding."""
        by_position = self.positions.argsort()
        gaps, tokens = self.gaps[by_position].tolist(), self.tokens[by_position].tolist()
        return [token if gap < FAR else None for token, gap in zip(tokens, gaps, strict=True)]


def placed(public: PublicModel, secrets: Secrets, rows: torch.Tensor, first: int) -> Placed:
    """Which token stands where, for one block's rows (heads, b, d) of layer 0 in unknown order.

    A rotation leaves each plane's length alone, so lengths make a short list of tokens; those
    are compared at each position of the block. Rows and positions are then paired one to one,
    the nearest first. O(b * vocabulary * d).
    """
    n = rows.shape[1]
    table = public.vocabulary[0]
    gaps = squared(plane_lengths(rows.float()), public.plane_lengths)
    short = gaps.topk(min(SHORT, len(table)), largest=False).indices
    places = torch.arange(first, first + n)
    # (heads, row * candidate, d), then every candidate at every position
    candidates = public.split(table[short.flatten()])[:, :, None].expand(-1, -1, n, -1)
    turned = secrets.across(public.rotate(candidates, places).flatten(1, 2))
    turned = turned.reshape(len(rows), n, short.shape[1] * n, -1)
    gaps = (turned - rows.float()[:, :, None]).pow(2).sum((0, 3))
    gaps = (gaps / turned.pow(2).sum((0, 3))).sqrt().view(n, short.shape[1], n)
    best = gaps.min(1)
    tokens, positions, found = (torch.empty(n, dtype=kind) for kind in (*INDEX, torch.float))
    for row, at in paired(best.values):
        tokens[row] = short[row, best.indices[row, at]]
        positions[row], found[row] = first + at, best.values[row, at]
    return Placed(tokens, positions, found)


def paired(gaps: torch.Tensor) -> list[tuple[int, int]]:
    """Rows and columns one to one, always the smallest gap that is left. O(n³)."""
    left, pairs = gaps.clone(), []
    for _ in range(len(gaps)):
        row, column = divmod(int(left.argmin()), left.shape[1])
        pairs.append((row, column))
        left[row], left[:, column] = torch.inf, torch.inf
    return pairs


class Heap:
    """Rows of which only the block is known: a target of `collision.search`. Keys alone.

    A row that was taken is not offered again.
    """

    def __init__(self, secrets: Secrets, stored: torch.Tensor, start: int) -> None:
        self._secrets = secrets
        self._rows = secrets.rows(stored).float()
        self._start, self._block = start, stored.shape[2]
        self._free = [list(range(self._block)) for _ in stored]

    def _gaps(self, keys: torch.Tensor, position: int) -> torch.Tensor:
        n = (position - self._start) // self._block
        free = self._free[n] or range(self._block)
        seen = self._secrets.across(keys)
        return torch.stack([relative(seen, self._rows[n][:, row]) for row in free], dim=1)

    def distances(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> torch.Tensor:
        return self._gaps(keys, position).min(1).values[:, None]

    def rows(self, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is left of the position's block."""
        n = (position - self._start) // self._block
        return self._rows[n][:, self._free[n] or list(range(self._block))], None

    def take(self, keys: torch.Tensor, values: torch.Tensor, position: int) -> None:
        """The row that is nearest to what was taken is not offered again."""
        n = (position - self._start) // self._block
        if self._free[n]:
            self._free[n].pop(int(self._gaps(keys, position)[0].argmin()))
