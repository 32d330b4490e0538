"""Verdicts that were given already, so that a tenant's repeated prompt is judged once."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from safekv.detect.base import Document, Finding
from safekv.types import TenantId

MAX_TENANTS: Final = 1024
"""Tenants whose verdicts are kept; the one that asked longest ago is forgotten."""

_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 16


class VerdictCache:
    """The last `limit` verdicts of each tenant, by a keyed hash of the document.

    Each tenant has its own: if a verdict for one tenant's text made another's come sooner,
    the time to promotion would tell who sent it. Holds hashes and findings, no text; the key
    is drawn at start and never leaves. Mutable state: the entries. For one thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._key = os.urandom(_KEY_BYTES)
        self._tenants: OrderedDict[TenantId, OrderedDict[bytes, tuple[Finding, ...]]] = (
            OrderedDict()
        )

    def get(self, tenant: TenantId, document: Document) -> tuple[Finding, ...] | None:
        """What `tenant` was told of `document`, if that is remembered. O(characters)."""
        own = self._tenants.get(tenant)
        if own is None:
            return None
        digest = self._digest(document)
        if digest not in own:
            return None
        own.move_to_end(digest)
        self._tenants.move_to_end(tenant)
        return own[digest]

    def put(self, tenant: TenantId, document: Document, findings: Sequence[Finding]) -> None:
        """Remember `findings`, and forget the oldest beyond the limits."""
        if self._limit == 0:
            return
        own = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        own[self._digest(document)] = tuple(findings)
        if len(own) > self._limit:
            own.popitem(last=False)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)

    def _digest(self, document: Document) -> bytes:
        """Differs when text, block ends or message starts do."""
        digest = hashlib.blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for part in (
            document.text.encode("utf-8", "surrogatepass"),
            array("Q", document.block_ends).tobytes(),
            array("Q", document.message_starts).tobytes(),
        ):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()
