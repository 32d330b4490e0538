"""KV-Cloak on blocks: what to obfuscate a layer's keys and values with, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.hazmat import reference
from safekv.cloak.keys import CloakKey, require_block
from safekv.errors import CloakError

if TYPE_CHECKING:
    import torch

    from safekv.cloak.hazmat.torch_ops import RowNumbers, TorchSecrets

Block: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"

FLOATS = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16))


@dataclass(frozen=True, slots=True)
class Places:
    """P and the beacon's row of n blocks in one layer, drawn once: what is kept beside a block.

    `orders` (n, b): row j of a stored block is its row `orders[j]`. `beacon_at` (n): the place in
    that order of the row that carries the beacon. Mutable state: what `numbers` remembers.
    """

    orders: torch.Tensor = field(repr=False)
    beacon_at: torch.Tensor = field(repr=False)
    _numbers: dict[int, RowNumbers] = field(default_factory=dict, repr=False, compare=False)

    def numbers(self, heads: int) -> RowNumbers:
        """The same as numbers of rows of blocks of so many heads; made once."""
        from safekv.cloak.hazmat.torch_ops import RowNumbers

        if heads not in self._numbers:
            self._numbers[heads] = RowNumbers.of(self.orders, self.beacon_at, heads)
        return self._numbers[heads]


class Cloak:
    """Obfuscates blocks as K' = S·P·(K·M + A), for one key and one model's shapes.

    NumPy arrays are computed in float64, tensors in float32 (float64 stays). With `fused`, M is
    in the model's weights already (`safekv.cloak.fusion`).

    **Not encryption.** A reader who knows the start of a prompt, such as a chat template, solves
    for M and reads everything; whoever changes or swaps blocks is not noticed. Against both,
    use the stream or the vault. Every tenant's blocks are under the same S, M and beacon: a
    shared block is keyed with the deployment's key, and P with the block's identity.

    `limits` holds a limit of its own for layers and parts that need one, in place of the
    configuration's: where all values are small a smaller beacon costs less precision.
    """

    def __init__(
        self,
        key: CloakKey,
        config: CloakConfig,
        *,
        fused: bool,
        limits: Mapping[tuple[int, Part], float] | None = None,
    ) -> None:
        self.config = config
        self.fused = fused
        self._key = key
        self._limits = dict(limits or {})
        self._heads = lru_cache(maxsize=None)(self._draw_heads)
        self._tensors = lru_cache(maxsize=None)(self._draw_tensors)

    def __repr__(self) -> str:
        return f"Cloak(key_version={self._key.version}, {self.config!r}, fused={self.fused})"

    def obfuscate(self, layer: int, part: Part, block: bytes, rows: Block) -> Block:
        """A new array (heads, b, d) from `rows` (heads, n <= b, d), which stay as they are.

        A partial block is filled with noise. `block` names it and must never name another
        content. Raises `CloakError` for other shapes, for integers and fp8, and for a value
        above the limit or not finite.
        """
        drawn = reference.draw_block_secrets(self._key, self.config, layer, require_block(block))
        self._require_shape(rows, partial=True)
        if isinstance(rows, np.ndarray):
            _require_float(rows)
            self._require_range(layer, part, float(np.abs(rows).max(initial=0)))
            full = self._filled(layer, part, block, rows.astype(np.float64))
            mixed = reference.obfuscate(full, self._heads(layer, part), drawn, fused=self.fused)
            return mixed.astype(rows.dtype)
        from safekv.cloak.hazmat import torch_ops

        secrets = self._tensors(layer, part, _compute_dtype(rows), rows.device)
        self._require_range(layer, part, float(rows.abs().max()) if rows.numel() else 0.0)
        full_rows = self._filled_tensor(layer, part, block, rows)
        return torch_ops.obfuscate(full_rows, secrets, drawn, fused=self.fused)

    def deobfuscate(
        self, layer: int, part: Part, block: bytes, stored: Block, rows: int | None = None
    ) -> Block:
        """The first `rows` rows (all, if not given) of what `obfuscate` made `stored` of.

        As exact as the stored dtype: see `docs/cloak.md`. Raises `CloakError` for other shapes
        and dtypes. A changed or foreign block gives other numbers, without an error.
        """
        drawn = reference.draw_block_secrets(self._key, self.config, layer, require_block(block))
        self._require_shape(stored, partial=False)
        if isinstance(stored, np.ndarray):
            _require_float(stored)
            wide = stored.astype(np.float64)
            back = reference.deobfuscate(wide, self._heads(layer, part), drawn, fused=self.fused)
            return back[:, :rows].astype(stored.dtype)
        from safekv.cloak.hazmat import torch_ops

        secrets = self._tensors(layer, part, _compute_dtype(stored), stored.device)
        return torch_ops.deobfuscate(stored, secrets, drawn, fused=self.fused)[:, :rows]

    def places(self, layer: int, blocks: Sequence[bytes], device: torch.device) -> Places:
        """P and the beacon's row of `blocks`, named as for `obfuscate`. 20 µs a block."""
        return self.places_at([(layer, block) for block in blocks], device)

    def places_at(self, where: Sequence[tuple[int, bytes]], device: torch.device) -> Places:
        """The same for blocks of several layers."""
        import torch

        drawn = [
            reference.draw_block_secrets(self._key, self.config, layer, require_block(block))
            for layer, block in where
        ]
        orders = np.stack([one.order for one in drawn])
        rows = np.array([[one.beacon_row] for one in drawn])
        beacon_at = (orders == rows).argmax(axis=1)
        return Places(torch.from_numpy(orders).to(device), torch.from_numpy(beacon_at).to(device))

    def obfuscate_blocks(
        self, layer: int, part: Part, places: Places, rows: torch.Tensor, *, strict: bool = True
    ) -> torch.Tensor:
        """`obfuscate` of n full blocks of tensors at once, (n, heads, b, d).

        Without `strict` values above the limit pass: they come back, but stand out.
        """
        from safekv.cloak.hazmat import torch_ops

        secrets = self._tensors(layer, part, _compute_dtype(rows), rows.device)
        self._require_shape(rows[0], partial=False)
        if strict:
            self._require_range(layer, part, float(rows.abs().max()))
        numbers = places.numbers(rows.shape[1])
        return torch_ops.obfuscate_blocks(rows, secrets, numbers, fused=self.fused)

    def deobfuscate_blocks(
        self, layer: int, part: Part, places: Places, stored: torch.Tensor
    ) -> torch.Tensor:
        """The inverse of `obfuscate_blocks`."""
        from safekv.cloak.hazmat import torch_ops

        secrets = self._tensors(layer, part, _compute_dtype(stored), stored.device)
        numbers = places.numbers(stored.shape[1])
        return torch_ops.restore_blocks(stored, secrets, numbers, fused=self.fused)

    def secrets(
        self, layer: int, part: Part, dtype: torch.dtype, device: torch.device
    ) -> TorchSecrets:
        """S, M and the beacon of one layer as tensors, for `safekv.cloak.whole`."""
        return self._tensors(layer, part, dtype, device)

    def limit(self, layer: int, part: Part) -> float:
        """The magnitude that no entry of `part` in `layer` may exceed."""
        return self._limits.get((layer, part), self.config.limit)

    def _config(self, layer: int, part: Part) -> CloakConfig:
        return replace(self.config, limit=self.limit(layer, part))

    def _draw_heads(self, layer: int, part: Part) -> reference.HeadSecrets:
        return reference.draw_head_secrets(self._key, self._config(layer, part), layer, part)

    def _draw_tensors(
        self, layer: int, part: Part, dtype: torch.dtype, device: torch.device
    ) -> TorchSecrets:
        from safekv.cloak.hazmat.torch_ops import TorchSecrets

        return TorchSecrets.of(self._heads(layer, part), dtype, device)

    def _filled(
        self, layer: int, part: Part, block: bytes, rows: reference.Matrix
    ) -> reference.Matrix:
        lacking = self.config.block_tokens - rows.shape[1]
        if not lacking:
            return rows
        noise = reference.padding(self._key, self._config(layer, part), layer, part, block, lacking)
        return np.concatenate([rows, noise], axis=1)

    def _filled_tensor(
        self, layer: int, part: Part, block: bytes, rows: torch.Tensor
    ) -> torch.Tensor:
        import torch

        lacking = self.config.block_tokens - rows.shape[1]
        if not lacking:
            return rows
        noise = reference.padding(self._key, self._config(layer, part), layer, part, block, lacking)
        return torch.cat([rows, torch.from_numpy(noise).to(rows)], dim=1)

    def _require_shape(self, block: Block, *, partial: bool) -> None:
        heads, tokens, dim = self.config.kv_heads, self.config.block_tokens, self.config.head_dim
        shape = tuple(block.shape)
        fits = len(shape) == 3 and (shape[0], shape[2]) == (heads, dim)
        if not fits or not (shape[1] == tokens or (partial and 0 < shape[1] < tokens)):
            raise CloakError(
                f"a block has the shape {shape}, not {(heads, tokens, dim)}",
                "pass (KV heads, tokens, head dimension) of one layer",
            )

    def _require_range(self, layer: int, part: Part, largest: float) -> None:
        limit = self.limit(layer, part)
        # Not `largest > limit`: that would let NaN through.
        if not largest <= limit:
            raise CloakError(
                f"a block holds a value above the limit {limit:g}, or none at all",
                "calibrate `limit` on more text",
            )


def _require_float(rows: np.ndarray[Any, Any]) -> None:
    if rows.dtype not in FLOATS:
        raise _not_for(str(rows.dtype))


def _compute_dtype(rows: torch.Tensor) -> torch.dtype:
    from safekv.cloak.hazmat import torch_ops

    if rows.dtype not in torch_ops.COMPUTE:
        raise _not_for(str(rows.dtype).removeprefix("torch."))
    return torch_ops.COMPUTE[rows.dtype]


def _not_for(dtype: str) -> CloakError:
    return CloakError(
        f"blocks of {dtype} cannot be mixed by matrices: nothing of them would be left",
        "use the stream profile, which is exact for any dtype",
    )
