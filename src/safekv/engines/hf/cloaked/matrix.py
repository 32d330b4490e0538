"""The profile `matrix`: full blocks lie under KV-Cloak's S, P and beacon; M is in the weights."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from safekv.cloak.hazmat.torch_ops import COMPUTE
from safekv.cloak.transform import Cloak, Places
from safekv.cloak.whole import PARTS, WholeBlocks
from safekv.engines.hf.cloaked.pages import Layout, runs
from safekv.errors import IsolationBroken
from safekv.types import BlockId

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plan:
    """What the layers of one forward pass read.

    `blocks` (m) are obfuscated, `to` (layers, m·b) says where the rows of each go, in stored
    order. The other tokens are read as they are, `source` and `target` (n) of them.
    """

    blocks: torch.Tensor = field(repr=False)
    to: torch.Tensor = field(repr=False)
    beacon_at: torch.Tensor = field(repr=False)
    source: torch.Tensor = field(repr=False)
    target: torch.Tensor = field(repr=False)


class MatrixPages:
    """Keeps full blocks as K' = S·P·(K·M + A) and undoes S, P and A where attention reads.

    **Broken by known plaintext.** The last, partial block of a request holds K·M as it is until
    it is full, and is overwritten with zeros when it is given up before. An obfuscated part of
    a block lies by head, then row, so that it is read as matrices.
    """

    def __init__(self, layout: Layout, rows: torch.Tensor, allocator: Any, cloak: Cloak) -> None:
        self._layout = layout
        self._token_views = allocator._kv_token_views
        self._device = rows
        self._host = rows[:0]
        self._whole = WholeBlocks(cloak, layout.layers, COMPUTE[layout.dtype], rows.device)
        self._instance, self._count = os.urandom(16), itertools.count()
        # The mutable state: P and the beacon's row of each obfuscated block.
        self._places: dict[int, Places] = {}
        self._host_places: dict[int, Places] = {}
        self._plan_now: _Plan | None = None
        self.over_limit_blocks = 0

    # -- the forward pass ------------------------------------------------------------------

    def update(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        layer: int,
        read_index: torch.Tensor,
        write_index: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for view, states in zip(self._token_views[layer], (keys, values), strict=True):
            view.index_copy_(0, write_index, states)
        if not len(read_index):
            return keys, values
        if layer == self._layout.layers[0] or self._plan_now is None:
            self._plan_now = self._plan(read_index)
        n = len(read_index)
        return self._read(layer, 0, n, self._plan_now), self._read(layer, 1, n, self._plan_now)

    def _plan(self, read_index: torch.Tensor) -> _Plan:
        layout, hidden, plain = self._layout, list[tuple[int, int]](), list[torch.Tensor]()
        for block, _, n, at in runs(read_index, layout):
            if block not in self._places:
                plain.append(torch.arange(at, at + n))
            elif n == layout.tokens:
                hidden.append((block, at))
            else:
                raise IsolationBroken("a part of an obfuscated block was to be read")
        target = torch.cat(plain) if plain else torch.empty(0, dtype=torch.long)
        places = [self._places[block] for block, _ in hidden]
        shape = (0, len(layout.layers), layout.tokens)
        orders = torch.stack([one.orders for one in places]) if places else torch.empty(shape)
        beacons = [one.beacon_at for one in places]
        starts = torch.tensor([at for _, at in hidden], dtype=torch.long)
        return _Plan(
            torch.tensor([block for block, _ in hidden], dtype=torch.long),
            (orders.long() + starts[:, None, None]).transpose(0, 1).flatten(1),
            torch.stack(beacons, dim=1) if beacons else torch.empty(shape[:2]).T,
            read_index[target],
            target,
        )

    def _read(self, layer: int, which: int, n_tokens: int, plan: _Plan) -> torch.Tensor:
        layout, at = self._layout, self._layout.layers.index(layer)
        out = torch.empty((layout.heads, n_tokens, layout.dim), dtype=layout.dtype)
        if len(plan.target):
            plain = self._token_views[layer][which].index_select(0, plan.source)
            out.index_copy_(1, plan.target, plain.transpose(0, 1))
        if len(plan.blocks):
            stored = self._parts(self._device)[:, at, which].index_select(0, plan.blocks)
            clear = self._whole.unmix(at, PARTS[which], plan.beacon_at[at], stored)
            rows = clear.transpose(0, 1).reshape(layout.heads, -1, layout.dim)
            out.index_copy_(1, plan.to[at], rows.to(layout.dtype))
        return out.transpose(0, 1)

    def _parts(self, memory: torch.Tensor) -> torch.Tensor:
        """Rows of bytes as (blocks, layers, K or V, heads, b, d), the layout of what is hidden."""
        layout = self._layout
        shape = (len(memory), len(layout.layers), 2, layout.heads, layout.tokens, layout.dim)
        return memory.view(layout.dtype).view(shape)

    def filled(self, blocks: Sequence[BlockId]) -> None:
        for block in blocks:
            if block not in self._places:
                self._places[block] = self._hide(self._device, block)

    def _hide(self, memory: torch.Tensor, row: int) -> Places:
        layout, parts = self._layout, self._parts(memory)[row]
        places = self._whole.places(self._instance + next(self._count).to_bytes(8))
        by_token = (len(layout.layers), layout.tokens, layout.heads, layout.dim)
        over = False
        for which, part in enumerate(PARTS):
            plain = parts[:, which].reshape(by_token).transpose(1, 2)
            over = over or self._whole.over_limit(part, plain)
            parts[:, which] = self._whole.obfuscate(part, places, plain)
        if over:
            if not self.over_limit_blocks:
                log.warning("a block holds values above the cloak's limit: they stand out in it")
            self.over_limit_blocks += 1
        return places

    def freed(self, blocks: Sequence[BlockId]) -> None:
        """Forget P; a block that was never full is overwritten."""
        for block in blocks:
            if self._places.pop(block, None) is None:
                self._device[block].zero_()

    # -- tiers -----------------------------------------------------------------------------

    def attach_host(self, host: torch.Tensor) -> None:
        self._host = host

    def offloaded(self, blocks: Sequence[BlockId], places: Sequence[BlockId]) -> None:
        for block, place in zip(blocks, places, strict=True):
            self._host_places[place] = self._places[block]

    def onloaded(self, places: Sequence[BlockId], blocks: Sequence[BlockId]) -> None:
        for place, block in zip(places, blocks, strict=True):
            self._places[block] = self._host_places[place]

    def reveal(self, place: BlockId) -> bytes:
        """K·M by token. M stays: only this key's weights read it."""
        hidden, parts = self._host_places[place], self._parts(self._host)[place]
        shown = torch.stack(
            [
                self._whole.deobfuscate(part, hidden, parts[:, which]).transpose(1, 2)
                for which, part in enumerate(PARTS)
            ],
            dim=1,
        )
        return shown.contiguous().view(torch.uint8).numpy().tobytes()

    def hide(self, place: BlockId) -> None:
        self._host_places[place] = self._hide(self._host, place)
