"""The data keys of all tenants, wrapped, in one file or in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from safekv.errors import VaultError
from safekv.privatefile import PrivateFile, Stamp, home
from safekv.types import Scope, TenantId

FILE_VERSION: Final = 1
Holder: TypeAlias = TenantId | Scope
"""Whose keys seal a block: one tenant's, or everyone's (`Scope.SHARED`)."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One version of one holder's data key, which only its master key can unwrap."""

    holder: str
    version: int
    master_id: str
    created: str
    wrapped: bytes = field(repr=False)

    def public(self) -> dict[str, object]:
        """Everything an operator may print."""
        return {
            "holder": self.holder,
            "version": self.version,
            "master_key_id": self.master_id,
            "created": self.created,
        }


@dataclass(frozen=True, slots=True)
class Keys:
    """The content of a keyring. `next_version` only grows: no version names two keys."""

    keys: tuple[WrappedKey, ...] = ()
    next_version: int = 1

    def of(self, holder: str) -> tuple[WrappedKey, ...]:
        """The versions of one holder's key, the oldest first."""
        return tuple(key for key in self.keys if key.holder == holder)

    def without(self, gone: tuple[WrappedKey, ...]) -> Keys:
        return replace(self, keys=tuple(key for key in self.keys if key not in gone))

    def adding(self, holder: str, wrapped: bytes, master_id: str) -> Keys:
        """The same and one more key, of version `next_version`."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        key = WrappedKey(holder, self.next_version, master_id, created, wrapped)
        return Keys((*self.keys, key), self.next_version + 1)


class Keyring(Protocol):
    """Where wrapped keys are kept. `write` is called under `locked` alone."""

    def stamp(self) -> Stamp | None:
        """Changes whenever the content may have."""
        ...

    def read(self) -> tuple[Stamp | None, Keys]: ...

    def write(self, keys: Keys) -> None: ...

    def locked(self) -> AbstractContextManager[None]:
        """One process at a time is inside of it."""
        ...


def holder_name(holder: Holder | None) -> str:
    """How the file names a holder. Raises `VaultError` for what names nobody."""
    if isinstance(holder, Scope):
        return holder.value
    if not holder:
        raise VaultError("no tenant is named", "pass a tenant, or Scope.SHARED for everyone")
    return f"tenant:{holder}"


class MemoryKeyring:
    """Keys that end with the process: after it nothing sealed can be opened by anybody."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._writes = 0

    def stamp(self) -> Stamp | None:
        return (self._writes,)

    def read(self) -> tuple[Stamp | None, Keys]:
        return self.stamp(), self._keys

    def write(self, keys: Keys) -> None:
        self._keys = keys
        self._writes += 1

    def locked(self) -> AbstractContextManager[None]:
        # One process, and the vault holds a lock of its own.
        return nullcontext()


class FileKeyring:
    """Keys in a private file, replaced in one step. `ConfigError` if it cannot be trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PrivateFile(path, "name another with --vault")

    def __repr__(self) -> str:
        return f"FileKeyring({str(self.path)!r})"

    def stamp(self) -> Stamp | None:
        return self._file.stamp()

    def read(self) -> tuple[Stamp | None, Keys]:
        stamp, raw = self._file.read()
        return stamp, Keys() if raw is None else self._parse(raw)

    def write(self, keys: Keys) -> None:
        entries = [
            {**key.public(), "wrapped": base64.b64encode(key.wrapped).decode()} for key in keys.keys
        ]
        data = {"version": FILE_VERSION, "next_version": keys.next_version, "keys": entries}
        self._file.write(json.dumps(data, indent=1).encode() + b"\n")

    def locked(self) -> AbstractContextManager[None]:
        return self._file.locked()

    def _parse(self, raw: bytes) -> Keys:
        try:
            data = json.loads(raw.decode())
            keys = Keys(tuple(_parse_key(one) for one in data["keys"]), int(data["next_version"]))
            versions = {key.version for key in keys.keys}
            if (
                data["version"] != FILE_VERSION
                or len(versions) != len(keys.keys)
                or max(versions, default=0) >= keys.next_version
            ):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            # `from None`: the cause could quote the file.
            raise self._file.damaged(
                "restore it from a backup, or move it away: what is sealed is then lost"
            ) from None
        return keys


def _parse_key(entry: Mapping[str, Any]) -> WrappedKey:
    version = entry["version"]
    texts = (entry["holder"], entry["master_key_id"], entry["created"])
    if not isinstance(version, int) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    holder, master_id, created = texts
    wrapped = base64.b64decode(entry["wrapped"], validate=True)
    return WrappedKey(holder, version, master_id, created, wrapped)


def default_keyring_file(env: Mapping[str, str]) -> Path:
    """`vault-keys.json` where safekv keeps its keys."""
    return home(env) / "vault-keys.json"
