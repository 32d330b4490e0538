"""Blocks as sealed files: one file per block, readable with its tenant's key alone.

A file is `magic, version, lengths | tenant | sealed description | sealed KV`. The description
(place in the prompt, the file of the block before, tokens) is prompt text, so it is sealed too, and
apart from the KV, so that an index can be read quickly. File names are random.

Nothing is flushed to the medium (no fsync): after a power cut a file may be torn. Then it does
not open, which is a miss. A file gets its name when it was written in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from safekv.errors import ConfigError, SafeKVError
from safekv.types import TenantId

MAGIC: Final = b"SKVB"
VERSION: Final = 1
HEAD: Final = struct.Struct("<4sBHI")
ABOUT: Final = struct.Struct("<I16s")
NAME_BYTES: Final = 16
NO_PARENT: Final = bytes(NAME_BYTES)
UNFINISHED: Final = ".new"

Buffer = bytes | bytearray | memoryview


class Sealer(Protocol):
    """Authenticated encryption under a key of the tenant, bound to a context.

    `open_into` raises a `SafeKVError` for every cause. `forget` deletes the tenant's keys.
    """

    def seal_into(
        self, tenant: TenantId, context: bytes, payload: Buffer, out: memoryview
    ) -> int: ...

    def sealed_bytes(self, payload_bytes: int) -> int: ...

    def open_into(
        self, tenant: TenantId, context: bytes, sealed: Buffer, out: memoryview
    ) -> int: ...

    def forget(self, tenant: TenantId) -> bool: ...


@dataclass(frozen=True, slots=True)
class About:
    """What one file holds: block number `position` of a prompt, behind the one in `parent`."""

    name: bytes
    position: int
    parent: bytes
    tokens: bytes = field(repr=False)


class DamagedFile(Exception):  # noqa: N818 - a finding that never leaves this package
    """A file is missing, torn, changed, or sealed with another key: all are the same miss."""


class BlockFiles:
    """The files of one model. Any thread, but one at a time.

    `fingerprint` names the model, the tokenizer and the layout: files of others lie elsewhere and
    are never looked at. Raises `ConfigError` when the directory cannot be written.
    """

    def __init__(
        self, root: Path, fingerprint: str, sealer: Sealer, block_bytes: int, token_bytes: int
    ) -> None:
        self._root, self._at = root, root / fingerprint
        self._fingerprint = bytes.fromhex(fingerprint)
        self._sealer = sealer
        self.block_bytes = block_bytes
        self._about_bytes = sealer.sealed_bytes(ABOUT.size + token_bytes)
        self._token_bytes = token_bytes
        self._kv_bytes = sealer.sealed_bytes(block_bytes)
        self._buffer = bytearray(HEAD.size + 2**16 + self._about_bytes + self._kv_bytes)
        self._require_writable()

    def _require_writable(self) -> None:
        probe = self._at / (os.urandom(8).hex() + UNFINISHED)
        try:
            self._at.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe.touch(mode=0o600, exist_ok=False)
            probe.unlink()
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise ConfigError(
                f"tiers.disk_path is {str(self._root)!r}: {reason}",
                "name a directory that can be written",
            ) from error

    def _of(self, tenant: TenantId) -> Path:
        return self._at / hashlib.sha256(tenant.encode()).hexdigest()[:32]

    def _file(self, tenant: TenantId, name: bytes) -> Path:
        return self._of(tenant) / name.hex()

    def _context(self, part: bytes, name: bytes, place: bytes = b"") -> bytes:
        return b"safekv block 1 " + part + self._fingerprint + name + place

    def _kv_context(self, about: About) -> bytes:
        return self._context(b"kv", about.name, ABOUT.pack(about.position, about.parent))

    def write(self, tenant: TenantId, about: About, payload: Buffer) -> None:
        """Seal `payload` and store it. Raises `OSError` or `SafeKVError`; no file then."""
        owner = tenant.encode()
        out = memoryview(self._buffer)
        HEAD.pack_into(out, 0, MAGIC, VERSION, len(owner), self._about_bytes)
        at = HEAD.size + len(owner)
        out[HEAD.size : at] = owner
        described = ABOUT.pack(about.position, about.parent) + about.tokens
        at += self._sealer.seal_into(
            tenant, self._context(b"about", about.name), described, out[at:]
        )
        at += self._sealer.seal_into(tenant, self._kv_context(about), payload, out[at:])
        final = self._file(tenant, about.name)
        unfinished = final.with_suffix(UNFINISHED)
        try:
            final.parent.mkdir(exist_ok=True, mode=0o700)
            _write_all(unfinished, out[:at])
            unfinished.replace(final)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def read(self, tenant: TenantId, about: About, out: memoryview) -> None:
        """Open the block of `about` into `out`. Raises `DamagedFile`; `out` is undefined then."""
        at = HEAD.size + len(tenant.encode()) + self._about_bytes
        buffer = memoryview(self._buffer)[: at + self._kv_bytes + 1]
        try:
            with self._file(tenant, about.name).open("rb", buffering=0) as file:
                n = file.readinto(buffer)
            if n != at + self._kv_bytes:
                raise DamagedFile
            sealed = buffer[at:n]
            if self._sealer.open_into(tenant, self._kv_context(about), sealed, out) != len(out):
                raise DamagedFile
        except (OSError, SafeKVError) as error:
            raise DamagedFile from error

    def scan(self, tenant: TenantId) -> tuple[list[tuple[float, About]], int]:
        """What files of `tenant` there are, with the time each was written, and how many were
        damaged. These and unfinished ones are removed."""
        found, damaged = [], 0
        for file in self._listed(tenant):
            try:
                found.append((file.stat().st_mtime, self._describe(tenant, file)))
            except (DamagedFile, OSError):
                damaged += file.suffix != UNFINISHED
                with contextlib.suppress(OSError):
                    file.unlink()
        return found, damaged

    def _listed(self, tenant: TenantId) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from list(self._of(tenant).iterdir())

    def _describe(self, tenant: TenantId, file: Path) -> About:
        owner = tenant.encode()
        expected = HEAD.pack(MAGIC, VERSION, len(owner), self._about_bytes) + owner
        described = bytearray(ABOUT.size + self._token_bytes)
        try:
            name = bytes.fromhex(file.name)
            with file.open("rb") as opened:
                head = opened.read(len(expected))
                sealed = opened.read(self._about_bytes)
            context = self._context(b"about", name)
            n = self._sealer.open_into(tenant, context, sealed, memoryview(described))
        except (OSError, ValueError, SafeKVError) as error:
            raise DamagedFile from error
        if head != expected or n != len(described):
            raise DamagedFile
        position, parent = ABOUT.unpack_from(described)
        return About(name, position, parent, bytes(described[ABOUT.size :]))

    def remove(self, tenant: TenantId, name: bytes) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(OSError):
            self._file(tenant, name).unlink()

    def forget(self, tenant: TenantId) -> None:
        """Delete the tenant's keys, and its files of all models. Raises `OSError` for a file that
        stays; without its key nobody can read it."""
        self._sealer.forget(tenant)
        for model in self._root.iterdir():
            theirs = model / self._of(tenant).name
            if theirs.is_dir():
                shutil.rmtree(theirs)

    def wipe(self) -> None:
        """Delete all files of this model."""
        for each in list(self._at.iterdir()):
            shutil.rmtree(each, ignore_errors=True)


def _write_all(path: Path, data: memoryview) -> None:
    with open(path, "wb", buffering=0, opener=_private) as file:
        while data:
            data = data[file.write(data) :]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
