"""The vault: seals what leaves the device, under a key of the tenant it belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Final

from safekv.errors import ConfigError, VaultError
from safekv.privatefile import Stamp
from safekv.vault.cipher import KEY_BYTES, Cipher
from safekv.vault.keyring import (
    FileKeyring,
    Holder,
    Keyring,
    Keys,
    MemoryKeyring,
    WrappedKey,
    default_keyring_file,
    holder_name,
)
from safekv.vault.master import FixedMasters, LocalMaster, Master, Masters, masters_from
from safekv.vault.seal import (
    HEADER_BYTES,
    OVERHEAD_BYTES,
    SESSION_BYTES,
    DataKey,
    Opener,
    Session,
    could_not_open,
    flat,
    key_version_of,
    length_prefixed,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

KNOWN_SESSIONS: Final = 1024
FOLLOW_S: Final = 0.1
"""How long another process's change to the key file may go unnoticed."""


class Vault:
    """Seals blocks under their tenant's own data key, and opens nothing that was not so sealed.

    A tenant's first block makes its key. `forget` deletes it, and with it every block sealed
    under it; other processes notice within `FOLLOW_S`. While the key file is loose or damaged
    nothing is sealed or opened. Safe to use from several threads.
    """

    def __init__(self, keyring: Keyring, masters: Masters, cipher: Cipher | None = None) -> None:
        self._keyring = keyring
        self._masters = masters
        self._cipher = cipher
        # The mutable state, under the lock: what was last read, and the keys unwrapped since.
        self._lock = RLock()
        self._stamp: Stamp | None = None
        self._look_again_s = float("-inf")
        self._keys = Keys()
        self._data_keys: dict[WrappedKey, DataKey] = {}
        self._sessions: dict[Holder, Session] = {}
        self._openers: dict[tuple[Holder, bytes], Opener] = {}

    def __repr__(self) -> str:
        return f"Vault({self._keyring!r})"

    @classmethod
    def ephemeral(cls, cipher: Cipher | None = None) -> Vault:
        """A vault whose keys were never on disk: after a restart nothing it sealed opens."""
        return cls(MemoryKeyring(), FixedMasters(LocalMaster.generate()), cipher)

    @classmethod
    def from_files(
        cls, env: Mapping[str, str], keyring: Path | None = None, master: Path | None = None
    ) -> Vault:
        """The vault of this deployment: files if named, else the environment and the defaults.

        Raises `ConfigError` if a file is not private or damaged, and if a master key is missing.
        """
        masters = masters_from(env, master)
        masters.current()
        vault = cls(FileKeyring(keyring or default_keyring_file(env)), masters)
        for master_id in {key.master_id for key in vault.list()}:
            _require(masters, master_id)
        return vault

    @staticmethod
    def sealed_bytes(payload_bytes: int) -> int:
        """The size of a sealed object whose payload has `payload_bytes`: 64 bytes more."""
        return payload_bytes + OVERHEAD_BYTES

    def seal_into(self, tenant: Holder, context: bytes, payload: Buffer, out: memoryview) -> int:
        """Seal `payload` into the start of `out` and return the bytes written. O(n), no copy.

        `context` says what the payload is and must be given again to open it. `out` must not
        overlap `payload`. Raises `VaultError`, for lack of a key too; then nothing was sealed.
        """
        if monotonic() >= self._look_again_s:
            self._follow()
        if session := self._sessions.get(tenant):
            written = session.seal_into(context, payload, out)
            if written:
                return written
        return self._new_session(tenant).seal_into(context, payload, out)

    def open_into(self, tenant: Holder, context: bytes, sealed: Buffer, out: memoryview) -> int:
        """Open `sealed` into the start of `out` and return the payload's bytes. O(n), no copy.

        Raises one `VaultError` with one message whatever the cause: another tenant or context,
        a damaged, cut or swapped object, a forgotten key, a buffer that is too small. Then
        `out` holds nothing of the payload.
        """
        if monotonic() >= self._look_again_s:
            self._follow()
        source = sealed if type(sealed) is memoryview else memoryview(sealed)
        if source.format != "B" or source.ndim != 1:
            source = flat(source)
        header = source[:HEADER_BYTES].tobytes()
        opener = self._openers.get((tenant, header[:SESSION_BYTES]))
        if opener is None:
            opener = self._new_opener(tenant, header)
        if out.format != "B" or out.ndim != 1:
            out = flat(out)
        return opener.open_into(header, context, source, out)

    def is_stale(self, tenant: Holder, sealed: Buffer) -> bool:
        """Whether `sealed` should be sealed again, because its tenant has a newer key since.

        The label is not authenticated: open the object before relying on the answer.
        """
        self._follow()
        version = key_version_of(flat(sealed))
        newest = self._keys.of(holder_name(tenant))
        return not newest or version != newest[-1].version

    def forget(self, tenant: Holder) -> bool:
        """Delete all of a tenant's keys; `False` if it had none. What they sealed is unreadable.

        As lasting as the key file's backups: `rotate_master` makes those useless too. The next
        block of that tenant gets a new key.
        """
        with self._changing() as keys:
            gone = keys.of(holder_name(tenant))
            if gone:
                self._keyring.write(keys.without(gone))
        return bool(gone)

    def rotate(self, tenant: Holder) -> int:
        """Give a tenant a new key, and return its version. Older objects still open.

        Re-seal them when they are touched (`is_stale`), and then `retire` the older keys.
        """
        with self._changing() as keys:
            self._keyring.write(self._with_new_key(keys, holder_name(tenant)))
            return keys.next_version

    def retire(self, tenant: Holder) -> int:
        """Delete all keys of a tenant but the newest, return how many: their objects are lost."""
        with self._changing() as keys:
            gone = keys.of(holder_name(tenant))[:-1]
            if gone:
                self._keyring.write(keys.without(gone))
        return len(gone)

    def rotate_master(self) -> int:
        """Wrap all data keys under the current master key, and return how many there are.

        No payload is touched. Raises `VaultError`, and changes nothing, if one of them was
        wrapped under a master key that is gone.
        """
        with self._changing() as keys:
            master = self._masters.current()
            rewrapped = tuple(self._wrapped_again(key, master) for key in keys.keys)
            self._keyring.write(replace(keys, keys=rewrapped))
        return len(rewrapped)

    def list(self) -> tuple[WrappedKey, ...]:
        """All wrapped keys, the oldest first. Raises `ConfigError` for an untrusted key file."""
        return self._keyring.read()[1].keys

    def _new_session(self, tenant: Holder) -> Session:
        """A session under the newest key of a tenant; makes its first key if it has none."""
        name = holder_name(tenant)
        try:
            with self._lock:
                if not self._keys.of(name):
                    with self._changing() as keys:
                        # Another process may have been quicker.
                        if not keys.of(name):
                            self._keyring.write(self._with_new_key(keys, name))
                session = self._data_key(self._keys.of(name)[-1]).session()
                self._sessions[tenant] = session
        except ConfigError as error:
            raise VaultError(f"nothing is sealed: {error.message}", error.hint) from None
        return session

    def _new_opener(self, tenant: Holder, header: bytes) -> Opener:
        with self._lock:
            try:
                opener = self._key_named(tenant, key_version_of(header)).opener(header)
            except ConfigError:
                # The master key file is gone or loose.
                raise could_not_open() from None
            if len(self._openers) >= KNOWN_SESSIONS:
                del self._openers[next(iter(self._openers))]
            self._openers[tenant, header[:SESSION_BYTES]] = opener
        return opener

    def _key_named(self, tenant: Holder, version: int) -> DataKey:
        for wrapped in self._keys.of(holder_name(tenant)):
            if wrapped.version == version:
                return self._data_key(wrapped)
        raise could_not_open()

    def _data_key(self, wrapped: WrappedKey) -> DataKey:
        key = self._data_keys.get(wrapped)
        if key is None:
            secret, holder = self._secret_of(wrapped), wrapped.holder.encode()
            key = DataKey(secret, wrapped.version, holder, self._cipher)
            self._data_keys[wrapped] = key
        return key

    def _secret_of(self, key: WrappedKey) -> bytes:
        master = self._masters.find(key.master_id)
        return master.unwrap(key.wrapped, _wrapping(key.holder, key.version))

    def _wrapped_again(self, key: WrappedKey, master: Master) -> WrappedKey:
        context = _wrapping(key.holder, key.version)
        wrapped = master.wrap(self._secret_of(key), context)
        return replace(key, master_id=master.key_id, wrapped=wrapped)

    def _with_new_key(self, keys: Keys, holder: str) -> Keys:
        master = self._masters.current()
        context = _wrapping(holder, keys.next_version)
        return keys.adding(holder, master.wrap(os.urandom(KEY_BYTES), context), master.key_id)

    @contextmanager
    def _changing(self) -> Iterator[Keys]:
        """The newest keys, under the lock of all processes; what was written counts at once."""
        with self._lock, self._keyring.locked():
            try:
                yield self._keyring.read()[1]
            finally:
                self._take_over()

    def _follow(self) -> None:
        """Take over what another process changed. One `stat`, at most every `FOLLOW_S`.

        A file that cannot be trusted any more leaves the vault without keys.
        """
        with self._lock:
            if self._stamp is not None and self._stamp == self._keyring.stamp():
                self._look_again_s = monotonic() + FOLLOW_S
                return
            with suppress(ConfigError):
                self._take_over()

    def _take_over(self) -> None:
        # Forgotten first: if reading fails, no key is known.
        self._stamp, self._keys, self._look_again_s = None, Keys(), float("-inf")
        self._sessions.clear()
        self._openers.clear()
        try:
            self._stamp, self._keys = self._keyring.read()
            self._look_again_s = monotonic() + FOLLOW_S
        finally:
            for gone in self._data_keys.keys() - set(self._keys.keys):
                del self._data_keys[gone]


def _wrapping(holder: str, version: int) -> bytes:
    """What a wrapped key is bound to: it unwraps as no other tenant's, and no other version."""
    return length_prefixed(b"safekv vault data key", holder.encode(), version.to_bytes(4))


def _require(masters: Masters, master_id: str) -> None:
    try:
        masters.find(master_id)
    except VaultError:
        raise ConfigError(
            f"the master key {master_id}, under which data keys are wrapped, is not there",
            "restore its file or variable; or `safekv tenant forget` what was sealed under it",
        ) from None
