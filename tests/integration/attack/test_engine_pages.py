"""The embedded engine's own pool is read by an attacker; its sealed files are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from safekv.attack import dump
from safekv.attack.capture import Captured
from safekv.attack.collision import nearest
from safekv.attack.public import PublicModel
from safekv.cache import TiersConfig
from safekv.engines.hf.dump import Pages, pages
from safekv.types import Mode
from safekv.vault import Vault
from support.engines import ask, idle, running, until
from support.prompts import BLOCK, prompt

pytestmark = pytest.mark.model


def layer_0(data: bytes, found: Pages) -> Captured:
    shape = (found.kv_heads, found.tokens, found.head_dim, found.layers)
    return dump.opaque(data, *shape, found.dtype).only([0])


def files_in(path: Path) -> list[Path]:
    return [one for one in path.rglob("*") if one.is_file()]


async def test_pages_of_the_pool_are_read_without_knowing_whose_they_are(tiny_dir: Path) -> None:
    public = PublicModel.load(tiny_dir)
    async with running(tiny_dir, Mode.ISOLATED) as engine:
        tokens = prompt(engine, 3 * BLOCK + 1)
        await ask(engine, "a", tokens, 2)
        await idle(engine)
        found = pages(engine)
    assert (found.layers, found.tokens) == (2, BLOCK)
    read = [nearest(public, layer_0(data, found), positions=False).tokens for data in found.blocks]
    for n in range(3):
        assert tuple(tokens[n * BLOCK : (n + 1) * BLOCK]) in read


async def test_sealed_files_read_as_noise(tiny_dir: Path, tmp_path: Path) -> None:
    public = PublicModel.load(tiny_dir)
    config = TiersConfig(
        host_blocks=14, disk_blocks=100, disk_path=tmp_path, queue_blocks=400, read_limit_s=60.0
    )
    sealer = Vault.ephemeral()
    async with running(
        tiny_dir, Mode.ISOLATED, capacity_blocks=24, tiers=config, sealer=sealer
    ) as engine:
        sent = set[int]()
        for n in range(4):
            tokens = prompt(engine, 12 * BLOCK + 40 * n)[40 * n :]
            sent |= set(tokens)
            await ask(engine, "a", tokens, 2)
        await idle(engine)
        await until(lambda: engine.tiers_backlog() == 0)
        found = pages(engine)
    files = files_in(tmp_path)
    assert files
    for one in files[:3]:
        stolen = layer_0(one.read_bytes(), found)
        assert stolen.layer(0)[0].isfinite().all()
        read = nearest(public, stolen, positions=False).tokens
        # The prompts use few of 49,152 tokens, so a hit by chance is rare.
        assert sum(token in sent for token in read) <= 2
    assert torch.float32 is found.dtype
