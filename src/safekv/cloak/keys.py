"""The secrets of the matrix profile: a key file, and what is derived from its key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from safekv.cloak.config import Part
from safekv.errors import CloakError, ConfigError
from safekv.privatefile import PrivateFile, home

KEY_BYTES: Final = 32
FILE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CloakKey:
    """One version of a deployment's secret. What hangs on it is derived, never stored."""

    version: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ConfigError(f"a cloak key has {len(self.secret)} bytes, not {KEY_BYTES}")

    @classmethod
    def generate(cls, version: int = 1) -> CloakKey:
        """A new random key, from the operating system."""
        return cls(version, os.urandom(KEY_BYTES))

    def stream(
        self,
        purpose: str,
        layer: int,
        part: Part | None = None,
        head: int | None = None,
        block: bytes = b"",
    ) -> Keystream:
        """Pseudorandom bytes for one purpose in one place: HKDF-Expand, then SHAKE-256.

        `block` is the block's identity for what must never be the same in two blocks.
        """
        place = f"{purpose}|{self.version}|{layer}|{part.value if part else ''}|{head}|"
        info = b"safekv cloak 1|" + place.encode() + block
        return Keystream(HKDFExpand(SHA256(), KEY_BYTES, info).derive(self.secret))


class Keystream:
    """The bytes SHAKE-256 gives for one seed, from the first on."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def __repr__(self) -> str:
        return "Keystream(<redacted>)"

    def take(self, n_bytes: int) -> bytes:
        """The first `n_bytes`. The same ones every time."""
        return hashlib.shake_256(self._seed).digest(n_bytes)


class CloakKeyFile:
    """All versions of a deployment's key in one private file, the newest last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PrivateFile(path, "name another with --key")

    def create(self) -> CloakKey:
        """Write a new file with a first key. Raises `ConfigError` if there is a file already."""
        with self._file.locked():
            if self.path.exists():
                raise ConfigError(
                    f"key file {self.path} exists: models fused with it need it",
                    "keep it, or add a version with --rotate",
                )
            key = CloakKey.generate()
            self._write((key,))
        return key

    def rotate(self) -> CloakKey:
        """Add a newer version and return it. Models fused before need fusing again to use it."""
        with self._file.locked():
            keys = self._read()
            key = CloakKey.generate(keys[-1].version + 1)
            self._write((*keys, key))
        return key

    def key(self, version: int | None = None) -> CloakKey:
        """The newest key, or that of a version. Raises `ConfigError` if there is none."""
        for key in reversed(self._read()):
            if version is None or key.version == version:
                return key
        raise ConfigError(f"there is no cloak key of version {version} in {self.path}")

    def _read(self) -> tuple[CloakKey, ...]:
        raw = self._file.read()[1]
        if raw is None:
            raise ConfigError(f"there is no cloak key in {self.path}", "run `safekv cloak keygen`")
        try:
            data = json.loads(raw.decode())
            if data["version"] != FILE_VERSION or not data["keys"]:
                raise ValueError
            return tuple(
                CloakKey(int(one["version"]), base64.b64decode(one["secret"], validate=True))
                for one in data["keys"]
            )
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, ConfigError):
            # `from None`: the cause could quote the file.
            raise self._file.damaged("restore it from a backup") from None

    def _write(self, keys: tuple[CloakKey, ...]) -> None:
        entries = [
            {"version": key.version, "secret": base64.b64encode(key.secret).decode()}
            for key in keys
        ]
        data = {"version": FILE_VERSION, "keys": entries}
        self._file.write(json.dumps(data, indent=1).encode() + b"\n")


def default_cloak_file(env: Mapping[str, str]) -> Path:
    """`cloak-key.json` where safekv keeps its keys."""
    return home(env) / "cloak-key.json"


def require_block(block: bytes) -> bytes:
    """`block` if it names one. Raises `CloakError` for an empty name: blocks would share it."""
    if not block:
        raise CloakError("a block has no identity", "pass a hash or a number that is never reused")
    return block
