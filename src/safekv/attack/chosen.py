"""Chosen plaintext: solve the secrets on requests of one's own, then read everybody else's.

A tenant's own requests pass through the same keys as all others' (a shared block must be readable
by all), and of those it knows every token. More known rows than a template has make the secrets
more exact, which 16-bit caches need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safekv.attack.capture import Captured, capture
from safekv.attack.mixing import Secrets, refined
from safekv.attack.public import PublicModel
from safekv.attack.template import blocks_of, paired, secrets_of


def learn(
    public: PublicModel,
    own: Sequence[tuple[Sequence[int], Captured]],
    layer: int,
    block_tokens: int = 16,
) -> Secrets:
    """One layer's secrets from own prompts: their tokens, and what was stored of them.

    The first block of the first prompt gives a first solution, all full blocks of all of them
    the final one. A forward pass per prompt.
    """
    first, stored = own[0]
    secrets = secrets_of(public, stored, layer, first[:block_tokens], block_tokens)
    blocks, known = list[torch.Tensor](), list[torch.Tensor]()
    for tokens, captured in own:
        plain, _ = capture(public, tokens, [layer]).layer(layer)
        full = len(tokens) // block_tokens
        for n, block in enumerate(blocks_of(captured, layer, block_tokens)[:full]):
            rows = plain[:, n * block_tokens : (n + 1) * block_tokens].double()
            known.append(_in_order(secrets, rows, block))
            blocks.append(block)
    sure = torch.ones(len(blocks), block_tokens, dtype=torch.bool)
    return refined(secrets, torch.stack(known), sure, torch.stack(blocks))


def _in_order(secrets: Secrets, rows: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Known rows in the order in which `secrets` gives a stored block's."""
    found = secrets.rows(block)
    seen = secrets.across(rows)
    gaps = (found[:, :, None] - seen[:, None]).pow(2).sum((0, 3))
    order = torch.empty(len(gaps), dtype=torch.long)
    for place, row in paired(gaps):
        order[place] = row
    return rows[:, order]
