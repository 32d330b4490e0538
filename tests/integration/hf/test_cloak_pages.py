"""Obfuscated pages against transformers' own, write by write, on a pool of theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.generation.continuous_batching.cache_allocators import (
    CachePool,
    FullAttentionCacheAllocator,
)

from safekv.cloak import Cloak, CloakConfig, CloakKey, Part
from safekv.engines.hf.cloaked.matrix import MatrixPages
from safekv.engines.hf.cloaked.pages import Layout, Pages, runs
from safekv.engines.hf.cloaked.prepare import prepare
from safekv.engines.hf.cloaked.stream import StreamPages
from safekv.engines.hf.config import CloakProfile, CloakSettings
from safekv.errors import ConfigError, IsolationBroken
from safekv.types import BlockId

TOKENS, LAYERS, BLOCKS = 4, 2, 6
FIRST = 2  # the pool's first two sectors are trash


def allocator(dtype: torch.dtype, heads: int, dim: int) -> Any:
    """One of transformers' allocators over a pool of `BLOCKS` blocks, one in each sector."""
    config = LlamaConfig(
        hidden_size=heads * dim, num_attention_heads=heads, num_key_value_heads=heads, head_dim=dim
    )
    one = FullAttentionCacheAllocator(0, config, heads, dtype, TOKENS, [0, 1], True)
    sector = one.bytes_per_block
    memory = torch.zeros((BLOCKS + 2) * sector, dtype=torch.uint8)
    one.register_cache_tensor(sector, BLOCKS * sector, memory, CachePool(BLOCKS, 1))
    return one


def pages_of(kind: str, theirs: Any) -> Pages:
    layout = Layout.of(theirs)
    if kind == "stream":
        return StreamPages(layout, theirs._copy_view)
    config = CloakConfig(
        block_tokens=TOKENS,
        head_dim=layout.dim,
        kv_heads=layout.heads,
        limit=4.0,
        condition=3.0,
    )
    cloak = Cloak(CloakKey.generate(), config, fused=True)
    return MatrixPages(layout, theirs._copy_view, theirs, cloak)


TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.8}


