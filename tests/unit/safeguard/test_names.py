"""Names of blocks: the same with and without memory, and hashed only where they are new."""

from __future__ import annotations

import random

import pytest

from safekv.safeguard import NameMemory, block_names, common_blocks, names
from safekv.types import TenantId, pack_tokens

KEY, BLOCK = bytes(32), 4
A, B = TenantId("a"), TenantId("b")


def test_common_blocks_against_a_plain_count() -> None:
    rng = random.Random(1)
    for _ in range(500):
        one, other = (bytes(rng.choices(b"ab", k=rng.randrange(30))) for _ in range(2))
        other = one[: rng.randrange(30)] + other
        blocks = zip(
            [one[n : n + 3] for n in range(0, len(one) - 2, 3)],
            [other[n : n + 3] for n in range(0, len(other) - 2, 3)],
            strict=False,
        )
        plain = 0
        for first, second in blocks:
            if first != second:
                break
            plain += 1
        assert common_blocks(one, other, 3) == plain


def test_memory_changes_no_name() -> None:
    rng, memory = random.Random(2), NameMemory(KEY, BLOCK, tenants=2)
    for _ in range(300):
        tokens = pack_tokens(rng.choices((1, 2), k=rng.randrange(4, 40)))
        n = rng.randint(1, len(tokens) // 4 // BLOCK)
        tenant = TenantId(rng.choice("abc"))
        assert memory.names(tenant, tokens, n) == block_names(KEY, tokens, n, BLOCK)


def test_only_what_is_new_to_the_tenant_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, real = [0], names.hashlib.blake2b

    def counting(*args: object, **options: object) -> object:
        hashed[0] += 1
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(names.hashlib, "blake2b", counting)
    memory, turn = NameMemory(KEY, BLOCK), list(range(40))
    memory.names(A, pack_tokens(turn), 10)
    assert hashed == [10]
    memory.names(A, pack_tokens([*turn, *range(100, 108)]), 12)
    assert hashed == [12], "the next turn of the conversation"
    memory.names(A, pack_tokens(turn), 10)
    assert hashed == [12], "a shorter one"
    memory.names(B, pack_tokens(turn), 10)
    assert hashed == [22], "one tenant's memory is not another's"
