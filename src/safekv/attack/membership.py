"""Membership: is a token's key in a block's row space? Needs M, and neither S, P nor the template.

With M known (from a template, or from fused weights) token t at position p is in a block iff its
key, rotated and times M, has no part outside the block's row space. S and P, fresh per block or
not, leave that space alone. The beacon's row hides its own token unless the beacon is known.
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
        inside = _turned_back(public, feature, axis, block, range(first, first + block_tokens))
        reach = torch.zeros(keys.shape[1], block_tokens)
        for head, own in enumerate(keys):
            parts = own @ inside[head].float()
            reach += parts.square_().view(len(own), block_tokens, -1).sum(-1)
        tokens += (reach / norms[:, None]).argmax(0).tolist()
    tried = len(tokens) * public.shapes.vocabulary
    return Recovered(tuple(tokens), captured.start, tried=tried, wall_s=perf_counter() - started)


def _turned_back(
    public: PublicModel,
    feature: torch.Tensor,
    axis: torch.Tensor | None,
    block: torch.Tensor,
    positions: range,
) -> torch.Tensor:
    """A basis of what members lie in, before M and rotation: (heads, dim, positions * n).

    With a known beacon its direction is added: a member plus any multiple of it is one too.
    """
    complement(block)  # refuses blocks in which everything is a member
    spanned = times(torch.linalg.svd(block.double(), full_matrices=False).Vh, feature.conj())
    if axis is not None:
        spanned = torch.cat([spanned, axis.double()[:, None]], dim=1)
    basis = torch.linalg.qr(spanned.mT).Q.mT
    back = []
    for position in positions:
        place = torch.full((basis.shape[1],), position)
        turned = torch.nn.functional.normalize(public.unrotate(basis, place), dim=-1)
        back.append(turned.mT)
    return torch.cat(back, dim=-1)
