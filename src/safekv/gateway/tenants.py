"""Tenant keys: who may call the gateway, stored so that the file betrays no key."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from safekv.errors import ConfigError
from safekv.privatefile import PrivateFile, Stamp, home
from safekv.types import TenantId

Role: TypeAlias = Literal["tenant", "operator"]

FORMAT_VERSION: Final = 1
SALT_BYTES: Final = 32
SECRET_BYTES: Final = 32
KEY_ID_BYTES: Final = 6
KEY_PATTERN: Final = re.compile(r"skv_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
KEY_ID_PATTERN: Final = re.compile(r"[0-9a-f]{12}")
NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
HASH_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
SALT_PATTERN: Final = re.compile(r"[0-9a-f]{64}")

NOBODY: Final = bytes(32)
"""Compared against when the key id is unknown. No secret is known that hashes to it."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the file holds of one key. `hash` is hex and never printed."""

    key_id: str
    tenant: TenantId
    role: Role
    created: str
    revoked: bool
    hash: str = field(repr=False)

    def public(self) -> dict[str, object]:
        """Everything an operator may print: all but the hash."""
        fields = asdict(self)
        del fields["hash"]
        return fields


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The content of a key file. A file that is not there has no keys."""

    salt: bytes = field(repr=False)
    keys: tuple[KeyRecord, ...] = ()


def default_keys_file(env: Mapping[str, str]) -> Path:
    """`$SAFEKV_HOME/tenants.json`; without it `safekv` in the XDG configuration directory."""
    return home(env) / "tenants.json"


def hash_secret(salt: bytes, key_id: str, secret: str) -> bytes:
    """BLAKE2b-256 of a key, keyed with the file's salt and bound to its key id.

    A slow password hash would add nothing: the secret has 256 random bits, so there is no
    dictionary to try, and it would let anyone burn the server's CPU with wrong keys.
    """
    return hashlib.blake2b(f"{key_id}:{secret}".encode(), key=salt, digest_size=32).digest()


class TenantStore:
    """The keys in one file, followed while it changes.

    `find` looks at the file's stamp on every call (one `stat`), so keys added or revoked by
    another process count at once. A file that became readable to others, changed owner or is
    damaged makes `find` refuse every key until it is mended: old content is never served.
    Writers hold a lock on a side file, and replace the file in one step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PrivateFile(path, "name another with --keys")
        # The mutable state: what was last read, and the stamp of the file it was read from.
        self._stamp: Stamp | None = None
        self._keys: dict[str, KeyRecord] = {}
        self._salt = secrets.token_bytes(SALT_BYTES)

    def find(self, key: str) -> KeyRecord | None:
        """The record of the plaintext `key`, or `None` if it is malformed, unknown or revoked.

        Raises `ConfigError` while the file cannot be trusted. O(1) unless the file changed.
        """
        self._refresh()
        parts = KEY_PATTERN.fullmatch(key)
        if parts is None:
            return None
        key_id, secret = parts.groups()
        record = self._keys.get(key_id)
        # An unknown id is hashed and compared like a known one, so that both take as long.
        expected = NOBODY if record is None else bytes.fromhex(record.hash)
        matches = hmac.compare_digest(hash_secret(self._salt, key_id, secret), expected)
        if record is None or not matches or record.revoked:
            return None
        return record

    def check(self) -> None:
        """Raise `ConfigError` if the key file is there and cannot be trusted."""
        self._refresh()

    def usable(self) -> bool:
        """Whether `find` can find anyone: `False` while the file is loose or damaged."""
        try:
            self._refresh()
        except ConfigError:
            return False
        return True

    def served(self) -> set[TenantId]:
        """Tenants with a key in force. Operators are not: their keys generate nothing."""
        return {key.tenant for key in self.list() if key.role == "tenant" and not key.revoked}

    def list(self) -> tuple[KeyRecord, ...]:
        """All records, the oldest first. Raises `ConfigError` like `check`."""
        return _read(self._file)[1].keys

    def add(self, name: str, *, operator: bool = False) -> str:
        """Add a key for `name` and return its plaintext, which exists nowhere else.

        A tenant may have several keys, so that one can be replaced without a gap.
        Raises `ConfigError` for a bad name or a file that cannot be trusted or written.
        """
        _require_name(name)
        key_id = secrets.token_hex(KEY_ID_BYTES)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        with self._file.locked():
            content = _read(self._file)[1]
            record = KeyRecord(
                key_id=key_id,
                tenant=TenantId(name),
                role="operator" if operator else "tenant",
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                revoked=False,
                hash=hash_secret(content.salt, key_id, secret).hex(),
            )
            _write(self._file, replace(content, keys=(*content.keys, record)))
        return f"skv_{key_id}_{secret}"

    def revoke(self, name: str) -> tuple[KeyRecord, ...]:
        """Revoke the key with id `name`, or all keys of the tenant `name`, and return them.

        Revoking twice is no error. Raises `ConfigError` when nothing has that name.
        """
        with self._file.locked():
            content = _read(self._file)[1]
            keys = tuple(
                replace(key, revoked=True) if name in (key.key_id, key.tenant) else key
                for key in content.keys
            )
            revoked = tuple(key for key in keys if name in (key.key_id, key.tenant))
            if not revoked:
                raise ConfigError(
                    f"no tenant or key is named {name!r} in {self.path}", "see `safekv tenant list`"
                )
            _write(self._file, replace(content, keys=keys))
        return revoked

    def _refresh(self) -> None:
        if self._stamp is not None and self._stamp == self._file.stamp():
            return
        # Forgotten first: if reading fails, nobody is known.
        self._stamp, self._keys = None, {}
        stamp, content = _read(self._file)
        self._keys = {key.key_id: key for key in content.keys}
        self._salt, self._stamp = content.salt, stamp


