"""What an operator is told of memory at start."""

from __future__ import annotations

import pytest

from safekv.cache import CacheConfig
from safekv.cli.memory import memory_lines
from safekv.types import Mode, Profile, TenantId
from safekv.warden import Warden, WardenConfig

NAMES = [TenantId(f"t{n}") for n in range(8)]


def lines(mode: Mode, context: int = 10_000, **cache: float) -> list[str]:
    config = CacheConfig(**cache)  # type: ignore[arg-type]
    warden = Warden(WardenConfig(mode=mode), config)
    warden.open(NAMES)
    return list(memory_lines(config, warden.stats(), warden.ceiling_blocks(NAMES[0]), context))


def test_each_tenants_part_is_named_in_tokens() -> None:
    divided, advice = lines(Mode.SELECTIVE)
    assert divided == (
        "memory for 32,768 tokens: 16,384 for what is shared, 2,048 for each of 8 tenants"
    )
    assert "more than 2,048 tokens is refused" in advice
    assert lines(Mode.ISOLATED, context=4096) == [
        "memory for 32,768 tokens: 4,096 for each of 8 tenants"
    ]


def test_overcommit_is_named() -> None:
    divided, *advice = lines(Mode.ISOLATED, overcommit=3.0, quota_blocks=64)
    assert divided.endswith("2,048 for each of 8 tenants, and up to 6,144 while others leave it")
    assert "6,144" in advice[0]


def test_nobody_has_no_part() -> None:
    config = CacheConfig()
    warden = Warden(WardenConfig(), config)
    assert list(memory_lines(config, warden.stats(), 0, 100)) == []


@pytest.mark.parametrize(
    ("mode", "profile", "blocks"),
    [
        (Mode.SELECTIVE, Profile.PAPER, 50),
        (Mode.SELECTIVE, Profile.ANONYMOUS, 25),
        (Mode.DECLARED, Profile.PAPER, 25),
        (Mode.ISOLATED, Profile.PAPER, 0),
        (Mode.UNSAFE_GLOBAL, Profile.PAPER, 0),
    ],
)
def test_the_pool_suits_what_is_asked_for(mode: Mode, profile: Profile, blocks: int) -> None:
    config = WardenConfig(mode=mode, profile=profile)
    assert config.pool_blocks(CacheConfig(capacity_blocks=100)) == blocks
    explicit = config.pool_blocks(CacheConfig(capacity_blocks=100, shared_blocks=10))
    assert explicit == (10 if blocks else 0)
