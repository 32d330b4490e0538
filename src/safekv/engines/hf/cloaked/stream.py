"""The profile `stream`: every token in the pool lies under a keystream, from its writing on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from safekv.cloak.bits import bits_of
from safekv.cloak.stream import STEP_BYTES, Stream
from safekv.engines.hf.cloaked.pages import Layout, runs
from safekv.errors import ConfigError, IsolationBroken
from safekv.types import BlockId


class _Piece(NamedTuple):
    """Tokens of one block: the stamp of its content, where they lie in a part of it, and where
    among the batch's. In bytes."""

    stamp: bytes
    block_at: int
    in_part: int
    n_bytes: int
    at: int


class StreamPages:
    """XORs tokens with AES-256-CTR on their way in and out: no block is ever in the clear.

    Bit exact, partial blocks included: the keystream goes by position in the block. A block's
    first token gives it a new stamp, and a token is written once under a stamp: anything else
    stops the engine, because two contents under one keystream give each other away. Reading
    copies, as it does without obfuscation, and deciphers on the way. What it reads for one layer
    lies in the clear in a buffer that the next layer overwrites.
    """

    def __init__(self, layout: Layout, rows: torch.Tensor) -> None:
        if layout.token_bytes % STEP_BYTES:
            raise ConfigError(
                f"cloak.profile is 'stream', but a token's keys have {layout.token_bytes} bytes",
                f"use a model in which that is a multiple of {STEP_BYTES}, or cloak.profile = off",
            )
        self._layout = layout
        self._bits = bits_of(rows)
        self._host = memoryview(b"")
        self._stream = Stream()
        # The mutable state: the stamps of what blocks hold, and how many of their tokens.
        self._stamps: dict[int, bytes] = {}
        self._host_stamps: dict[int, bytes] = {}
        self._written: dict[int, int] = {}
        self._in: list[_Piece] = []
        self._out: list[_Piece] = []
        self._scratch = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]

    # -- the forward pass ------------------------------------------------------------------

    def update(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        layer: int,
        read_index: torch.Tensor,
        write_index: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layers, part_bytes = self._layout.layers, self._layout.part_bytes
        if layer == layers[0]:
            self._plan(read_index, write_index)
        at = 2 * layers.index(layer) * part_bytes
        self._write(at, keys)
        self._write(at + part_bytes, values)
        n = len(read_index)
        if not n:
            return keys, values
        return self._read(at, n, 0), self._read(at + part_bytes, n, 1)

    def _plan(self, read_index: torch.Tensor, write_index: torch.Tensor) -> None:
        """What the layers of this pass write and read; new contents get their stamps here."""
        width, block_bytes = self._layout.token_bytes, self._layout.block_bytes
        self._in, self._out = [], []
        for block, slot, n, at in runs(write_index, self._layout):
            if slot == 0:
                self._stamps[block] = self._stream.stamp(BlockId(block))
            elif self._written.get(block) != slot:
                raise IsolationBroken("a token was to be written twice under one keystream")
            self._written[block] = slot + n
            self._in.append(self._piece(block, block * block_bytes, slot, n, at, width))
        for block, slot, n, at in runs(read_index, self._layout):
            self._out.append(self._piece(block, block * block_bytes, slot, n, at, width))

    def _piece(self, block: int, block_at: int, slot: int, n: int, at: int, width: int) -> _Piece:
        stamp = self._stamps.get(block)
        if stamp is None:
            raise IsolationBroken("a block was read that nobody wrote")
        return _Piece(stamp, block_at, slot * width, n * width, at * width)

    def _write(self, part_at: int, states: torch.Tensor) -> None:
        plain, bits, apply = bits_of(states.contiguous()), self._bits, self._stream.apply
        for stamp, block_at, in_part, n_bytes, at in self._in:
            inside = part_at + in_part
            target = block_at + inside
            apply(
                stamp,
                inside // STEP_BYTES,
                plain[at : at + n_bytes],
                bits[target : target + n_bytes],
            )

    def _read(self, part_at: int, n_tokens: int, which: int) -> torch.Tensor:
        layout = self._layout
        out = self._room(which, n_tokens * layout.token_bytes)
        plain, bits, apply = bits_of(out), self._bits, self._stream.apply
        for stamp, block_at, in_part, n_bytes, at in self._out:
            inside = part_at + in_part
            source = block_at + inside
            apply(
                stamp,
                inside // STEP_BYTES,
                bits[source : source + n_bytes],
                plain[at : at + n_bytes],
            )
        return out.view(layout.dtype).view(n_tokens, layout.heads, layout.dim)

    def _room(self, which: int, n_bytes: int) -> torch.Tensor:
        """One of the two buffers: fresh memory for each layer would cost more than the cipher."""
        if len(self._scratch[which]) < n_bytes:
            self._scratch[which] = torch.empty(2 * n_bytes, dtype=torch.uint8)
        return self._scratch[which][:n_bytes]

    def filled(self, blocks: Sequence[BlockId]) -> None:
        """Nothing: they were never in the clear."""

    def freed(self, blocks: Sequence[BlockId]) -> None:
        """Forget the stamps: what lies there stays obfuscated for good."""
        for block in blocks:
            self._stamps.pop(block, None)
            self._written.pop(block, None)

    # -- tiers -----------------------------------------------------------------------------

    def attach_host(self, host: torch.Tensor) -> None:
        self._host = bits_of(host)

    def offloaded(self, blocks: Sequence[BlockId], places: Sequence[BlockId]) -> None:
        for block, place in zip(blocks, places, strict=True):
            self._host_stamps[place] = self._stamps[block]

    def onloaded(self, places: Sequence[BlockId], blocks: Sequence[BlockId]) -> None:
        for place, block in zip(places, blocks, strict=True):
            self._stamps[block] = self._host_stamps[place]
            # Full: nothing more may be written under this stamp.
            self._written[block] = self._layout.tokens

    def reveal(self, place: BlockId) -> bytes:
        payload = bytearray(self._layout.block_bytes)
        self._stream.apply(self._host_stamps[place], 0, self._row(place), memoryview(payload))
        return bytes(payload)

    def hide(self, place: BlockId) -> None:
        stamp, row = self._stream.stamp(place), self._row(place)
        self._stream.apply(stamp, 0, row, row)
        self._host_stamps[place] = stamp

    def _row(self, place: BlockId) -> memoryview:
        width = self._layout.block_bytes
        return self._host[place * width : (place + 1) * width]
