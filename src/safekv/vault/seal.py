"""The sealed format, and what seals and opens it in the caller's buffer.

    offset  bytes
    0       1      format version, 1
    1       1      cipher (`Cipher`)
    2       2      zero
    4       4      version of the data key, big-endian
    8       24     session salt, random
    32      12     nonce: 4-byte counter of the session and 8-byte clock (ns), big-endian
    44      4      zero
    48      n      ciphertext, as long as the payload
    48 + n  16     tag

The key of a session is HKDF-Expand (RFC 5869, SHA-256) of the data key with the first 32 bytes
as `info`. All 48 bytes, the holder and the caller's context are associated data.
"""

from __future__ import annotations

import itertools
import os
import struct
from time import time_ns
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from safekv.errors import VaultError
from safekv.vault.cipher import KEY_BYTES, TAG_BYTES, Aead, Cipher, aead, preferred_cipher

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 48
SESSION_BYTES: Final = 32
"""The first bytes of a header: what a session's key is derived from, equal in all its objects."""

OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
PAYLOAD_LIMIT_BYTES: Final = 2**31 - 1
"""The most that `cryptography` takes in one call."""

SESSION_OBJECTS: Final = 2**16
"""Far below what one AES-GCM key bears, even if every payload had 2 GiB: 2**43 cipher blocks."""

_pack_header: Final = struct.Struct(">32sIQI").pack
_put_header: Final = struct.Struct("48s").pack_into
"""Assigning to a slice of a memoryview would take three times as long."""

_START: Final = struct.Struct(">BBHI24s")
_CIPHERS: Final = {cipher.value: cipher for cipher in Cipher}
_ZEROS: Final = bytes(1 << 16)


def could_not_open() -> VaultError:
    """The one error of opening: a wrong key, a damaged object and a swapped one look alike."""
    return VaultError("a sealed object could not be opened", "treat it as missing")


def length_prefixed(*parts: bytes) -> bytes:
    """`parts`, each behind its length in 4 bytes: no two different lists give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def flat(buffer: Buffer) -> memoryview:
    """`buffer` as bytes, without a copy. Raises `VaultError` if it has gaps."""
    view = memoryview(buffer)
    if view.format == "B" and view.ndim == 1:
        return view  # gaps are noticed when it is used: asking every time costs more
    try:
        return view.cast("B")
    except TypeError:
        raise _gaps() from None


class Session:
    """Seals up to 2**16 objects for one holder, in one process, under a key of its own.

    No nonce comes twice: the counter makes them differ within the session, and the 24 random
    bytes behind its key keep sessions and processes apart. The clock is for a virtual machine
    that is resumed twice from one snapshot, salt and counter included. Safe to use from
    several threads.
    """

    __slots__ = ("_count", "_encrypt_into", "_generation", "_holder", "_start")

    def __init__(self, secret: bytes, cipher: Cipher, key_version: int, holder: bytes) -> None:
        self._start = _START.pack(FORMAT_VERSION, cipher, 0, key_version, os.urandom(24))
        self._encrypt_into = _session_aead(secret, cipher, self._start).encrypt_into
        self._holder = length_prefixed(holder)
        self._generation = _generation
        self._count = itertools.count()

    def seal_into(self, context: bytes, payload: Buffer, out: memoryview) -> int:
        """Seal `payload` into the start of `out`, return the bytes written. O(n), no copy.

        Returns 0, and seals nothing, once the session is spent, and after a fork. Raises
        `VaultError` if the buffers do not fit; then nothing was sealed.
        """
        size = payload.nbytes if type(payload) is memoryview else memoryview(payload).nbytes
        end = size + OVERHEAD_BYTES
        if len(out) < end:
            return self._seal_unusual(context, payload, out)
        count = next(self._count)
        if count >= SESSION_OBJECTS or self._generation != _generation:
            return 0
        header = _pack_header(self._start, count, time_ns(), 0)
        bound = b"".join((header, self._holder, len(context).to_bytes(4), context))
        try:
            _put_header(out, 0, header)
            self._encrypt_into(header[32:44], payload, bound, out[HEADER_BYTES:end])  # type: ignore[arg-type]
        except (TypeError, ValueError, BufferError, OverflowError, struct.error):
            return self._seal_unusual(context, payload, out)
        return end

    def _seal_unusual(self, context: bytes, payload: Buffer, out: memoryview) -> int:
        """Try again with views of plain bytes, or say what is wrong with the buffers.

        Checked here, after a failure, to keep the road of every block short.
        """
        data, target = flat(payload), flat(out)
        if (
            len(data) > PAYLOAD_LIMIT_BYTES
            or len(target) < len(data) + OVERHEAD_BYTES
            or target.readonly
        ):
            raise _does_not_fit(len(data), target)
        if not (data.c_contiguous and target.c_contiguous):
            raise _gaps()
        return self.seal_into(context, data, target)


_generation = 0
"""Counts forks. A fork copies counters: the child must not go on from its parent's."""


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


