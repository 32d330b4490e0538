"""Who runs next: first come, first served, each tenant within its own memory.

transformers reacts to a full cache by setting requests back, whosever they are, and by
admitting nobody until one finishes. Here a tenant's lack of memory is that tenant's alone.
"""

from __future__ import annotations

from typing import Final

from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from safekv.types import TenantId

SPARE_PART: Final = 8
"""A tenant with running requests starts another while 1/8 of its memory stays for their answers."""


class PatientScheduler(FIFOScheduler):  # type: ignore[misc]
    """A `FIFOScheduler` whose reaction to a lack of memory stays within one tenant.

    `set_back` are the tenants of which a request had to give up its blocks: none of their
    waiting requests starts before one of their running ones is done.
    """

    def reset(self) -> None:
        super().reset()
        self.starved_requests: list[tuple[RequestState, int]] = []
        self.set_back: set[TenantId] = set()

    # -- life of a request -----------------------------------------------------------------

    def clear_cancelled_requests(self) -> list[RequestState]:
        """The first thing in every turn of the loop, after the last step's tokens went out."""
        self.cache.submit_jobs()
        tenants = {self._tenant(request_id) for request_id in self._requests_to_cancel}
        cancelled: list[RequestState] = super().clear_cancelled_requests()
        self.set_back -= tenants
        return cancelled

    def finish_request(self, request_id: str) -> None:
        super().finish_request(request_id)
        self.set_back.discard(self._tenant(request_id))

    def add_waiting_request(self, state: RequestState) -> None:
        """Queue a request; one that ran already was set back."""
        admission = self.cache.admission(state.request_id)
        if admission is not None and admission.started:
            self.set_back.add(admission.tenant)
        super().add_waiting_request(state)

    def _tenant(self, request_id: str) -> TenantId:
        admission = self.cache.admission(request_id)
        # An unknown request is in nobody's way: the empty name belongs to no tenant.
        return admission.tenant if admission is not None else TenantId("")

    # -- one batch -------------------------------------------------------------------------

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[FutureRequestState] | None, bool, int, int]:
        """Schedule as usual; then leave to be set back only who stands in its own tenant's way."""
        self.block_new_requests = False
        self.set_back &= {self._tenant(request_id) for request_id in self.active_requests}
        batch: tuple[list[FutureRequestState] | None, bool, int, int]
        batch = super().schedule_batch(token_budget, cache_budget)
        spared = self._who_may_wait()
        if len(spared) < len(self.starved_requests) or batch[0] is not None:
            self.starved_requests = [s for s in self.starved_requests if s[0] not in spared]
        return batch

    def _who_may_wait(self) -> list[RequestState]:
        """Starved requests that need no set-back: their tenant has others that go on, and
        otherwise the first of each tenant, for which the others make room."""
        starved = {state.request_id for state, _ in self.starved_requests}
        going = {self._tenant(r) for r in self.active_requests if r not in starved}
        spared = []
        for state, _ in self.starved_requests:
            tenant = self._tenant(state.request_id)
            if tenant in going:
                spared.append(state)
            elif state.request_id in starved:
                spared.append(state)
                starved -= {r for r in starved if self._tenant(r) == tenant}
        return spared

    def _get_waiting_candidates(self) -> list[RequestState]:
        """The waiting requests whose tenants have memory to start them."""
        busy = {self._tenant(request_id) for request_id in self.active_requests}
        waiting: list[RequestState] = super()._get_waiting_candidates()
        return [state for state in waiting if self._may_start(state, busy)]

    def _may_start(self, state: RequestState, busy: set[TenantId]) -> bool:
        admission = self.cache.admission(state.request_id)
        if admission is None or admission.tenant not in busy:
            return True
        if admission.tenant in self.set_back:
            return False
        room, evictable = self.cache.room_blocks(admission)
        return bool((room + evictable) * SPARE_PART >= admission.ceiling_blocks)

    def _try_to_meet_safety_margin(self) -> bool:
        """Always: how much memory others use must not decide whether a request may start."""
        self.cache.pool.try_to_free_sectors()
        return True
