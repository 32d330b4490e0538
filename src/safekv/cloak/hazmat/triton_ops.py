"""The same mathematics as Triton kernels: each element of a block is read once and written once.

`TRITON_INTERPRET=1`, set before this is imported, runs them on a CPU, slowly: that is how the
tests do it. On an H100 the kernels were timed (docs/cloak.md); their results were compared with
NumPy's in the interpreter only.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import torch
import triton
import triton.language as tl

from safekv.cloak.hazmat.torch_ops import COMPUTE, TorchSecrets
from safekv.errors import CloakError

SMALLEST: Final = 16
"""`tl.dot` takes no smaller matrices."""

LANES: Final = 128
"""ChaCha blocks of 64 bytes that one program computes at once."""


@triton.jit
def _obfuscate(
    rows, out, mix, feature, beacon, orders, beacon_at,
    rows_n, rows_h, rows_b, rows_d, out_n, out_h, out_b, out_d,
    FUSED: tl.constexpr, B: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One head of one block: rows are loaded in the order P, mixed, and stored."""
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, d = tl.arange(0, B), tl.arange(0, D)
    order = tl.load(orders + n * B + b)
    x = tl.load(rows + n * rows_n + h * rows_h + order[:, None] * rows_b + d[None, :] * rows_d)
    x = x.to(tl.float32)
    if not FUSED:
        m = tl.load(feature + h * D * D + d[:, None] * D + d[None, :])
        x = tl.dot(x, m, input_precision=PRECISION)
    marked = (b == tl.load(beacon_at + n)).to(tl.float32)
    x += marked[:, None] * tl.load(beacon + h * D + d)[None, :]
    s = tl.load(mix + h * B * B + b[:, None] * B + b[None, :])
    y = tl.dot(s, x, input_precision=PRECISION)
    tl.store(
        out + n * out_n + h * out_h + b[:, None] * out_b + d[None, :] * out_d,
        y.to(out.dtype.element_ty),
    )


