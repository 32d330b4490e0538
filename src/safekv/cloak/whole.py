"""KV-Cloak on whole blocks, all layers at once: what an engine stores and puts back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safekv.cloak.config import Part
from safekv.cloak.hazmat import torch_ops
from safekv.cloak.transform import Cloak, Places

PARTS = (Part.KEYS, Part.VALUES)


class WholeBlocks:
    """Obfuscates blocks of all layers with a `Cloak` whose M is in the weights already.

    Rows are (layers, heads, b, d) of one part. The secrets of all layers are kept as tensors of
    `dtype`: layers · heads · b² numbers for each of S and its inverse, of keys and of values.
    """

    def __init__(
        self, cloak: Cloak, layers: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._cloak = cloak
        self._layers = tuple(layers)
        self._device = device
        self._secrets = {
            part: _stacked([cloak.secrets(layer, part, dtype, device) for layer in self._layers])
            for part in PARTS
        }

    def places(self, block: bytes) -> Places:
        """P and the beacon's row of one block in all layers, (layers, b) and (layers)."""
        return self._cloak.places_at([(layer, block) for layer in self._layers], self._device)

    def over_limit(self, part: Part, rows: torch.Tensor) -> bool:
        """Whether a value is above its layer's limit. It comes back exactly, but stands out."""
        limits = [self._cloak.limit(layer, part) for layer in self._layers]
        largest = rows.abs().amax(dim=(1, 2, 3)).float().cpu()
        return not bool((largest <= torch.tensor(limits)).all())

    def obfuscate(self, part: Part, places: Places, rows: torch.Tensor) -> torch.Tensor:
        """A new tensor of the same shape and dtype."""
        numbers = _numbers(places, rows)
        return torch_ops.obfuscate_blocks(rows, self._secrets[part], numbers, fused=True)

    def deobfuscate(self, part: Part, places: Places, stored: torch.Tensor) -> torch.Tensor:
        """The inverse of `obfuscate`."""
        numbers = _numbers(places, stored)
        return torch_ops.restore_blocks(stored, self._secrets[part], numbers, fused=True)

    def unmix(
        self, at: int, part: Part, beacon_at: torch.Tensor, stored: torch.Tensor
    ) -> torch.Tensor:
        """Of n blocks (n, heads, b, d) of the layer at `at`: all undone but P, for attention."""
        secrets = self._secrets[part]
        one = torch_ops.TorchSecrets(
            *(getattr(secrets, name)[at] for name in torch_ops.TorchSecrets.__slots__)
        )
        return torch_ops.deobfuscate_blocks(stored, one, beacon_at, fused=True)


def _numbers(places: Places, block: torch.Tensor) -> torch_ops.RowNumbers:
    """Not kept: beside every block of a pool they would take more than the places do."""
    return torch_ops.RowNumbers.of(places.orders, places.beacon_at, block.shape[1])


def _stacked(each: Sequence[torch_ops.TorchSecrets]) -> torch_ops.TorchSecrets:
    names = torch_ops.TorchSecrets.__slots__
    return torch_ops.TorchSecrets(
        *(torch.stack([getattr(one, name) for one in each]) for name in names)
    )
