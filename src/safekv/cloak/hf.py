"""A transformers `Cache` whose full blocks lie obfuscated, for generation outside our engine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from safekv.cloak.bits import bits_of
from safekv.cloak.config import Part
from safekv.cloak.stream import Stream
from safekv.cloak.transform import Cloak
from safekv.errors import CloakError, ModelError
from safekv.types import BlockId

BLOCK_TOKENS: Final = 16

_names = itertools.count()
_process = os.urandom(16)


@dataclass(frozen=True, slots=True)
class Hidden:
    """One full block of a layer, obfuscated: keys and values, (batch, heads, b, d) each, and what
    it takes to put them back."""

    keys: torch.Tensor = field(repr=False)
    values: torch.Tensor = field(repr=False)
    secret: Any = field(repr=False)


class Guard(Protocol):
    """Obfuscates the full blocks of one layer."""

    block_tokens: int

    def hide(self, keys: torch.Tensor, values: torch.Tensor) -> Hidden: ...

    def reveal(self, blocks: Sequence[Hidden]) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one block or more in their order, (batch, heads, n·b, d)."""
        ...


class StreamGuard:
    """The profile `stream`: bit exact, for any dtype, for tensors in host memory."""

    def __init__(self, stream: Stream, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._stream = stream

    def hide(self, keys: torch.Tensor, values: torch.Tensor) -> Hidden:
        stamps = [self._stream.stamp(BlockId(part)) for part in (0, 1)]
        stored = [
            self._crossed(stamp, one.contiguous(), one.new_empty(one.shape))
            for stamp, one in zip(stamps, (keys, values), strict=True)
        ]
        return Hidden(stored[0], stored[1], stamps)

    def reveal(self, blocks: Sequence[Hidden]) -> tuple[torch.Tensor, torch.Tensor]:
        first = blocks[0].keys
        clear = [first.new_empty((len(blocks), *first.shape)) for _ in range(2)]
        for at, block in enumerate(blocks):
            for which, stored in enumerate((block.keys, block.values)):
                self._crossed(block.secret[which], stored, clear[which][at])
        return _joined(clear[0]), _joined(clear[1])

    def _crossed(self, stamp: bytes, source: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self._stream.apply(stamp, 0, bits_of(source), bits_of(out))
        return out


class MatrixGuard:
    """KV-Cloak's matrices, **broken by known plaintext**; without `strict` no limit is checked."""

    def __init__(self, cloak: Cloak, layer: int, strict: bool) -> None:
        self.block_tokens = cloak.config.block_tokens
        self._cloak, self._layer, self._strict = cloak, layer, strict

    def hide(self, keys: torch.Tensor, values: torch.Tensor) -> Hidden:
        names = [_process + next(_names).to_bytes(8) for _ in range(len(keys))]
        places = self._cloak.places(self._layer, names, keys.device)
        stored = [
            self._cloak.obfuscate_blocks(self._layer, part, places, rows, strict=self._strict)
            for part, rows in ((Part.KEYS, keys), (Part.VALUES, values))
        ]
        return Hidden(stored[0], stored[1], places)

    def reveal(self, blocks: Sequence[Hidden]) -> tuple[torch.Tensor, torch.Tensor]:
        from safekv.cloak.transform import Places

        places = Places(
            torch.cat([block.secret.orders for block in blocks]),
            torch.cat([block.secret.beacon_at for block in blocks]),
        )
        clear = []
        for part, name in ((Part.KEYS, "keys"), (Part.VALUES, "values")):
            stored = torch.cat([getattr(block, name) for block in blocks])
            rows = self._cloak.deobfuscate_blocks(self._layer, part, places, stored)
            clear.append(_joined(rows.view(len(blocks), -1, *rows.shape[1:])))
        return clear[0], clear[1]


def _joined(blocks: torch.Tensor) -> torch.Tensor:
    """(n, batch, heads, b, d) as (batch, heads, n·b, d)."""
    return blocks.permute(1, 2, 0, 3, 4).flatten(2, 3)


class CloakedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer: full blocks obfuscated, the last, partial one in `keys` and `values` as it is.

    Every `update` undoes the obfuscation of all blocks for the attention of this layer.
    """

    is_croppable = True

    keys: Any
    values: Any

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self.blocks: list[Hidden] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        tail = [
            torch.cat([kept, new], dim=2)
            for kept, new in ((self.keys, key_states), (self.values, value_states))
        ]
        seen = tuple(tail)
        if self.blocks:
            clear = self._guard.reveal(self.blocks)
            seen = tuple(torch.cat(pair, dim=2) for pair in zip(clear, tail, strict=True))
        self._keep(tail[0], tail[1])
        return seen[0], seen[1]

    def _keep(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hide what makes full blocks, as a continuation; the rest is the partial block."""
        b = self._guard.block_tokens
        full = keys.shape[2] // b * b
        for at in range(0, full, b):
            self.blocks.append(self._guard.hide(keys[:, :, at : at + b], values[:, :, at : at + b]))
        # Copies: a view would keep all of it in memory in the clear.
        self.keys, self.values = keys[:, :, full:].clone(), values[:, :, full:].clone()

    def get_seq_length(self) -> int:
        if not self.is_initialized:
            return 0
        return len(self.blocks) * self._guard.block_tokens + int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.blocks, self.is_initialized = [], False
        self.keys = self.values = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens; transformers passes their number as a negative one."""
        length = self.get_seq_length()
        # A positive number is the length to keep: transformers' older calls.
        keep = min(tokens_to_remove, length) if tokens_to_remove > 0 else length + tokens_to_remove
        whole, rest = divmod(max(0, keep), self._guard.block_tokens)
        if whole < len(self.blocks):
            keys, values = self._guard.reveal([self.blocks[whole]])
            self.blocks = self.blocks[:whole]
        else:
            keys, values = self.keys, self.values
        self.keys, self.values = keys[:, :, :rest].clone(), values[:, :, :rest].clone()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._rebuild(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the cache in the batch dimension."""
        self._rebuild(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the `indices` in the batch dimension."""
        self._rebuild(lambda states: states[indices, ...])

    def _rebuild(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Change the batch: blocks are put back and hidden anew, under new names."""
        if self.get_seq_length() == 0:
            return
        keys, values = self.keys, self.values
        if self.blocks:
            clear = self._guard.reveal(self.blocks)
            keys, values = (
                torch.cat(pair, dim=2) for pair in zip(clear, (keys, values), strict=True)
            )
        self.blocks = []
        self._keep(change(keys), change(values))


class CloakedCache(Cache):  # type: ignore[misc]
    """A cache for `model.generate(past_key_values=…)` that keeps full blocks obfuscated.

    It hides them from a reader of the cache's tensors who has no key, and is no encryption: the
    keys lie in this object. The last, partial block of each layer is in the clear, and so is
    what attention reads while a layer computes. Make one for each conversation, with `stream`
    or `matrix`. Raises `ModelError` for models with layers other than full attention.
    """

    def __init__(self, config: Any, guard: Callable[[int], Guard]) -> None:
        text = config.get_text_config(decoder=True)
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(text, "sliding_window", None) is not None:
            raise ModelError(
                f"a model of type {text.model_type!r} has layers other than full attention",
                "use a model with full attention only",
            )
        super().__init__(layers=[CloakedLayer(guard(at)) for at in range(text.num_hidden_layers)])

    @classmethod
    def stream(
        cls, config: Any, block_tokens: int = BLOCK_TOKENS, stream: Stream | None = None
    ) -> CloakedCache:
        """Bit exact, any dtype, under one `stream` (by default one of its own). Host memory."""
        if block_tokens < 1:
            raise CloakError(f"block_tokens is {block_tokens}", "use 1 or more")
        one = stream or Stream()
        return cls(config, lambda layer: StreamGuard(one, block_tokens))

    @classmethod
    def matrix(cls, config: Any, cloak: Cloak, *, strict: bool = True) -> CloakedCache:
        """KV-Cloak's matrices, on any device: broken by known plaintext, and not exact.

        With `cloak.fused` the model must be fused with the same key. A value above the limit
        raises `CloakError`, or without `strict` stands out in its block.
        """
        return cls(config, lambda layer: MatrixGuard(cloak, layer, strict))
