"""Protections as an attacker meets them: what lies in memory, or on disk, instead of plain KV."""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from safekv.attack.capture import Captured
from safekv.audit.stolen.storage import FLOATS, Packed, Stored, pack
from safekv.cloak import Cloak, CloakConfig, CloakKey, Part, Stream
from safekv.errors import ConfigError, SafeKVError
from safekv.types import BlockId, TenantId
from safekv.vault import BlockContext, Vault
from safekv.vault.seal import HEADER_BYTES

BLOCK_TOKENS: Final = 16
NOISE: Final = 0.1
"""Standard deviation of the noise baseline, relative to a layer's root mean square."""

Limits = Mapping[tuple[int, Part], float]


class Protection(ABC):
    """One instance of a protection, with keys of its own.

    `hide` gives what an attacker reads from the pages of one prompt's cache, stored as `kind`.
    `swapped` says how many of the blocks the defence accepts after two were exchanged.
    """

    name: str
    keyed = False

    def hide(self, plain: Captured, kind: Stored, prompt: int) -> Captured:
        """The capture (never the plain one's own tensors), layer by layer."""
        keys, values = {}, {}
        for layer in plain.layers:
            keys[layer] = self.stored(plain.keys[layer].float(), layer, Part.KEYS, kind, prompt)
            values[layer] = self.stored(
                plain.values[layer].float(), layer, Part.VALUES, kind, prompt
            )
        return replace(plain, keys=keys, values=values)

    @abstractmethod
    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        """What the bits of one tensor (heads, tokens, dim) read as."""

    def accepts_swap(self) -> bool:
        """Whether two exchanged blocks go unnoticed. Nothing checks, unless said otherwise."""
        return True


class Plain(Protection):
    """No protection: the numbers as they are stored."""

    name = "none"

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        return pack(states, kind).unpack()


class Quantised(Protection):
    """Four-bit numbers, whatever the dtype beside it: thought by some to hide something."""

    name = "quantised"

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        first = states.to(FLOATS[kind]).float() if kind in FLOATS else states
        return pack(first, Stored.INT4).unpack()


class Noise(Protection):
    """Gaussian noise on every number, as differentially private baselines add it."""

    name = "noise"

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        scale = NOISE * float(states.pow(2).mean().sqrt())
        return pack(states + scale * torch.randn(states.shape), kind).unpack()


class Permute(Protection):
    """KV-Shield's idea (arXiv 2409.04040): a secret order of channels per layer, part and head."""

    name = "permute"
    keyed = True

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(secrets.randbits(63))
        self._orders: dict[tuple[int, Part], torch.Tensor] = {}

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        heads, _, dim = states.shape
        order = self._orders.get((layer, part))
        if order is None:
            order = torch.rand(heads, dim, generator=self._generator).argsort(-1)
            self._orders[layer, part] = order
        shuffled = states.gather(-1, order[:, None].expand_as(states))
        return pack(shuffled, kind).unpack()


class Cloaked(Protection):
    """KV-Cloak's matrices in the released default: S orthogonal, M of rotations, P not undone.

    `limits` bound each layer's keys and values; they are the operator's calibration.
    """

    name = "cloak"
    keyed = True

    def __init__(self, heads: int, head_dim: int, limits: Limits, *, rope: bool) -> None:
        self.key = CloakKey.generate()
        self._cloaks = {
            place: Cloak(
                self.key,
                CloakConfig(
                    block_tokens=BLOCK_TOKENS,
                    head_dim=head_dim,
                    kv_heads=heads,
                    limit=limit,
                    rope=rope,
                ),
                fused=False,
            )
            for place, limit in limits.items()
        }

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        dtype = FLOATS.get(kind, torch.float32)
        cloak = self._cloaks[layer, part]
        mixed = [
            torch.as_tensor(cloak.obfuscate(layer, part, _name(prompt, n), block.to(dtype))).float()
            for n, block in enumerate(torch.split(states, BLOCK_TOKENS, dim=1))
        ]
        return pack(torch.cat(mixed, dim=1), kind).unpack()


