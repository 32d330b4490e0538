"""A sealer for tests: keys from tenants' names, so that any of them can be made again."""

from __future__ import annotations

import hashlib
import hmac
import os

from safekv.errors import SafeKVError
from safekv.types import TenantId

TAG, NONCE = 32, 16
Buffer = bytes | bytearray | memoryview


class UnsafeSealer:
    """Encrypts and authenticates, with keys that anybody can guess."""

    def __init__(self, secret: bytes = b"unsafe") -> None:
        self._secret = secret
        self.forgotten: set[TenantId] = set()

    def _key(self, tenant: TenantId) -> bytes:
        return hashlib.sha256(self._secret + tenant.encode()).digest()

    def sealed_bytes(self, payload_bytes: int) -> int:
        return payload_bytes + NONCE + TAG

    def seal_into(self, tenant: TenantId, context: bytes, payload: Buffer, out: memoryview) -> int:
        nonce = os.urandom(NONCE)
        text = nonce + _mixed(self._key(tenant) + nonce, bytes(payload))
        sealed = text + hmac.digest(self._key(tenant), context + b"|" + text, "sha256")
        out[: len(sealed)] = sealed
        return len(sealed)

    def open_into(self, tenant: TenantId, context: bytes, sealed: Buffer, out: memoryview) -> int:
        text, tag = bytes(sealed[:-TAG]), bytes(sealed[-TAG:])
        expected = hmac.digest(self._key(tenant), context + b"|" + text, "sha256")
        if tenant in self.forgotten or not hmac.compare_digest(tag, expected):
            raise SafeKVError("a sealed object cannot be opened")
        payload = _mixed(self._key(tenant) + text[:NONCE], text[NONCE:])
        out[: len(payload)] = payload
        return len(payload)

    def forget(self, tenant: TenantId) -> bool:
        self.forgotten.add(tenant)
        return True


def _mixed(key: bytes, data: bytes) -> bytes:
    stream = hashlib.shake_256(key).digest(len(data))
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")
