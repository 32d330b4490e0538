"""How fast blocks are sealed, opened and obfuscated, beside the bare ciphers in the same run."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safekv.bench.stats import paired_ratio, rates
from safekv.cloak.stream import Stream
from safekv.errors import SafeKVError
from safekv.types import BlockId, TenantId
from safekv.vault import BlockContext, Vault
from safekv.vault.cipher import Cipher as VaultCipher

KIB: Final = 1024
TENANT: Final = TenantId("bench")
BLOCK: Final = BlockId(1)
CONTEXT: Final = BlockContext(
    model="sha256:" + "0" * 64,
    tokenizer="sha256:" + "1" * 64,
    layers=(0, 32),
    kv_heads=8,
    block_hash=bytes(32),
    dtype="bfloat16",
    layout="layer,kv,token,head,dim",
).encode()


class Report(Protocol):
    """Told how many steps are done, and of how many."""

    def __call__(self, done: int, total: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class CloakPlan:
    """What is measured. `budget_bytes` per operation and size decides how many rounds."""

    sizes_bytes: tuple[int, ...] = tuple(size * KIB for size in (8, 64, 256, 1024, 4096, 32768))
    budget_bytes: int = 1 << 29
    rounds: tuple[int, int] = (15, 600)
    seed: int = 0

    def rounds_at(self, size_bytes: int) -> int:
        fewest, most = self.rounds
        return max(fewest, min(most, self.budget_bytes // size_bytes))


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that is timed. `peer` names the operation its speed is divided by."""

    what: str
    backend: str
    call: Callable[[], object] = field(repr=False)
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: `what` has at least `least` of its peer's speed from `from_bytes` on."""

    what: str
    least: float
    from_bytes: int


BARS: Final = (
    Bar("vault_seal", 0.9, 256 * KIB),
    Bar("vault_open", 0.9, 256 * KIB),
    Bar("stream_obfuscate", 0.9, 256 * KIB),
    Bar("stream_deobfuscate", 0.9, 256 * KIB),
)


def operations(size_bytes: int) -> list[Operation]:
    """All operations on one payload of random bytes, each with buffers that are warm alike."""
    payload = memoryview(bytearray(os.urandom(size_bytes)))
    result = memoryview(bytearray(size_bytes))
    return [
        Operation("memcpy", "memoryview", lambda: _copy(payload, result)),
        *_sealing(payload, result),
        *_streaming(payload, result),
    ]


def _copy(source: memoryview, target: memoryview) -> None:
    target[:] = source


def _sealing(payload: memoryview, result: memoryview) -> Iterator[Operation]:
    """AES-256-GCM bare, with one key schedule and one nonce for all calls, and the vault."""
    # The bare cipher repeats its nonce: nothing could be faster, and nothing less safe.
    raw, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    raw_sealed = memoryview(bytearray(len(payload) + 16))
    sealed = memoryview(bytearray(Vault.sealed_bytes(len(payload))))
    vault = Vault.ephemeral(VaultCipher.AES_256_GCM)
    raw.encrypt_into(nonce, payload, CONTEXT, raw_sealed)
    vault.seal_into(TENANT, CONTEXT, payload, sealed)
    vault.open_into(TENANT, CONTEXT, sealed, result)
    _require_equal("the vault", payload, result)
    yield Operation(
        "aes_256_gcm_encrypt",
        "cryptography",
        lambda: raw.encrypt_into(nonce, payload, CONTEXT, raw_sealed),
    )
    yield Operation(
        "aes_256_gcm_decrypt",
        "cryptography",
        lambda: raw.decrypt_into(nonce, raw_sealed, CONTEXT, result),
    )
    yield Operation(
        "vault_seal",
        "safekv",
        lambda: vault.seal_into(TENANT, CONTEXT, payload, sealed),
        "aes_256_gcm_encrypt",
    )
    yield Operation(
        "vault_open",
        "safekv",
        lambda: vault.open_into(TENANT, CONTEXT, sealed, result),
        "aes_256_gcm_decrypt",
    )


def _streaming(payload: memoryview, result: memoryview) -> Iterator[Operation]:
    """AES-256-CTR bare, going on with one keystream, and the stream profile."""
    raw = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
    stored = memoryview(bytearray(len(payload)))
    stream = Stream()
    stream.obfuscate_into(BLOCK, payload, stored)
    stream.deobfuscate_into(BLOCK, stored, result)
    _require_equal("the stream", payload, result)
    yield Operation("aes_256_ctr", "cryptography", lambda: raw.update_into(payload, stored))
    yield Operation(
        "stream_obfuscate",
        "safekv",
        lambda: stream.obfuscate_into(BLOCK, payload, stored),
        "aes_256_ctr",
    )
    yield Operation(
        "stream_deobfuscate",
        "safekv",
        lambda: stream.deobfuscate_into(BLOCK, stored, result),
        "aes_256_ctr",
    )


def _require_equal(what: str, payload: memoryview, result: memoryview) -> None:
    if payload != result:
        raise SafeKVError(f"{what} did not give back what it was given")


def run(plan: CloakPlan, report: Report) -> dict[str, Any]:
    """Measure everything, interleaved; rates in GB/s (1e9), ratios paired by round."""
    rows: list[dict[str, Any]] = []
    for done, size_bytes in enumerate(plan.sizes_bytes):
        report(done, len(plan.sizes_bytes))
        rows += _measured(operations(size_bytes), size_bytes, plan)
    return {
        "plan": asdict(plan),
        "rows": rows,
        "bars": [_judged(bar, rows) for bar in BARS],
        "missing": _missing(),
    }


def _measured(them: Sequence[Operation], size_bytes: int, plan: CloakPlan) -> list[dict[str, Any]]:
    times_s: dict[str, list[float]] = {one.what: [] for one in them}
    # Shuffled in each round, so that nobody always finds the caches as one other left them.
    order = random.Random(plan.seed)  # noqa: S311 - a schedule, not a secret
    for _ in range(plan.rounds_at(size_bytes)):
        for one in order.sample(them, len(them)):
            start = perf_counter()
            one.call()
            times_s[one.what].append(perf_counter() - start)
    return [_row(one, times_s, size_bytes) for one in them]


def _row(one: Operation, times_s: dict[str, list[float]], size_bytes: int) -> dict[str, Any]:
    own_s = times_s[one.what]
    row: dict[str, Any] = {
        "what": one.what,
        "backend": one.backend,
        "dtype": "bytes",
        "block_size": None,
        "head_dim": None,
        **rates(own_s, size_bytes),
    }
    if one.peer is not None:
        # Speed over speed: above 1, ours is the faster one.
        row |= {"peer": one.peer, "ratio": asdict(paired_ratio(times_s[one.peer], own_s))}
    return row


def _judged(bar: Bar, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the bar is met at every size it speaks of, and the worst ratio there."""
    ratios = [
        row["ratio"]["value"]
        for row in rows
        if row["what"] == bar.what and row["size_bytes"] >= bar.from_bytes
    ]
    worst = min(ratios, default=None)
    return {**asdict(bar), "worst_ratio": worst, "met": worst is not None and worst >= bar.least}


def _missing() -> list[str]:
    """What should stand beside ours and does not."""
    there = importlib.util.find_spec("lmcache") is not None
    return [f"LMCache's aesgcm serde: {'there is no driver for it' if there else 'not installed'}"]