class Pair:
    """The same requests on both pools; what attention gets is compared at every step."""

    def __init__(self, kind: str, dtype: torch.dtype, heads: int, dim: int) -> None:
        self.truth, self.mine = (allocator(dtype, heads, dim) for _ in range(2))
        self.kind, self.pages = kind, pages_of(kind, self.mine)
        self.shape, self.dtype = (heads, dim), dtype
        self.free = [BlockId(FIRST + at) for at in range(BLOCKS)]
        self.tables: dict[str, list[BlockId]] = {}
        self.lengths: dict[str, int] = {}
        self.random = torch.Generator().manual_seed(0)

    def step(self, chunks: dict[str, int]) -> None:
        """One forward pass: so many new tokens of each request."""
        write, read = list[int](), list[int]()
        for name, n in chunks.items():
            past = self.lengths.get(name, 0)
            table = self.tables.setdefault(name, [])
            while len(table) * TOKENS < past + n:
                table.append(self.free.pop(0))
            for which in (self.truth, self.mine):
                which.block_table[name] = table
            write += self.mine.get_write_indices(name, past, n)
            read += self.mine.get_read_indices(name, past, n)
            self.lengths[name] = past + n
        index = torch.tensor(read), torch.tensor(write)
        for layer in range(LAYERS):
            states = [
                torch.rand(len(write), *self.shape, generator=self.random).mul(6).sub(3)
                for _ in range(2)
            ]
            new = [one.to(self.dtype) for one in states]
            truth = self.truth.update(*new, layer, *index)
            mine = self.pages.update(*new, layer, *index)
            for one, two in zip(truth, mine, strict=True):
                if self.kind == "stream":
                    assert torch.equal(one, two)
                else:
                    gap = (one.float() - two.float()).abs().max()
                    assert gap <= TOLERANCE[self.dtype]
        for name in chunks:
            self.pages.filled(self.tables[name][: self.lengths[name] // TOKENS])

    def end(self, name: str) -> None:
        blocks = self.tables.pop(name)
        self.pages.freed(blocks)
        self.free += blocks
        del self.lengths[name]


programs = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from("ab"), st.integers(1, 6), min_size=1),
        st.sampled_from("ab"),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(
    st.sampled_from(["stream", "matrix"]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from([(1, 8), (2, 8), (3, 16)]),
    programs,
)
def test_attention_gets_what_it_gets_without(
    kind: str, dtype: torch.dtype, shape: tuple[int, int], program: list[dict[str, int] | str]
) -> None:
    """Chunks of any size, several requests a step, blocks taken over from ended ones."""
    pair = Pair(kind, dtype, *shape)
    for act in program:
        if isinstance(act, str):
            if act in pair.tables:
                pair.end(act)
            continue
        needed = sum(
            -(-(pair.lengths.get(name, 0) + n) // TOKENS) - len(pair.tables.get(name, []))
            for name, n in act.items()
        )
        if needed <= len(pair.free):
            pair.step(act)


@pytest.mark.parametrize("kind", ["stream", "matrix"])
def test_blocks_move_to_host_memory_and_back_and_out_in_the_clear(kind: str) -> None:
    pair = Pair(kind, torch.float32, 2, 8)
    pair.step({"a": TOKENS})
    (block,) = pair.tables["a"]
    host = torch.zeros(3, pair.mine.bytes_per_block, dtype=torch.uint8)
    pair.pages.attach_host(host)
    host[1] = pair.mine._copy_view[block]
    pair.pages.offloaded([block], [BlockId(1)])
    plain = pair.truth._copy_view[block].numpy().tobytes()
    shown = torch.frombuffer(bytearray(pair.pages.reveal(BlockId(1))), dtype=torch.float32)
    truth = torch.frombuffer(bytearray(plain), dtype=torch.float32)
    assert (shown - truth).abs().max() <= (0 if kind == "stream" else 1e-4)
    # Out in the clear, as to a disk, and in again: obfuscated, and otherwise than before.
    before = host[1].clone()
    host[2] = torch.frombuffer(bytearray(plain), dtype=torch.uint8)
    pair.pages.hide(BlockId(2))
    assert (host[2] != before).float().mean() > 0.5
    assert (host[2] != torch.frombuffer(bytearray(plain), dtype=torch.uint8)).float().mean() > 0.5
    # Up again to another place: a second request reads it there.
    for place in (1, 2):
        target = pair.free.pop(0)
        pair.mine._copy_view[target] = host[place]
        pair.truth._copy_view[target] = pair.truth._copy_view[block]
        pair.pages.onloaded([BlockId(place)], [target])
        pair.tables["b"], pair.lengths["b"] = [target], TOKENS
        pair.step({"b": 2})
        pair.end("b")


def test_no_token_is_written_twice_under_one_stamp() -> None:
    """Mutation: without the check the second write would share its keystream with the first."""
    pair = Pair("stream", torch.float32, 2, 8)
    pair.step({"a": 3})
    for slot in (1, 2):
        pair.lengths["a"] = slot
        with pytest.raises(IsolationBroken, match="twice under one keystream"):
            pair.step({"a": 1})
    # From its first token on a block has a new content, under a new stamp.
    (block,) = pair.tables["a"]
    old = pair.pages._stamps[block]  # type: ignore[attr-defined]
    pair.lengths["a"] = 0
    pair.step({"a": 2})
    assert pair.pages._stamps[block] != old  # type: ignore[attr-defined]


def test_a_block_that_came_up_takes_no_more_tokens() -> None:
    pair = Pair("stream", torch.float32, 2, 8)
    pair.step({"a": TOKENS})
    pair.lengths["a"] = TOKENS - 1
    with pytest.raises(IsolationBroken):
        pair.step({"a": 1})


def test_what_nobody_wrote_is_not_read() -> None:
    pair = Pair("stream", torch.float32, 2, 8)
    pair.step({"a": 2})
    pair.pages.freed(pair.tables["a"])
    with pytest.raises(IsolationBroken):
        pair.step({"a": 1})


def test_a_partial_block_of_matrix_is_wiped_and_a_full_one_is_not_read_in_part() -> None:
    pair = Pair("matrix", torch.float32, 2, 8)
    pair.step({"a": TOKENS + 2})
    full, partial = pair.tables["a"]
    assert pair.mine._copy_view[partial].any()
    pair.lengths["a"] = TOKENS - 2
    with pytest.raises(IsolationBroken, match="a part of an obfuscated block"):
        pair.step({"a": 1})
    pair.end("a")
    assert not pair.mine._copy_view[partial].any()
    assert pair.mine._copy_view[full].any()


def test_values_above_the_limit_come_back_and_are_counted() -> None:
    pair = Pair("matrix", torch.float32, 2, 8)
    pages = pair.pages
    assert isinstance(pages, MatrixPages)
    limits = {(layer, part): 1e-3 for layer in range(LAYERS) for part in Part}
    pages._whole._cloak._limits.update(limits)
    pair.step({"a": 2 * TOKENS})
    pair.step({"a": 1})
    assert pages.over_limit_blocks == 2


def test_runs_are_the_tokens_of_one_block() -> None:
    layout = Layout((0, 1), TOKENS, 1, 8, torch.float32)
    stride = 2 * TOKENS * 2
    index = torch.tensor([3 * stride + 1, 3 * stride + 2, 4 * stride, 7 * stride + 3, 7 * stride])
    found = runs(index, layout)
    assert [tuple(one) for one in found] == [(3, 1, 2, 0), (4, 0, 1, 2), (7, 3, 1, 3), (7, 0, 1, 4)]
    assert runs(index[:0], layout) == []


def test_devices_and_shapes_that_were_never_run_are_refused() -> None:
    class Elsewhere:
        device = torch.device("cuda:0")

    for profile in (CloakProfile.STREAM, CloakProfile.MATRIX):
        with pytest.raises(ConfigError, match=f"'{profile.value}', but the model is on cuda:0"):
            prepare(CloakSettings(profile=profile), "m", Elsewhere(), None)
    narrow = allocator(torch.float16, 1, 4)
    with pytest.raises(ConfigError, match="a token's keys have 8 bytes"):
        StreamPages(Layout.of(narrow), narrow._copy_view)