class Streamed(Protection):
    """The stream: the stored bits of each block under a keystream."""

    name = "stream"
    keyed = True

    def __init__(self) -> None:
        self._stream = Stream()

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        return _read(states, kind, self._obfuscate)

    def _obfuscate(self, bits: torch.Tensor) -> None:
        # Versions are counted inside, so one block's name serves for all.
        self._stream.obfuscate_into(BlockId(0), bits, bits)


class Sealed(Protection):
    """The vault: what the payload of a sealed block reads as, authentication tag and all left out.

    The tag is what refuses a block that was changed or exchanged: see `accepts_swap`.
    """

    name = "vault"
    keyed = True

    def __init__(self) -> None:
        self._vault = Vault.ephemeral()
        self._tenant = TenantId("victim")
        self._count = 0

    def stored(
        self, states: torch.Tensor, layer: int, part: Part, kind: Stored, prompt: int
    ) -> torch.Tensor:
        return _read(states, kind, self._seal)

    def _seal(self, bits: torch.Tensor) -> None:
        raw = bits.view(torch.uint8)
        sealed, _ = self.seal(raw.numpy().tobytes())
        payload = torch.frombuffer(sealed, dtype=torch.uint8)[HEADER_BYTES:][: raw.numel()]
        raw.view(-1).copy_(payload)

    def seal(self, payload: bytes) -> tuple[bytearray, int]:
        """A sealed object, and the number that stands for its place."""
        self._count += 1
        out = bytearray(Vault.sealed_bytes(len(payload)))
        self._vault.seal_into(self._tenant, _context(self._count), payload, memoryview(out))
        return out, self._count

    def opens(self, placed: tuple[bytearray, int]) -> bool:
        """Whether a sealed object opens in a place."""
        sealed, place = placed
        room = memoryview(bytearray(len(sealed)))
        try:
            self._vault.open_into(self._tenant, _context(place), sealed, room)
        except SafeKVError:
            return False
        return True

    def accepts_swap(self) -> bool:
        """Whether either of two exchanged sealed blocks opens. One that does is a bug of ours."""
        payload = bytes(1024)
        (first, one), (second, two) = self.seal(payload), self.seal(payload)
        return self.opens((second, one)) or self.opens((first, two))


def _context(count: int) -> bytes:
    return BlockContext(
        model="audit",
        tokenizer="audit",
        layers=(0, 1),
        kv_heads=1,
        block_hash=count.to_bytes(16),
        dtype="bits",
        layout="bits",
    ).encode()


def _read(states: torch.Tensor, kind: Stored, change: Any) -> torch.Tensor:
    """What the numbers of each block read as once `change` has overwritten their bits."""
    parts = []
    for block in torch.split(states, BLOCK_TOKENS, dim=1):
        packed: Packed = pack(block, kind)
        parts.append(packed.with_bits(change).unpack())
    return torch.cat(parts, dim=1)


def _name(prompt: int, block: int) -> bytes:
    return prompt.to_bytes(8) + block.to_bytes(8)


PROTECTIONS: Final = ("none", "quantised", "noise", "permute", "cloak", "stream", "vault")


def protect(
    name: str, heads: int, head_dim: int, limits: Limits, *, rope: bool = True
) -> Protection:
    """A new instance of the named protection. Raises `ConfigError` for an unknown name."""
    plain: dict[str, type[Protection]] = {
        kind.name: kind for kind in (Plain, Quantised, Noise, Permute, Streamed, Sealed)
    }
    if name in plain:
        return plain[name]()
    if name == "cloak":
        return Cloaked(heads, head_dim, limits, rope=rope)
    raise ConfigError(f"protection {name!r} is not known", f"use {', '.join(PROTECTIONS)}")


def limits_of(captures: list[Captured]) -> Limits:
    """Twice the largest magnitude seen, per layer and part: the released calibration."""
    found: dict[tuple[int, Part], float] = {}
    for captured in captures:
        for part, tensors in ((Part.KEYS, captured.keys), (Part.VALUES, captured.values)):
            for layer, tensor in tensors.items():
                largest = 2 * float(tensor.abs().max())
                found[layer, part] = max(found.get((layer, part), 0.0), largest)
    assert all(math.isfinite(limit) for limit in found.values()), "captures are finite"
    return found
