"""Which authenticated cipher seals: the one the processor has instructions for."""

from __future__ import annotations

import platform
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class Cipher(IntEnum):
    """The number each cipher has in a sealed object's header."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


Aead: TypeAlias = AESGCM | ChaCha20Poly1305


def aead(cipher: Cipher, key: bytes) -> Aead:
    """The cipher object for one 32-byte key. About 2 µs: the key schedule."""
    return AESGCM(key) if cipher is Cipher.AES_256_GCM else ChaCha20Poly1305(key)


def preferred_cipher() -> Cipher:
    """AES-256-GCM where the processor computes AES itself, otherwise ChaCha20-Poly1305.

    Where the system does not say (not Linux), 64-bit x86 and ARM are taken to have it.
    """
    return Cipher.AES_256_GCM if _has_aes() else Cipher.CHACHA20_POLY1305


def _has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.machine().lower() in {"x86_64", "amd64", "arm64", "aarch64"}
    # "flags" on x86, "Features" on ARM.
    return any("aes" in line.split() for line in lines if line.startswith(("flags", "Features")))
