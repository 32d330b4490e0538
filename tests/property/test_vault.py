"""What is sealed opens as it was, and in no other way at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from safekv.errors import VaultError
from safekv.types import Scope, TenantId
from safekv.vault import BlockContext, FixedMasters, Holder, LocalMaster, MemoryKeyring, Vault
from safekv.vault.cipher import Cipher
from safekv.vault.seal import HEADER_BYTES

ALICE, BOB = TenantId("alice"), TenantId("bob")
DIRT = 0xA5
VAULTS = {
    cipher: Vault(MemoryKeyring(), FixedMasters(LocalMaster.generate()), cipher)
    for cipher in Cipher
}
payloads = st.binary(max_size=300) | st.integers(1, 200_000).map(lambda n: b"secret" * (n // 6 + 1))
holders = st.sampled_from([ALICE, BOB, TenantId("shared"), Scope.SHARED])
vaults = st.sampled_from(list(VAULTS.values()))


def sealed_by(vault: Vault, holder: Holder, context: bytes, payload: bytes) -> bytearray:
    out = bytearray(Vault.sealed_bytes(len(payload)))
    assert vault.seal_into(holder, context, payload, memoryview(out)) == len(out)
    return out


def must_not_open(vault: Vault, holder: Holder, context: bytes, sealed: bytes | bytearray) -> None:
    """One error, one message, and no byte of the payload in the buffer."""
    out = bytearray([DIRT]) * max(1, len(sealed))
    with pytest.raises(VaultError, match=r"^a sealed object could not be opened$") as caught:
        vault.open_into(holder, context, sealed, memoryview(out))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert set(out) <= {0, DIRT}


@settings(max_examples=50, deadline=None)
@given(vaults, holders, st.binary(max_size=80), payloads, st.integers(0, 70))
def test_what_is_sealed_opens(
    vault: Vault, holder: Holder, context: bytes, payload: bytes, spare: int
) -> None:
    buffer = bytearray([DIRT]) * (Vault.sealed_bytes(len(payload)) + spare)
    written = vault.seal_into(holder, context, payload, memoryview(buffer))
    assert written == Vault.sealed_bytes(len(payload))
    assert buffer[written:] == bytes([DIRT]) * spare
    opened = bytearray([DIRT]) * (len(payload) + spare)
    sealed = memoryview(buffer)[:written]
    assert vault.open_into(holder, context, sealed, memoryview(opened)) == len(payload)
    assert opened == payload + bytes([DIRT]) * spare


@settings(max_examples=50, deadline=None)
@given(vaults, st.binary(max_size=400), st.data())
def test_a_flipped_bit_never_opens(vault: Vault, payload: bytes, data: st.DataObject) -> None:
    sealed = sealed_by(vault, ALICE, b"block 7", payload)
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    must_not_open(vault, ALICE, b"block 7", sealed)


@pytest.mark.parametrize("vault", VAULTS.values(), ids=lambda _: "")
def test_every_byte_of_header_and_tag_counts(vault: Vault) -> None:
    payload = b"0123456789"
    sealed = sealed_by(vault, ALICE, b"", payload)
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 0x10
        must_not_open(vault, ALICE, b"", damaged)


@settings(max_examples=50, deadline=None)
@given(vaults, payloads, st.data())
def test_a_cut_or_longer_object_never_opens(
    vault: Vault, payload: bytes, data: st.DataObject
) -> None:
    sealed = sealed_by(vault, ALICE, b"", payload)
    must_not_open(vault, ALICE, b"", sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    must_not_open(vault, ALICE, b"", sealed + data.draw(st.binary(min_size=1, max_size=40)))


@settings(max_examples=50, deadline=None)
@given(vaults, holders, holders, st.binary(max_size=40), st.binary(max_size=40), payloads)
def test_it_opens_for_its_holder_under_its_context_only(
    vault: Vault, holder: Holder, other: Holder, context: bytes, guess: bytes, payload: bytes
) -> None:
    assume((holder, context) != (other, guess))
    sealed = sealed_by(vault, holder, context, payload)
    # The other one has a key, so that it is not for lack of one.
    sealed_by(vault, other, guess, b"")
    must_not_open(vault, other, guess, sealed)


CONTEXT = BlockContext(
    model="sha256:aa",
    tokenizer="sha256:bb",
    layers=(0, 30),
    kv_heads=3,
    block_hash=bytes(32),
    dtype="bfloat16",
    layout="layer,kv,token,head,dim",
    epoch=1,
)


@pytest.mark.parametrize(
    "other",
    [
        replace(CONTEXT, model="sha256:a"),
        replace(CONTEXT, model="sha256:aasha256:bb", tokenizer=""),
        replace(CONTEXT, tokenizer="sha256:bc"),
        replace(CONTEXT, layers=(1, 30)),
        replace(CONTEXT, layers=(0, 29)),
        replace(CONTEXT, kv_heads=4),
        replace(CONTEXT, block_hash=bytes(31) + b"\1"),
        replace(CONTEXT, dtype="float16"),
        replace(CONTEXT, layout="layer,kv,token,dim,head"),
        replace(CONTEXT, epoch=2),
    ],
    ids=lambda other: "",
)
def test_a_block_opens_as_nothing_else(other: BlockContext) -> None:
    vault = VAULTS[Cipher.AES_256_GCM]
    sealed = sealed_by(vault, ALICE, CONTEXT.encode(), b"block")
    must_not_open(vault, ALICE, other.encode(), sealed)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=64, max_size=200))
def test_garbage_never_opens(garbage: bytes) -> None:
    must_not_open(VAULTS[Cipher.AES_256_GCM], ALICE, b"", garbage)


@settings(max_examples=30, deadline=None)
@given(payloads, st.integers(0, 40))
def test_two_halves_of_two_objects_never_open(payload: bytes, cut: int) -> None:
    vault = VAULTS[Cipher.AES_256_GCM]
    one, two = (sealed_by(vault, ALICE, b"", payload) for _ in range(2))
    assert one != two
    at = min(HEADER_BYTES + cut, len(one) - 1)
    spliced = one[:at] + two[at:]
    # The last byte of two tags is equal once in 256 times.
    if spliced != one:
        must_not_open(vault, ALICE, b"", spliced)
    must_not_open(vault, ALICE, b"", two[:HEADER_BYTES] + one[HEADER_BYTES:])
