"""Whose a request is, and what it holds while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from safekv.cache import Lease
from safekv.types import TenantId


@dataclass(slots=True)
class Admission:
    """Whose request it is, written by the gateway's side before the engine sees the request.

    The engine's thread fills in the rest. `cached_tokens` are the prompt tokens found in the
    tenant's own cache, the only hit the tenant is told of; it is final once a forward pass
    has run (`started`), so that a request which is set back does not count its own work.
    `ceiling_blocks` is what the tenant could hold when it was admitted.
    `submitted` says that the prompt was counted and handed to the detector.

    With masked release: when the request was first scheduled, and when its first token may go
    out, on the cache's clock; `set_back` says that it was scheduled again since.
    """

    tenant: TenantId
    prompt_tokens: int
    ceiling_blocks: int = 0
    cached_tokens: int = 0
    started: bool = False
    submitted: bool = False
    scheduled_s: float = 0.0
    due_s: float = 0.0
    set_back: bool = False


@dataclass(slots=True)
class Held:
    """What a running request holds: its lease, and how many leading blocks the tree owns.

    With masked release its tenant's room is `promised_blocks` for the whole prompt at once.
    """

    lease: Lease
    admission: Admission
    stored_blocks: int
    promised_blocks: int = 0

    def reserved_blocks(self, table_blocks: int) -> int:
        """How many blocks its tenant has no room for others in and is not charged for."""
        charged = self.stored_blocks
        if self.promised_blocks and not self.lease.adopted:
            charged = self.lease.own_blocks
        return max(table_blocks, self.promised_blocks) - charged


@dataclass(slots=True)
class Admissions:
    """Requests on their way into the engine. One writer per key; reads are atomic."""

    by_id: dict[str, Admission] = field(default_factory=dict)

    def get(self, request_id: str) -> Admission | None:
        """The admission of `request_id`, or `None`: then nothing is reused and nothing stored."""
        return self.by_id.get(request_id)
