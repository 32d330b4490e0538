"""Membership: is a token's key in a block's row space? Needs M, and neither S, P nor the template.

With M known (from a template, or from fused weights) token t at position p is in a block iff its
key, rotated and times M, has no part outside the block's row space. S and P, fresh per block or not,
leave that space alone. The beacon's row hides its own token unless the beacon is known.
"""

from __future__ import annotations

from time import perf_counter

import torch

from safekv.attack.capture import Captured
from safekv.attack.errors import AttackError
from safekv.attack.mixing import complement, times
from safekv.attack.public import PublicModel
from safekv.attack.recovered import Recovered
from safekv.attack.template import blocks_of


def membership(
    public: PublicModel,
    captured: Captured,
    feature: torch.Tensor,
    *,
    axis: torch.Tensor | None = None,
    block_tokens: int = 16,
) -> Recovered:
    """For each position of layer 0 the token that is most nearly a member of its block.

    `feature` is M of the keys, complex (heads, dim / 2); `axis` the beacon's direction before M,
    (heads, dim), if known. Rotations and M leave lengths alone, so row spaces are turned back
    instead of the vocabulary forth. O(blocks * vocabulary * block_tokens² * heads * dim).
    Raises `AttackError` for blocks that fill the head dimension.
    """
    started = perf_counter()
    captured.require_match(public.shapes)
    if public.shapes.rope_base is None:
        raise AttackError("membership is for rotary models", "use the template attack")
    keys = public.split(public.vocabulary[0])
    norms = keys.pow(2).sum((0, 2))
    tokens: list[int | None] = []
    stored = blocks_of(captured, 0, block_tokens)
    for n, block in enumerate(stored):
        first = captured.start + n * block_tokens
        outside = _turned_back(public, feature, axis, block, range(first, first + block_tokens))
        left = torch.zeros(block_tokens, keys.shape[1])
        for head, own in enumerate(keys):
            parts = own @ outside[head].float()
            left += parts.pow(2).view(len(own), block_tokens, -1).sum(-1).T
        tokens += (left / norms).argmin(1).tolist()
    tried = len(tokens) * public.shapes.vocabulary
    return Recovered(tuple(tokens), captured.start, tried=tried, wall_s=perf_counter() - started)


def _turned_back(
    public: PublicModel,
    feature: torch.Tensor,
    axis: torch.Tensor | None,
    block: torch.Tensor,
    positions: range,
) -> torch.Tensor:
    """What no member has a part in, before M and rotation: (heads, dim, positions * n)."""
    outside = complement(block).mT
    plain = times(outside, feature.conj())
    if axis is not None:
        # A member plus any multiple of the beacon is one too: leave the beacon's shadow out.
        shadow = torch.einsum("hnd,hd->hn", plain, axis.double())
        unit = torch.nn.functional.normalize(shadow, dim=-1)
        plain = plain - unit[..., None] * torch.einsum("hn,hnd->hd", unit, plain)[:, None]
    back = []
    for position in positions:
        place = torch.full((plain.shape[1],), position)
        back.append(public.unrotate(plain, place).mT)
    return torch.cat(back, dim=-1)
