"""What a tenant may know it has: blocks of a masked answer count once the answer is out."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from safekv.clock import Clock
from safekv.safeguard import common_blocks
from safekv.types import TenantId


@dataclass(slots=True)
class _Span:
    """The blocks of one prompt from `start` on, of which its tenant is not told before `due_s`."""

    prompt: bytes = field(repr=False)
    start: int
    due_s: float = math.inf
    stored: bool = False


class Ripening:
    """The requests of each tenant whose answers are not out yet, with masked release.

    Whether the blocks of a prompt were computed or found shared, its tenant learns that it has
    them at the same moment: when the first token goes out. Until then they count as absent, also
    for a second request with the same text. A request whose answer never comes (it was set
    back, or the engine failed) leaves its blocks absent until the text is sent again. By tenant,
    so that nobody's requests change what another is told.
    """

    def __init__(self, block_bytes: int, clock: Clock) -> None:
        self._width = block_bytes
        self._clock = clock
        self._spans: dict[TenantId, dict[Hashable, _Span]] = {}

    def visible_blocks(self, tenant: TenantId, tokens: bytes, own_blocks: int) -> int:
        """How many of the tenant's `own_blocks` leading blocks it may know of now.

        O(its requests in flight * tokens compared).
        """
        self._ripen(tenant)
        for span in self._spans.get(tenant, {}).values():
            end = (span.start + 1) * self._width
            if own_blocks > span.start and tokens[:end] == span.prompt[:end]:
                own_blocks = span.start
        return own_blocks

    def begin(self, tenant: TenantId, request: Hashable, prompt: bytes, start: int) -> None:
        """`request` asks for `prompt`, of which its tenant may know `start` blocks."""
        whole = prompt[: len(prompt) // self._width * self._width]
        self._spans.setdefault(tenant, {})[request] = _Span(whole, start)

    def stored(self, tenant: TenantId, request: Hashable) -> None:
        """The request left blocks with its tenant, which without an `end` stay unknown to it."""
        span = self._spans.get(tenant, {}).get(request)
        if span is not None:
            span.stored = True

    def end(self, tenant: TenantId, request: Hashable, due_s: float) -> None:
        """The first token of the request's answer goes out at `due_s`."""
        span = self._spans.get(tenant, {}).get(request)
        if span is not None:
            span.due_s = due_s

    def abandon(self, tenant: TenantId, request: Hashable) -> None:
        """The request is over; if it stored nothing there is nothing to hide."""
        spans = self._spans.get(tenant, {})
        if request in spans and not spans[request].stored:
            del spans[request]

    def _ripen(self, tenant: TenantId) -> None:
        """Drop what is due; what it has in common with others is known from now on."""
        spans, now = self._spans.get(tenant, {}), self._clock.now_s()
        due = [request for request, span in spans.items() if span.due_s <= now]
        for ripe in [spans.pop(request) for request in due]:
            for request, span in list(spans.items()):
                span.start = max(span.start, common_blocks(ripe.prompt, span.prompt, self._width))
                if span.start * self._width >= len(span.prompt):
                    del spans[request]
