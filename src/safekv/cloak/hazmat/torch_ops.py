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


def obfuscate_blocks(
    rows: torch.Tensor,
    heads: TorchSecrets,
    orders: torch.Tensor,
    beacon_at: torch.Tensor,
    *,
    fused: bool,
) -> torch.Tensor:
    """`obfuscate` of n blocks of one layer at once: `rows` (n, heads, b, d).

    `orders` (n, b) is the order of each block's rows; `beacon_at` (n) the place *in that order*
    of the row that carries the beacon.
    """
    mixed = rows.to(heads.mix.dtype)
    if not fused:
        mixed = mixed @ heads.feature
    mixed = torch.take_along_dim(mixed, orders[:, None, :, None], dim=2)
    mixed[torch.arange(len(rows), device=rows.device), :, beacon_at] += heads.beacon
    return (heads.mix @ mixed).to(rows.dtype)


def deobfuscate_blocks(
    stored: torch.Tensor, heads: TorchSecrets, beacon_at: torch.Tensor, *, fused: bool
) -> torch.Tensor:
    """The rows of n blocks (n, heads, b, d) in the dtype of `heads`, **still in stored order**.

    Whoever copies them on puts them where they belong: row j of a block is its row `order[j]`.
    """
    mixed = heads.unmix @ stored.to(heads.mix.dtype)
    mixed[torch.arange(len(stored), device=stored.device), :, beacon_at] -= heads.beacon
    return mixed if fused else mixed @ heads.unfeature
