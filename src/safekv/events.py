"""Frozen records of what happened. They hold counts and tenants, never text or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from safekv.types import TenantId


@dataclass(frozen=True, slots=True)
class Admitted:
    """A prompt was matched. `own_tokens` of the `hit_tokens` lay in the tenant's own cache."""

    tenant: TenantId
    prompt_tokens: int
    hit_tokens: int
    own_tokens: int


@dataclass(frozen=True, slots=True)
class Stored:
    """New blocks entered the tree; `duplicate_blocks` were there already and were freed."""

    tenant: TenantId
    new_blocks: int
    duplicate_blocks: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt's blocks were judged off the request path."""

    tenant: TenantId
    shareable_blocks: int
    private_blocks: int
    unsure_blocks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Promoted:
    """Blocks became shared at an epoch tick."""

    blocks: int


@dataclass(frozen=True, slots=True)
class Demoted:
    """Shared blocks became private again: revoked, or the mode became stricter."""

    blocks: int


@dataclass(frozen=True, slots=True)
class Suspected:
    """`tenants` read shared runs below one block `reads` times in a window, as probing does.

    What lay there was demoted for good; with `surge` nothing was, and an operator should look.
    """

    tenants: tuple[TenantId, ...]
    reads: int
    demoted_blocks: int
    surge: bool


@dataclass(frozen=True, slots=True)
class Evicted:
    """Blocks left the tree under memory pressure."""

    blocks: int


@dataclass(frozen=True, slots=True)
class DetectionFailed:
    """A detector stage failed or its queue was full; the blocks stay private."""

    stage: str
    reason: str


Event = Admitted | Stored | Judged | Promoted | Demoted | Suspected | Evicted | DetectionFailed


class EventSink(Protocol):
    """Hears events. Must be quick, must not raise, may be called from any thread."""

    def emit(self, event: Event) -> None: ...


class NullSink:
    """Hears nothing."""

    def emit(self, event: Event) -> None:
        """Forget `event`."""
