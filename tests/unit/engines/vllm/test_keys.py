"""Names of blocks: what they commit to, and what they give away."""

from __future__ import annotations

import hashlib
import struct

import pytest

from safekv.engines.vllm.keys import NAME_BYTES, ROOT, BlockKeys
from safekv.types import TenantId, pack_tokens

KEYS = BlockKeys(b"s" * 32)
A, B = TenantId("a"), TenantId("b")


def test_a_name_commits_to_its_tokens_and_to_all_before_it() -> None:
    names = KEYS.chain(ROOT, pack_tokens(range(12)), 4)
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {NAME_BYTES}
    for place in range(12):
        changed = list(range(12))
        changed[place] = 99
        other = KEYS.chain(ROOT, pack_tokens(changed), 4)
        same = place // 4
        assert other[:same] == names[:same]
        assert not set(other[same:]) & set(names[same:])


def test_the_chain_can_be_taken_up_anywhere_and_a_part_of_a_block_has_no_name() -> None:
    tokens = pack_tokens(range(14))
    names = KEYS.chain(ROOT, tokens, 4)
    assert len(names) == 3
    assert KEYS.chain(names[0], tokens[16:], 4) == names[1:]
    assert KEYS.public(names[1], tokens[32:48], 4) == names[2]
    assert KEYS.public(names[1], tokens[32:48], 4, b"adapter") != names[2]
    with pytest.raises(ValueError, match="not one full block"):
        KEYS.public(ROOT, tokens[:12], 4)


def test_another_secret_gives_other_names_and_the_same_one_the_same() -> None:
    tokens = pack_tokens(range(8))
    assert BlockKeys(b"s" * 32).chain(ROOT, tokens, 4) == KEYS.chain(ROOT, tokens, 4)
    other = BlockKeys(b"t" * 32)
    assert not set(other.chain(ROOT, tokens, 4)) & set(KEYS.chain(ROOT, tokens, 4))
    assert other.tenant(A) != KEYS.tenant(A)


def test_without_the_secret_a_text_does_not_give_its_name() -> None:
    tokens = pack_tokens(range(4))
    (name,) = KEYS.chain(ROOT, tokens, 4)
    assert hashlib.blake2b(ROOT + tokens, digest_size=NAME_BYTES).digest() != name
    assert hashlib.sha256(ROOT + tokens).digest() != name


def test_each_tenant_has_private_names_of_its_own() -> None:
    public = KEYS.chain(ROOT, pack_tokens(range(8)), 4)
    mine, theirs = (KEYS.private(KEYS.tenant(one), public) for one in (A, B))
    assert not set(mine) & set(theirs)
    assert not set(mine) & set(public)
    assert KEYS.private(KEYS.tenant(A), public) == mine


def test_nobody_is_never_the_same() -> None:
    assert len({KEYS.nobody() for _ in range(100)}) == 100


def test_a_tenants_name_cannot_be_made_of_anothers() -> None:
    names = [TenantId(one) for one in ("a", "aa", "a\0", "ä", " a", "A")]
    assert len({KEYS.tenant(one) for one in names}) == len(names)


def test_keys_do_not_show() -> None:
    assert repr(KEYS) == "BlockKeys()"
    assert struct.calcsize("i") == 4
