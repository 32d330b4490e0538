"""The same mathematics in torch, batched over heads, on whatever device the block lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from safekv.cloak.hazmat.reference import BlockSecrets, HeadSecrets

COMPUTE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}
"""What each stored dtype is computed in. What is not in it cannot be obfuscated by matrices."""


@dataclass(frozen=True, slots=True)
class TorchSecrets:
    """`HeadSecrets` as tensors of one dtype on one device."""

    mix: torch.Tensor = field(repr=False)
    unmix: torch.Tensor = field(repr=False)
    feature: torch.Tensor = field(repr=False)
    unfeature: torch.Tensor = field(repr=False)
    beacon: torch.Tensor = field(repr=False)

    @classmethod
    def of(cls, heads: HeadSecrets, dtype: torch.dtype, device: torch.device) -> TorchSecrets:
        """A copy of `heads` there."""
        matrices = (heads.mix, heads.unmix, heads.feature, heads.unfeature, heads.beacon)
        return cls(*(torch.tensor(one, dtype=dtype, device=device) for one in matrices))


def obfuscate(
    rows: torch.Tensor, heads: TorchSecrets, block: BlockSecrets, *, fused: bool
) -> torch.Tensor:
    """`reference.obfuscate` in the dtype of `heads`, returned in that of `rows`."""
    mixed = rows.to(heads.mix.dtype, copy=True)
    if not fused:
        mixed = mixed @ heads.feature
    mixed[:, block.beacon_row] += heads.beacon
    order = torch.from_numpy(block.order).to(rows.device)
    return (heads.mix @ mixed[:, order]).to(rows.dtype)


def deobfuscate(
    stored: torch.Tensor, heads: TorchSecrets, block: BlockSecrets, *, fused: bool
) -> torch.Tensor:
    """`reference.deobfuscate` in the dtype of `heads`, returned in that of `stored`."""
    unmixed = heads.unmix @ stored.to(heads.mix.dtype)
    mixed = torch.empty_like(unmixed)
    mixed[:, torch.from_numpy(block.order).to(stored.device)] = unmixed
    mixed[:, block.beacon_row] -= heads.beacon
    return (mixed if fused else mixed @ heads.unfeature).to(stored.dtype)


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """P and the beacon's places as numbers of rows of n blocks of some heads, counted through.

    `order` puts rows (n * heads * b) into stored order, `back` puts them back, and `marked`
    (n * heads) has, in stored order, the rows that carry the beacon.
    """

    order: torch.Tensor = field(repr=False)
    back: torch.Tensor = field(repr=False)
    marked: torch.Tensor = field(repr=False)

    @classmethod
    def of(cls, orders: torch.Tensor, beacon_at: torch.Tensor, heads: int) -> RowNumbers:
        """From `orders` (n, b) and `beacon_at` (n), the place *in that order* of the beacon's row.

        Some 30 µs for a block: whoever reads blocks often keeps it.
        """
        n, b = orders.shape
        first = torch.arange(n * heads, device=orders.device) * b
        order, back = (
            (first[:, None] + one.repeat_interleave(heads, 0)).flatten()
            for one in (orders, orders.argsort(1))
        )
        return cls(order, back, first + beacon_at.repeat_interleave(heads))


def obfuscate_blocks(
    rows: torch.Tensor, heads: TorchSecrets, numbers: RowNumbers, *, fused: bool
) -> torch.Tensor:
    """`obfuscate` of n blocks of one layer at once: `rows` (n, heads, b, d)."""
    wide = rows.to(heads.mix.dtype)
    if not fused:
        wide = wide @ heads.feature
    # One gather of whole rows: an index of every element takes several times as long.
    mixed = wide.reshape(-1, rows.shape[3]).index_select(0, numbers.order)
    mixed.index_add_(0, numbers.marked, _beacons(heads, rows.shape))
    return (heads.mix @ mixed.view(rows.shape)).to(rows.dtype)


def restore_blocks(
    stored: torch.Tensor, heads: TorchSecrets, numbers: RowNumbers, *, fused: bool
) -> torch.Tensor:
    """The inverse of `obfuscate_blocks`."""
    mixed = heads.unmix @ stored.to(heads.mix.dtype)
    flat = mixed.view(-1, stored.shape[3])
    flat.index_add_(0, numbers.marked, _beacons(heads, stored.shape), alpha=-1)
    rows = flat.index_select(0, numbers.back).view(stored.shape)
    return (rows if fused else rows @ heads.unfeature).to(stored.dtype)


def _beacons(heads: TorchSecrets, shape: torch.Size) -> torch.Tensor:
    """The beacon of each head of each block, (n * heads, d)."""
    n, n_heads, _, d = shape
    return heads.beacon.expand(n, n_heads, d).reshape(-1, d)


def deobfuscate_blocks(
    stored: torch.Tensor, heads: TorchSecrets, beacon_at: torch.Tensor, *, fused: bool
) -> torch.Tensor:
    """The rows of n blocks (n, heads, b, d) in the dtype of `heads`, **still in stored order**.

    Whoever copies them on puts them where they belong: row j of a block is its row `order[j]`.
    `beacon_at` (n) is the place in stored order of the row that carries the beacon.
    """
    mixed = heads.unmix @ stored.to(heads.mix.dtype)
    mixed[torch.arange(len(stored), device=stored.device), :, beacon_at] -= heads.beacon
    return mixed if fused else mixed @ heads.unfeature
