"""How an engine stores keys and values: what each dtype leaves of them, as numbers and as bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch


class Stored(Enum):
    """A dtype of a cache. Integers are symmetric, with a scale per token and head."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


FLOATS = {Stored.FP32: torch.float32, Stored.BF16: torch.bfloat16}
LEVELS = {Stored.INT8: 127, Stored.INT4: 7}
GROUP = 32
"""Channels that share a scale in 4 bits: one for a whole head would be too coarse."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Stored tensors as they lie in memory. `scales` is `None` for floats."""

    kind: Stored
    numbers: torch.Tensor
    scales: torch.Tensor | None

    def unpack(self) -> torch.Tensor:
        """The float32 numbers that these bits stand for."""
        if self.scales is None:
            return self.numbers.float()
        shape, groups = self.numbers.shape, self.scales.shape[-2]
        numbers = self.numbers.float().reshape(*shape[:-1], groups, -1)
        return (numbers * self.scales).reshape(shape)

    def with_bits(self, change: Callable[[torch.Tensor], None]) -> Packed:
        """A copy in which `change` has overwritten the bits of every tensor."""
        numbers = self.numbers.clone()
        change(numbers)
        scales = None if self.scales is None else self.scales.clone()
        if scales is not None:
            change(scales)
        return Packed(self.kind, numbers, scales)


def pack(states: torch.Tensor, kind: Stored) -> Packed:
    """`states` (..., dim) as a cache of `kind` holds them. Four-bit numbers lie one in a byte."""
    if kind in FLOATS:
        return Packed(kind, states.to(FLOATS[kind]).contiguous(), None)
    dim = states.shape[-1]
    size = GROUP if kind is Stored.INT4 and dim % GROUP == 0 else dim
    groups = states.float().reshape(*states.shape[:-1], dim // size, size)
    scales = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LEVELS[kind]
    numbers = (groups / scales).round().to(torch.int8).flatten(-2)
    return Packed(kind, numbers.contiguous(), scales.contiguous())