@triton.jit
def _deobfuscate(
    stored, out, unmix, unfeature, beacon, orders, beacon_at,
    stored_n, stored_h, stored_b, stored_d, out_n, out_h, out_b, out_d,
    FUSED: tl.constexpr, B: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The inverse: unmixed, and each row stored where it belongs."""
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, d = tl.arange(0, B), tl.arange(0, D)
    y = tl.load(
        stored + n * stored_n + h * stored_h + b[:, None] * stored_b + d[None, :] * stored_d
    )
    s = tl.load(unmix + h * B * B + b[:, None] * B + b[None, :])
    x = tl.dot(s, y.to(tl.float32), input_precision=PRECISION)
    marked = (b == tl.load(beacon_at + n)).to(tl.float32)
    x -= marked[:, None] * tl.load(beacon + h * D + d)[None, :]
    if not FUSED:
        m = tl.load(unfeature + h * D * D + d[:, None] * D + d[None, :])
        x = tl.dot(x, m, input_precision=PRECISION)
    order = tl.load(orders + n * B + b)
    tl.store(
        out + n * out_n + h * out_h + order[:, None] * out_b + d[None, :] * out_d,
        x.to(out.dtype.element_ty),
    )


def obfuscate_blocks(
    rows: torch.Tensor,
    heads: TorchSecrets,
    orders: torch.Tensor,
    beacon_at: torch.Tensor,
    *,
    fused: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`torch_ops.obfuscate_blocks`: `rows` (n, heads, b, d), with any strides, into `out`.

    `orders` (n, b) and `beacon_at` (n) are those of `Places`. b and d are powers of two from 16
    on. `out` may have other strides, such as a pool's, and must not overlap `rows`. Raises
    `CloakError` for other shapes and dtypes.
    """
    return _launch(_obfuscate, rows, heads.mix, heads.feature, heads, orders, beacon_at, fused, out)


def deobfuscate_blocks(
    stored: torch.Tensor,
    heads: TorchSecrets,
    orders: torch.Tensor,
    beacon_at: torch.Tensor,
    *,
    fused: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The inverse of `obfuscate_blocks`, rows in their first order; P is undone on the way."""
    return _launch(
        _deobfuscate, stored, heads.unmix, heads.unfeature, heads, orders, beacon_at, fused, out
    )


def _launch(
    kernel: Any,
    source: torch.Tensor,
    mix: torch.Tensor,
    feature: torch.Tensor,
    heads: TorchSecrets,
    orders: torch.Tensor,
    beacon_at: torch.Tensor,
    fused: bool,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if COMPUTE.get(source.dtype) is not torch.float32 or mix.dtype is not torch.float32:
        raise CloakError(
            f"blocks of {str(source.dtype).removeprefix('torch.')} are not for these kernels",
            "use float32, float16 or bfloat16, with secrets in float32",
        )
    n, n_heads, b, d = source.shape
    if any(size < SMALLEST or size & (size - 1) for size in (b, d)):
        raise CloakError(
            f"blocks of {b} tokens and {d} dimensions are not for these kernels",
            f"both must be powers of two from {SMALLEST} on; use the torch backend",
        )
    if out is None:
        out = torch.empty(source.shape, dtype=source.dtype, device=source.device)
    kernel[(n, n_heads)](
        source, out, mix, feature, heads.beacon, orders.contiguous(), beacon_at.contiguous(),
        *source.stride(), *out.stride(),
        FUSED=fused, B=b, D=d, **_tuned(b, source.device),
    )  # fmt: skip
    return out


def _tuned(b: int, device: torch.device) -> dict[str, Any]:
    """How a head of one block of `b` tokens is multiplied, and by how many warps: the quickest of
    those tried on an H100 (docs/cloak.md)."""
    if device.type != "cuda":
        return {"PRECISION": "ieee"}
    if b == SMALLEST:
        return {"PRECISION": "ieee", "num_warps": 2}
    return {"PRECISION": "tf32x3", "num_warps": 4}


@triton.jit
def _turn(x, N: tl.constexpr):
    return (x << N) | (x >> (32 - N))


@triton.jit
def _quarter(a, b, c, d):
    """RFC 8439, section 2.1."""
    a += b
    d = _turn(d ^ a, 16)
    c += d
    b = _turn(b ^ c, 12)
    a += b
    d = _turn(d ^ a, 8)
    c += d
    b = _turn(b ^ c, 7)
    return a, b, c, d


@triton.jit
def _word(source, at):
    return tl.load(source + at).to(tl.uint32, bitcast=True)


@triton.jit
def _keystream(key, nonces, block, lane, counter, ROUNDS: tl.constexpr, N: tl.constexpr):
    """The keystream of `N` lanes of one KV block, (N, 16) words: RFC 8439, section 2.3."""
    zero = tl.zeros([N], tl.uint32)
    c0, c1, c2, c3 = zero + 0x61707865, zero + 0x3320646E, zero + 0x79622D32, zero + 0x6B206574
    k0, k1, k2, k3 = (
        zero + _word(key, 0), zero + _word(key, 1), zero + _word(key, 2), zero + _word(key, 3)
    )  # fmt: skip
    k4, k5, k6, k7 = (
        zero + _word(key, 4), zero + _word(key, 5), zero + _word(key, 6), zero + _word(key, 7)
    )  # fmt: skip
    n0 = lane.to(tl.uint32) + counter.to(tl.uint32)
    n1 = zero + _word(nonces, block * 3)
    n2, n3 = zero + _word(nonces, block * 3 + 1), zero + _word(nonces, block * 3 + 2)
    x0, x1, x2, x3, x4, x5, x6, x7 = c0, c1, c2, c3, k0, k1, k2, k3
    x8, x9, xa, xb, xc, xd, xe, xf = k4, k5, k6, k7, n0, n1, n2, n3
    for _ in range(ROUNDS // 2):
        x0, x4, x8, xc = _quarter(x0, x4, x8, xc)
        x1, x5, x9, xd = _quarter(x1, x5, x9, xd)
        x2, x6, xa, xe = _quarter(x2, x6, xa, xe)
        x3, x7, xb, xf = _quarter(x3, x7, xb, xf)
        x0, x5, xa, xf = _quarter(x0, x5, xa, xf)
        x1, x6, xb, xc = _quarter(x1, x6, xb, xc)
        x2, x7, x8, xd = _quarter(x2, x7, x8, xd)
        x3, x4, x9, xe = _quarter(x3, x4, x9, xe)
    # A word's number has four bits; each join adds the next lower one.
    evens = tl.join(
        tl.join(tl.join(x0 + c0, x8 + k4), tl.join(x4 + k0, xc + n0)),
        tl.join(tl.join(x2 + c2, xa + k6), tl.join(x6 + k2, xe + n2)),
    )
    odds = tl.join(
        tl.join(tl.join(x1 + c1, x9 + k5), tl.join(x5 + k1, xd + n1)),
        tl.join(tl.join(x3 + c3, xb + k7), tl.join(x7 + k3, xf + n3)),
    )
    return tl.reshape(tl.join(evens, odds), [N, 16])


@triton.jit
def _chacha(
    data, key, nonces, n_words, start, ROUNDS: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """XOR `N` lanes of 16 words of one KV block with its keystream, in place."""
    block, lane = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
    stream = _keystream(key, nonces, block, lane, tl.load(start), ROUNDS, N)
    # Neighbouring threads take neighbouring words: a lane to a thread would touch 16 times as
    # many sectors of memory.
    at = lane[:, None] * 16 + tl.arange(0, 16)[None, :]
    row = data + block.to(tl.int64) * n_words
    seen = tl.load(row + at, mask=at < n_words, other=0).to(tl.uint32, bitcast=True)
    tl.store(row + at, (seen ^ stream).to(tl.int32, bitcast=True), mask=at < n_words)


def chacha_xor(
    data: torch.Tensor,
    key: torch.Tensor,
    nonces: torch.Tensor,
    *,
    rounds: int = 20,
    counter: int = 0,
) -> None:
    """XOR blocks with ChaCha keystreams, in place: obfuscates and deobfuscates.

    `data` (n, words) and `key` (8) are int32, `nonces` (n, 3) too: one 12-byte stamp of a
    `Stream` for each block (`nonce_words`), never the same for two contents. `counter` is the
    64-byte step that `data` begins at. 20 rounds are RFC 8439's; 12 and 8 are quicker, with a
    smaller margin. Raises `CloakError` for other rounds, shapes and counters.
    """
    if rounds not in (8, 12, 20):
        raise CloakError(f"chacha has {rounds} rounds", "use 8, 12 or 20")
    words = data.shape[-1]
    fits = data.dim() == 2 and data.is_contiguous() and nonces.shape == (len(data), 3)
    ints = all(one.dtype is torch.int32 for one in (data, key, nonces))
    if not (fits and ints and key.shape == (8,) and nonces.is_contiguous()):
        raise CloakError(
            f"data of {tuple(data.shape)} and nonces of {tuple(nonces.shape)} do not fit",
            "pass contiguous int32 words, (n, words) and (n, 3)",
        )
    steps = triton.cdiv(words, 16)
    # The counter has 32 bits: beyond them the keystream would begin again.
    if not 0 <= counter <= 2**32 - steps:
        raise CloakError(f"a chacha counter of {counter} is too far", "split the block")
    if words and len(data):
        # Triton would take a counter of 1 for a constant, and one above 2**31 for 64 bits.
        start = torch.tensor([counter], dtype=torch.int64, device=data.device)
        grid = (len(data), triton.cdiv(steps, LANES))
        _chacha[grid](data, key, nonces, words, start, ROUNDS=rounds, N=LANES, num_warps=2)


def key_words(key: bytes) -> list[int]:
    """32 bytes as eight int32 words, as `chacha_xor` wants them."""
    return list(struct.unpack("<8i", key))


def nonce_words(stamp: bytes) -> list[int]:
    """12 bytes as three int32 words."""
    return list(struct.unpack("<3i", stamp))
