"""Master keys: they wrap data keys and never touch a payload."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from safekv.errors import ConfigError
from safekv.privatefile import PrivateFile, Stamp, home
from safekv.vault.cipher import KEY_BYTES, Cipher
from safekv.vault.seal import HEADER_BYTES, OVERHEAD_BYTES, DataKey, could_not_open

VARIABLE: Final = "SAFEKV_VAULT_MASTER_KEY"
FILE_VERSION: Final = 1
KEY_ID_BYTES: Final = 8
_REMEDY: Final = "name another with --master"
_DAMAGED: Final = "restore it from a backup: without it nothing sealed under it can be opened"


class Master(Protocol):
    """Wraps and unwraps data keys: the whole interface that a key management service needs.

    `unwrap` raises `VaultError` unless `wrapped` came from `wrap` of this key with the same
    `context`. Neither is called per block: once per data key and process.
    """

    @property
    def key_id(self) -> str:
        """Names the key in the key file. Tells nothing about it."""
        ...

    def wrap(self, data_key: bytes, context: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes: ...


class Masters(Protocol):
    """All master keys of a deployment: one wraps, all unwrap."""

    def current(self) -> Master:
        """The key that wraps from now on, up to date with what other processes changed."""
        ...

    def find(self, key_id: str) -> Master:
        """The key of that id. Raises `VaultError` if it is not among them."""
        ...


class LocalMaster:
    """A master key held in this process."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ConfigError(
                f"a master key has {len(secret)} bytes, not {KEY_BYTES}",
                "make one with `safekv vault keygen`",
            )
        self._secret = secret
        # Always AES: a wrapped key is 32 bytes, so the processor does not matter.
        self._key = DataKey(secret, 0, b"safekv vault master", Cipher.AES_256_GCM)
        derived = HKDFExpand(SHA256(), KEY_ID_BYTES, b"safekv vault master key id")
        self.key_id = derived.derive(secret).hex()

    def __repr__(self) -> str:
        return f"LocalMaster(key_id={self.key_id!r}, secret=<redacted>)"

    @classmethod
    def generate(cls) -> LocalMaster:
        """A new random key, from the operating system."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def decode(cls, text: str) -> LocalMaster:
        """The key that `encode` wrote. Raises `ConfigError`, without quoting it."""
        try:
            return cls(base64.b64decode(text, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError):
            raise ConfigError(
                "a master key is not valid base64", "make one with `safekv vault keygen`"
            ) from None

    def encode(self) -> str:
        """The secret itself, in base64: for a key file or a secret store."""
        return base64.b64encode(self._secret, altchars=b"-_").decode()

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        out = bytearray(len(data_key) + OVERHEAD_BYTES)
        self._key.session().seal_into(context, data_key, memoryview(out))
        return bytes(out)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        out = bytearray(max(0, len(wrapped) - OVERHEAD_BYTES))
        header = wrapped[:HEADER_BYTES]
        opener = self._key.opener(header)
        opener.open_into(header, context, memoryview(wrapped), memoryview(out))
        return bytes(out)


class FixedMasters:
    """Masters that do not change while the process lives: from the environment, or a KMS."""

    def __init__(self, current: Master, *older: Master) -> None:
        self._current = current
        self._by_id = {master.key_id: master for master in (current, *older)}

    def current(self) -> Master:
        return self._current

    def find(self, key_id: str) -> Master:
        if key_id not in self._by_id:
            raise could_not_open()
        return self._by_id[key_id]


class MasterFile:
    """Master keys in a private file, the current one last; followed while it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PrivateFile(path, _REMEDY)
        # The mutable state: what was last read, and the stamp of the file it was read from.
        self._stamp: Stamp | None = None
        self._keys: tuple[LocalMaster, ...] = ()

    def __repr__(self) -> str:
        return f"MasterFile({str(self.path)!r})"

    def create(self) -> LocalMaster:
        """Write a new file with a new key. Raises `ConfigError` if there is a file already."""
        with self._file.locked():
            if self.path.exists():
                raise ConfigError(
                    f"key file {self.path} exists: without it nothing sealed can be opened",
                    "keep it; `safekv vault rotate` replaces the key and keeps what is sealed",
                )
            master = LocalMaster.generate()
            self._write((master,))
        return master

    @contextmanager
    def replacing(self) -> Iterator[LocalMaster]:
        """Make a new current key; destroy the older ones once the caller has wrapped anew.

        If that fails all keys stay. One process at a time is inside: two rotations at once
        would destroy each other's key.
        """
        with self._file.locked():
            new = LocalMaster.generate()
            self._write((*self._read(), new))
            yield new
            self._write((new,))

    def current(self) -> LocalMaster:
        """The newest key. Raises `ConfigError` if there is none or the file is not private."""
        return self._read()[-1]

    def find(self, key_id: str) -> LocalMaster:
        for master in self._read():
            if master.key_id == key_id:
                return master
        raise could_not_open()

    def _read(self) -> tuple[LocalMaster, ...]:
        if self._stamp is None or self._stamp != self._file.stamp():
            self._stamp, self._keys = None, ()
            stamp, raw = self._file.read()
            if raw is None:
                raise ConfigError(
                    f"there is no master key in {self.path}",
                    f"make one with `safekv vault keygen`, or set {VARIABLE}",
                )
            self._keys, self._stamp = self._parse(raw), stamp
        return self._keys

    def _parse(self, raw: bytes) -> tuple[LocalMaster, ...]:
        try:
            data = json.loads(raw.decode())
            if data["version"] != FILE_VERSION or not data["keys"]:
                raise ValueError
            return tuple(LocalMaster.decode(text) for text in data["keys"])
        except (ValueError, KeyError, TypeError, RecursionError, ConfigError):
            # `from None`: the cause could quote the file.
            raise self._file.damaged(_DAMAGED) from None

    def _write(self, keys: tuple[LocalMaster, ...]) -> None:
        data = {"version": FILE_VERSION, "keys": [key.encode() for key in keys]}
        self._file.write(json.dumps(data, indent=1).encode() + b"\n")


def default_master_file(env: Mapping[str, str]) -> Path:
    """`vault-master.json` where safekv keeps its keys."""
    return home(env) / "vault-master.json"


def masters_from(env: Mapping[str, str], path: Path | None = None) -> FixedMasters | MasterFile:
    """The master keys in `path`, else in `SAFEKV_VAULT_MASTER_KEY`, else in the default file.

    The variable holds one key or several, separated by commas: the first wraps. Raises
    `ConfigError` for a malformed variable; a file is read when it is needed.
    """
    text = env.get(VARIABLE)
    if path is not None or not text:
        return MasterFile(path or default_master_file(env))
    return FixedMasters(*(LocalMaster.decode(part.strip()) for part in text.split(",")))
