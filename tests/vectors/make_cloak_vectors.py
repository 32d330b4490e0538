"""Test vectors for KV-Cloak, from the formulas alone: standard library only, no safekv, no NumPy.

    python tests/vectors/make_cloak_vectors.py > tests/vectors/cloak.json

Written against docs/cloak.md, not against the code, so that an error in the code shows. Lists of
rows throughout; K' = S·P·(K·M + A).
"""

from __future__ import annotations

import cmath
import hashlib
import hmac
import json
import math
from typing import Any

Rows = list[list[float]]


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, 32 bytes: one step is enough."""
    return hmac.new(key, info + b"\1", hashlib.sha256).digest()


class Draw:
    """Numbers from SHAKE-256 of a seed derived for one purpose and place."""

    def __init__(self, key: bytes, place: str, block: bytes = b"") -> None:
        self.seed = hkdf_expand(key, b"safekv cloak 1|" + place.encode() + block)

    def words(self, n: int) -> list[int]:
        stream = hashlib.shake_256(self.seed).digest(8 * n)
        return [int.from_bytes(stream[8 * at : 8 * at + 8], "big") for at in range(n)]

    def uniform(self, n: int) -> list[float]:
        return [((word >> 11) + 1) / 2**53 for word in self.words(n)]

    def gaussian(self, rows: int, columns: int) -> Rows:
        n = rows * columns
        u = self.uniform(2 * n)
        flat = [
            math.sqrt(-2 * math.log(u[at])) * math.cos(2 * math.pi * u[n + at]) for at in range(n)
        ]
        return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def transposed(a: Rows) -> Rows:
    return [list(column) for column in zip(*a, strict=True)]


def product(a: Rows, b: Rows) -> Rows:
    columns = transposed(b)
    return [[dot(row, column) for column in columns] for row in a]


def gram_schmidt(a: Rows) -> Rows:
    """The Q of Q·R with a positive diagonal of R: columns made orthonormal, twice for accuracy."""
    done: Rows = []
    for column in transposed(a):
        for _ in range(2):
            for other in done:
                share = dot(column, other)
                column = [x - share * y for x, y in zip(column, other, strict=True)]
        length = math.sqrt(dot(column, column))
        done.append([x / length for x in column])
    return transposed(done)


def bounded(draw: Draw, size: int, condition: float) -> Rows:
    normal = draw.gaussian(2 * size + 1, size)
    left = gram_schmidt(normal[:size])
    if condition == 1:
        return left
    right = gram_schmidt(normal[size : 2 * size])
    spread = [condition ** (math.tanh(x) / 2) for x in normal[2 * size]]
    return product([[x * s for x, s in zip(row, spread, strict=True)] for row in left], right)


def planes(draw: Draw, size: int, scale: float) -> Rows:
    half = size // 2
    u = draw.uniform(size)
    out = [[0.0] * size for _ in range(size)]
    for at in range(half):
        factor = scale ** (2 * u[at] - 1) * cmath.exp(2j * math.pi * u[half + at])
        out[at][at] = out[at + half][at + half] = factor.real
        out[at][at + half], out[at + half][at] = factor.imag, -factor.imag
    return out


def vector(case: dict[str, Any]) -> dict[str, Any]:
    """One block of one head: its obfuscated form, and the secrets it was made with."""
    key = bytes.fromhex(case["secret"])
    b, d, layer, head, part = (
        case[name] for name in ("block_tokens", "head_dim", "layer", "head", "part")
    )
    where = f"{case['version']}|{layer}|{part}|{head}|"
    mix = bounded(Draw(key, f"mix|{where}"), b, case["condition"])
    feature_draw = Draw(key, f"feature|{where}")
    if part == "k" and case["rope"]:
        feature = planes(feature_draw, d, case["scale"])
    else:
        feature = bounded(feature_draw, d, case["scale"] ** 2)
    threshold = math.sqrt(2) * case["scale"] * case["limit"]
    beacon = [(3 + u) * threshold for u in Draw(key, f"beacon|{where}").uniform(d)]
    words = Draw(
        key, f"block|{case['version']}|{layer}||None|", bytes.fromhex(case["block"])
    ).words(b + 1)
    order = sorted(range(b), key=lambda at: words[at])
    row = words[b] % b
    rows = [
        [math.sin(1 + at * d + column) * case["limit"] for column in range(d)] for at in range(b)
    ]
    mixed = product(rows, feature)
    mixed[row] = [x + a for x, a in zip(mixed[row], beacon, strict=True)]
    stored = product(mix, [mixed[at] for at in order])
    return {**case, "rows": rows, "feature": feature, "order": order, "row": row, "stored": stored}


BASE = {
    "secret": bytes(range(32)).hex(),
    "version": 1,
    "block_tokens": 4,
    "head_dim": 6,
    "layer": 3,
    "head": 1,
    "part": "k",
    "rope": True,
    "scale": 1.0,
    "condition": 1.0,
    "limit": 2.0,
    "block": b"block 17".hex(),
}
CASES = [
    BASE,
    {**BASE, "part": "v"},
    {**BASE, "version": 2, "layer": 0, "head": 0},
    {**BASE, "scale": 1.5, "condition": 10.0},
    {**BASE, "part": "v", "scale": 1.5, "condition": 100.0, "block_tokens": 7},
    {**BASE, "rope": False, "head_dim": 5, "block": b"another".hex()},
]

if __name__ == "__main__":
    print(json.dumps([vector(case) for case in CASES]))
