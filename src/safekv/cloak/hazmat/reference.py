"""KV-Cloak in NumPy float64: the truth the other backends are compared with.

arXiv 2508.09442, in the form of its released code: K' = S·P·(K·M + A). Differences, all in what
was found by threshold there: P and the row of the beacon come from a PRF of key and block, so
rows can be put back; keys come from a CSPRNG; inputs above the limit are refused.

**It is broken by known plaintext**: S and P leave the row space of a block as it is, so whoever
knows the start of a prompt (a chat template) solves for M and then reads everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.keys import CloakKey, Keystream

Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadSecrets:
    """What one layer's keys, or values, are mixed with: one of each per KV head.

    `mix` is S (heads, b, b), `feature` is M (heads, d, d), `beacon` the row a (heads, d).
    """

    mix: Matrix = field(repr=False)
    unmix: Matrix = field(repr=False)
    feature: Matrix = field(repr=False)
    unfeature: Matrix = field(repr=False)
    beacon: Matrix = field(repr=False)


@dataclass(frozen=True, slots=True)
class BlockSecrets:
    """What is drawn for each block: the order of its rows, and the row that carries the beacon.

    Common to all heads of a layer, and to its keys and values: attention does not care in which
    order they come, as long as it is one order.
    """

    order: NDArray[np.int64] = field(repr=False)
    beacon_row: int = field(repr=False)


def draw_head_secrets(key: CloakKey, config: CloakConfig, layer: int, part: Part) -> HeadSecrets:
    """The secrets of one layer's keys or values. O(heads·(b³ + d³)), once per layer."""
    heads = range(config.kv_heads)
    mixes = [
        bounded(key.stream("mix", layer, part, head), config.block_tokens, config.condition)
        for head in heads
    ]
    mix, unmix = (np.stack([pair[side] for pair in mixes]) for side in (0, 1))
    feature, unfeature = draw_feature(key, config, layer, part)
    beacon = np.stack([_beacon(key, config, layer, part, head) for head in heads])
    return HeadSecrets(mix, unmix, feature, unfeature, beacon)


def draw_feature(
    key: CloakKey, config: CloakConfig, layer: int, part: Part
) -> tuple[Matrix, Matrix]:
    """M and its inverse for each KV head, both (heads, d, d): what is fused into the weights."""
    planes = config.rope and part is Part.KEYS
    draw = plane_rotations if planes else bounded
    # Scales within [1/r, r] are a condition number of at most r².
    spread = config.scale if planes else config.scale**2
    pairs = [
        draw(key.stream("feature", layer, part, head), config.head_dim, spread)
        for head in range(config.kv_heads)
    ]
    return np.stack([m for m, _ in pairs]), np.stack([inverse for _, inverse in pairs])


def draw_block_secrets(
    key: CloakKey, config: CloakConfig, layer: int, block: bytes
) -> BlockSecrets:
    """P as an order of rows, and the beacon's row. The same for one key and block, always."""
    words = np.frombuffer(
        key.stream("block", layer, block=block).take(8 * (config.block_tokens + 1)), ">u8"
    )
    order = np.argsort(words[:-1], kind="stable")
    # 2**64 is no multiple of most block sizes; the bias is below 2**-50.
    return BlockSecrets(order, int(words[-1] % np.uint64(config.block_tokens)))


def padding(
    key: CloakKey, config: CloakConfig, layer: int, part: Part, block: bytes, rows: int
) -> Matrix:
    """Rows that fill a partial block, (heads, rows, d): noise, so that its rank stays full."""
    drawn = [
        uniform(key.stream("padding", layer, part, head, block), rows * config.head_dim)
        for head in range(config.kv_heads)
    ]
    shape = (config.kv_heads, rows, config.head_dim)
    return (2 * np.stack(drawn).reshape(shape) - 1) * config.limit


def obfuscate(rows: Matrix, heads: HeadSecrets, block: BlockSecrets, *, fused: bool) -> Matrix:
    """`rows` (heads, b, d) as S·P·(rows·M + A). With `fused`, M is in the weights already."""
    mixed = rows.copy() if fused else rows @ heads.feature
    mixed[:, block.beacon_row] += heads.beacon
    return heads.mix @ mixed[:, block.order]


def deobfuscate(stored: Matrix, heads: HeadSecrets, block: BlockSecrets, *, fused: bool) -> Matrix:
    """The inverse of `obfuscate`, rows in their first order."""
    mixed = np.empty_like(stored)
    mixed[:, block.order] = heads.unmix @ stored
    mixed[:, block.beacon_row] -= heads.beacon
    return mixed if fused else mixed @ heads.unfeature


def uniform(stream: Keystream, n: int) -> Matrix:
    """`n` numbers from (0, 1], from 53 bits each."""
    words = np.frombuffer(stream.take(8 * n), ">u8") >> np.uint64(11)
    return (words.astype(np.float64) + 1) * 2.0**-53


def gaussian(stream: Keystream, rows: int, columns: int) -> Matrix:
    """Standard normal numbers by Box and Muller's method: radius, then angle, for each."""
    drawn = uniform(stream, 2 * rows * columns).reshape(2, rows, columns)
    radius: Matrix = np.sqrt(-2 * np.log(drawn[0]))
    return np.asarray(radius * np.cos(2 * np.pi * drawn[1]))


def orthogonal(normal: Matrix) -> Matrix:
    """The orthogonal factor of `normal` = Q·R with a positive diagonal of R: Haar-distributed."""
    q, r = np.linalg.qr(normal)
    return np.asarray(q * np.sign(np.diagonal(r)))


def bounded(stream: Keystream, size: int, condition: float) -> tuple[Matrix, Matrix]:
    """A matrix with a condition number of at most `condition`, and its inverse.

    With 1 it is orthogonal; else U·diag(s)·V with s log-uniform in [1/√condition, √condition].
    """
    normal = gaussian(stream, 2 * size + 1, size)
    left = orthogonal(normal[:size])
    if condition == 1:
        return left, left.T.copy()
    right = orthogonal(normal[size : 2 * size])
    # tanh brings normal numbers into (-1, 1).
    spread = condition ** (np.tanh(normal[2 * size]) / 2)
    return (left * spread) @ right, (right.T / spread) @ left.T


def plane_rotations(stream: Keystream, size: int, scale: float) -> tuple[Matrix, Matrix]:
    """Rotations, with scales in [1/scale, scale], of the planes (i, i + size/2), and the inverse.

    They commute with rotary positions in the half-split layout: both multiply plane i by a
    complex number.
    """
    half = size // 2
    drawn = uniform(stream, 2 * half).reshape(2, half)
    factors = scale ** (2 * drawn[0] - 1) * np.exp(2j * np.pi * drawn[1])
    return _planes(factors), _planes(1 / factors)


def _planes(factors: NDArray[np.complex128]) -> Matrix:
    real, imaginary = np.diag(factors.real), np.diag(factors.imag)
    return np.block([[real, imaginary], [-imaginary, real]])


def _beacon(key: CloakKey, config: CloakConfig, layer: int, part: Part, head: int) -> Matrix:
    if not config.beacon:
        return np.zeros(config.head_dim)
    drawn = uniform(key.stream("beacon", layer, part, head), config.head_dim)
    return (3 + drawn) * config.threshold
