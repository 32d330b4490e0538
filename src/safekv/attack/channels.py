"""Break secret channel orders (KV-Shield, arXiv 2409.04040) with a known beginning.

A permutation of channels leaves each column of a head as it is, so a known column is found again
by comparing: a dozen known rows name the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from safekv.attack.capture import Captured
from safekv.attack.template import paired


def order_of(known: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Where each plain channel lies in `stored`, (heads, dim); both are (heads, rows, dim).

    The first `known.shape[1]` rows of `stored` are taken for the known ones. O(heads * dim³).
    """
    rows = known.shape[1]
    gaps = torch.cdist(known.float().mT, stored[:, :rows].float().mT)
    orders = []
    for one in gaps:
        order = torch.empty(len(one), dtype=torch.long)
        for plain, place in paired(one):
            order[plain] = place
        orders.append(order)
    return torch.stack(orders)


@dataclass(frozen=True, slots=True)
class Orders:
    """Where each plain channel lies, per layer, for keys and for values."""

    keys: Mapping[int, torch.Tensor] = field(repr=False)
    values: Mapping[int, torch.Tensor] = field(repr=False)

    def undo(self, captured: Captured) -> Captured:
        """`captured` with its channels in plain order."""
        return replace(
            captured,
            keys=_undone(captured.keys, self.keys),
            values=_undone(captured.values, self.values),
        )


def orders(known: Captured, stored: Captured) -> Orders:
    """All orders, from the first rows of a stored cache as everybody can compute them."""
    return Orders(
        {layer: order_of(known.keys[layer], own) for layer, own in stored.keys.items()},
        {layer: order_of(known.values[layer], own) for layer, own in stored.values.items()},
    )


def _undone(
    tensors: Mapping[int, torch.Tensor], order: Mapping[int, torch.Tensor]
) -> dict[int, torch.Tensor]:
    return {
        layer: own.gather(-1, order[layer][:, None].expand_as(own))
        for layer, own in tensors.items()
    }