def _require_name(name: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise ConfigError(
            f"tenant name {name!r} is not allowed",
            "use 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit",
        )
    if KEY_ID_PATTERN.fullmatch(name) is not None:
        raise ConfigError(f"tenant name {name!r} looks like a key id", "use another name")


def _read(file: PrivateFile) -> tuple[Stamp | None, KeyFile]:
    """What `file` holds and the stamp it had, which is `None` when there is no such file."""
    stamp, raw = file.read()
    if raw is None:
        return None, KeyFile(salt=secrets.token_bytes(SALT_BYTES))
    return stamp, _parse(file, raw)


def _parse(file: PrivateFile, raw: bytes) -> KeyFile:
    try:
        data = json.loads(raw.decode())
        if data["version"] != FORMAT_VERSION or not SALT_PATTERN.fullmatch(data["salt"]):
            raise ValueError
        keys = tuple(_parse_record(entry) for entry in data["keys"])
        if len({key.key_id for key in keys}) != len(keys):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        # `from None`: the cause could quote the file.
        raise file.damaged(
            "restore it from a backup, or move it away and add the tenants again"
        ) from None
    return KeyFile(salt=bytes.fromhex(data["salt"]), keys=keys)


def _parse_record(entry: Mapping[str, object]) -> KeyRecord:
    record = KeyRecord(**entry)  # type: ignore[arg-type]  # checked field by field below
    sound = (
        KEY_ID_PATTERN.fullmatch(record.key_id)
        and NAME_PATTERN.fullmatch(record.tenant)
        and HASH_PATTERN.fullmatch(record.hash)
        and record.role in get_args(Role)
        and isinstance(record.created, str)
        and isinstance(record.revoked, bool)
    )
    if not sound:
        raise ValueError
    return record


def _write(file: PrivateFile, content: KeyFile) -> None:
    data = {
        "version": FORMAT_VERSION,
        "salt": content.salt.hex(),
        "keys": [asdict(key) for key in content.keys],
    }
    file.write(json.dumps(data, indent=1).encode() + b"\n")