class Opener:
    """Opens what one session sealed. Safe to use from several threads."""

    __slots__ = ("_decrypt_into", "_holder")

    def __init__(self, opener: Aead, holder: bytes) -> None:
        self._decrypt_into = opener.decrypt_into
        self._holder = length_prefixed(holder)

    def open_into(
        self, header: bytes, context: bytes, source: memoryview, target: memoryview
    ) -> int:
        """Open `source`, which begins with `header`, into the start of `target`. O(n), no copy.

        Both views are flat. Returns the payload's bytes. Raises `could_not_open()` for whatever
        was not sealed so; then `target` holds nothing of the payload.
        """
        size = len(source) - OVERHEAD_BYTES
        if size < 0 or size > PAYLOAD_LIMIT_BYTES or len(target) < size or target.readonly:
            raise could_not_open()
        bound = b"".join((header, self._holder, len(context).to_bytes(4), context))
        result = target if len(target) == size else target[:size]
        try:
            self._decrypt_into(header[32:44], source[HEADER_BYTES:], bound, result)
        except BaseException as error:
            # The cipher has written what it deciphered before it saw the tag.
            wipe(result)
            if isinstance(error, InvalidTag | BufferError):
                raise could_not_open() from None
            raise
        return size


class DataKey:
    """A random key of one holder, from which the keys of sessions are derived."""

    def __init__(
        self, secret: bytes, version: int, holder: bytes, cipher: Cipher | None = None
    ) -> None:
        if len(secret) != KEY_BYTES:
            raise VaultError(f"a data key has {len(secret)} bytes, not {KEY_BYTES}")
        self.version = version
        self._secret = secret
        self._holder = holder
        self._cipher = preferred_cipher() if cipher is None else cipher

    def __repr__(self) -> str:
        return f"DataKey(version={self.version}, secret=<redacted>)"

    def session(self) -> Session:
        """A new session, with a random salt. About 7 µs."""
        return Session(self._secret, self._cipher, self.version, self._holder)

    def opener(self, header: bytes) -> Opener:
        """What opens the objects of the session that `header` names. About 7 µs.

        Raises `could_not_open()` for a header of another format.
        """
        if len(header) < HEADER_BYTES or header[0] != FORMAT_VERSION or header[1] not in _CIPHERS:
            raise could_not_open()
        cipher = _CIPHERS[header[1]]
        return Opener(_session_aead(self._secret, cipher, header[:SESSION_BYTES]), self._holder)


def _session_aead(secret: bytes, cipher: Cipher, start: bytes) -> Aead:
    info = b"safekv vault session" + start
    return aead(cipher, HKDFExpand(SHA256(), KEY_BYTES, info).derive(secret))


def key_version_of(header: Buffer) -> int:
    """The version of the data key, as a header says that nobody has authenticated yet."""
    return int.from_bytes(memoryview(header)[4:8])


def wipe(target: memoryview) -> None:
    """Overwrite `target` with zeros. O(n), no allocation."""
    for start in range(0, len(target), len(_ZEROS)):
        part = target[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


def _gaps() -> VaultError:
    return VaultError("a buffer has gaps between its elements", "pass a contiguous one")


def _does_not_fit(size: int, target: memoryview) -> VaultError:
    if size > PAYLOAD_LIMIT_BYTES:
        return VaultError(f"a payload of {size} bytes is over the limit of 2 GiB", "split it")
    kind = "read-only " if target.readonly else ""
    return VaultError(
        f"{size + OVERHEAD_BYTES} sealed bytes do not fit into a {kind}buffer of {len(target)}",
        "ask `Vault.sealed_bytes` how many are needed",
    )
