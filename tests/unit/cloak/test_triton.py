"""The Triton kernels, interpreted on the CPU, against NumPy and against published vectors."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from safekv.cloak import Cloak, CloakConfig, CloakKey, Part, Stream
from safekv.cloak.hazmat import reference
from safekv.errors import CloakError
from safekv.types import BlockId

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from safekv.cloak.hazmat import triton_ops  # noqa: E402
from safekv.cloak.hazmat.torch_ops import TorchSecrets  # noqa: E402

KEY = CloakKey.generate()


def words(data: bytes) -> Any:
    return torch.from_numpy(np.frombuffer(data, np.int32).copy())


def crossed(data: bytes, key: bytes, nonce: bytes, rounds: int = 20, counter: int = 0) -> bytes:
    row = words(data)[None].clone()
    triton_ops.chacha_xor(
        row,
        torch.tensor(triton_ops.key_words(key), dtype=torch.int32),
        torch.tensor([triton_ops.nonce_words(nonce)], dtype=torch.int32),
        rounds=rounds,
        counter=counter,
    )
    out: bytes = row.numpy().tobytes()
    return out


def test_chacha_of_rfc_8439() -> None:
    """Section 2.3.2 and 2.4.2: the block function, and the encryption of a text."""
    key = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a00000000")
    assert crossed(bytes(64), key, nonce, counter=1).hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    nonce = bytes.fromhex("000000000000004a00000000")
    padded = text + bytes(-len(text) % 4)
    assert crossed(padded, key, nonce, counter=1)[: len(text)].hex() == (
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )


@pytest.mark.parametrize(
    ("rounds", "keystream"),
    [
        # draft-strombergson-chacha-test-vectors, TC1: key and nonce zero, 256 bits.
        (8, "3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e"),
        (12, "9bf49a6a0755f953811fce125f2683d50429c3bb49e074147e0089a52eae155f"),
        (20, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),
    ],
)
def test_fewer_rounds(rounds: int, keystream: str) -> None:
    assert crossed(bytes(64), bytes(32), bytes(12), rounds)[:32].hex() == keystream


@pytest.mark.parametrize("n_bytes", [4, 60, 64, 68, 64 * 128, 64 * 129 + 20])
@pytest.mark.parametrize("counter", [0, 1, 2**31, 2**32 - 130])
def test_chacha_is_that_of_cryptography(n_bytes: int, counter: int) -> None:
    data, key, nonce = os.urandom(n_bytes), os.urandom(32), os.urandom(12)
    theirs = Cipher(algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce), None)
    assert crossed(data, key, nonce, counter=counter) == theirs.encryptor().update(data)


def test_many_blocks_each_under_the_stamp_of_a_stream() -> None:
    stream, data, key = Stream(), os.urandom(5 * 300 * 4), os.urandom(32)
    stamps = [stream.stamp(BlockId(block)) for block in (7, 7, 8, 9, 9)]
    rows = words(data).reshape(5, 300).clone()
    key_in = torch.tensor(triton_ops.key_words(key), dtype=torch.int32)
    nonces = torch.tensor([triton_ops.nonce_words(one) for one in stamps], dtype=torch.int32)
    triton_ops.chacha_xor(rows, key_in, nonces)
    for at, stamp in enumerate(stamps):
        theirs = Cipher(algorithms.ChaCha20(key, bytes(4) + stamp), None).encryptor()
        mine = rows[at].numpy().tobytes()
        assert mine == theirs.update(data[at * 1200 : (at + 1) * 1200])
    triton_ops.chacha_xor(rows, key_in, nonces)
    assert rows.numpy().tobytes() == data


def test_bad_chacha_input_is_refused() -> None:
    key, data = torch.zeros(8, dtype=torch.int32), torch.zeros(2, 16, dtype=torch.int32)
    nonces = torch.zeros(2, 3, dtype=torch.int32)
    bad: list[tuple[Any, ...]] = [
        (data, key, nonces, 10, 0),
        (data, key, nonces, 20, 2**32),
        (data, key, nonces, 20, -1),
        (data, key, nonces[:1], 20, 0),
        (data.float(), key, nonces, 20, 0),
        (data.T, key, nonces, 20, 0),
        (data, key[:4], nonces, 20, 0),
    ]
    for rows, secret, stamps, rounds, counter in bad:
        with pytest.raises(CloakError):
            triton_ops.chacha_xor(rows, secret, stamps, rounds=rounds, counter=counter)


def case(b: int, d: int, dtype: str, fused: bool) -> tuple[Any, ...]:
    """Three blocks of two heads, in a pool's layout: by token, then head."""
    config = CloakConfig(
        block_tokens=b, head_dim=d, kv_heads=2, limit=5.0, condition=3.0, scale=1.3
    )
    cloak = Cloak(KEY, config, fused=fused)
    names = [b"one", b"two", b"three"]
    rows = torch.randn(3, b, 2, d, generator=torch.Generator().manual_seed(b)).clamp(-5, 5)
    rows = rows.to(getattr(torch, dtype)).transpose(1, 2)
    secrets = cloak.secrets(1, Part.KEYS, torch.float32, torch.device("cpu"))
    return cloak, names, rows, secrets, cloak.places(1, names, torch.device("cpu"))


SHAPES = [(16, 64), (32, 64), (64, 16), (16, 128)]


@pytest.mark.parametrize(("b", "d"), SHAPES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-5), ("float16", 2e-2), ("bfloat16", 2e-1)]
)
def test_the_kernels_do_what_numpy_does(
    b: int, d: int, fused: bool, dtype: str, tolerance: float
) -> None:
    cloak, names, rows, secrets, places = case(b, d, dtype, fused)
    kept = rows.clone()
    stored = triton_ops.obfuscate_blocks(
        rows, secrets, places.orders, places.beacon_at, fused=fused
    )
    assert torch.equal(rows, kept)
    truths = [
        cloak.obfuscate(1, Part.KEYS, name, row.double().numpy())
        for name, row in zip(names, rows, strict=True)
    ]
    largest = max(abs(truth).max() for truth in truths)
    np.testing.assert_allclose(
        stored.double().numpy(), np.stack(truths), rtol=0, atol=tolerance * largest
    )
    # Into a pool's layout, by token.
    out = torch.empty(3, b, 2, d, dtype=rows.dtype).transpose(1, 2)
    back = triton_ops.deobfuscate_blocks(
        stored, secrets, places.orders, places.beacon_at, fused=fused, out=out
    )
    assert back is out
    truths = [
        cloak.deobfuscate(1, Part.KEYS, name, one.double().numpy())
        for name, one in zip(names, stored, strict=True)
    ]
    np.testing.assert_allclose(
        back.double().numpy(), np.stack(truths), rtol=0, atol=tolerance * largest
    )


def test_shapes_and_dtypes_that_the_kernels_do_not_take_are_refused() -> None:
    for b, d, dtype in ((8, 16, "float32"), (16, 24, "float32"), (16, 16, "float64")):
        _, _, rows, secrets, places = case(b, d, dtype, True)
        for act in (triton_ops.obfuscate_blocks, triton_ops.deobfuscate_blocks):
            with pytest.raises(CloakError, match="not for these kernels"):
                act(rows, secrets, places.orders, places.beacon_at, fused=True)
    wide = TorchSecrets.of(
        reference.draw_head_secrets(
            KEY, CloakConfig(head_dim=16, kv_heads=2, limit=1.0), 0, Part.KEYS
        ),
        torch.float64,
        torch.device("cpu"),
    )
    with pytest.raises(CloakError, match="blocks of float32 are not for these kernels"):
        triton_ops.obfuscate_blocks(
            torch.zeros(1, 2, 16, 16), wide, torch.zeros(1, 16).long(), torch.zeros(1).long(),
            fused=True,
        )  # fmt: skip
