"""Who runs next: first come, first served, each tenant within its own memory.

transformers reacts to a full cache by setting requests back, whosever they are, and by
admitting nobody until one finishes. Here a tenant's lack of memory is that tenant's alone.
"""

from __future__ import annotations

from typing import Final

from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from safekv.engines.hf.admission import Admission
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
        in_the_way = self._in_the_way()
        if in_the_way or batch[0] is not None:
            self.starved_requests = in_the_way
        return batch

    def _in_the_way(self) -> list[tuple[RequestState, int]]:
        """The starved requests of tenants of whom nothing goes on, but for each one's first.

        That one gets the memory of the others; where something goes on, all can wait for it.
        """
        starved = {state.request_id for state, _ in self.starved_requests}
        going = {self._tenant(r) for r in self.active_requests if r not in starved}
        in_the_way, seen = [], set[TenantId]()
        for state, n_tokens in self.starved_requests:
            tenant = self._tenant(state.request_id)
            if tenant not in going and tenant in seen:
                in_the_way.append((state, n_tokens))
            seen.add(tenant)
        return in_the_way

    def _get_waiting_candidates(self) -> list[RequestState]:
        """The waiting requests whose tenants have memory to start them, and whose blocks are not
        on their way from disk."""
        busy = {self._tenant(request_id) for request_id in self.active_requests}
        spare: dict[TenantId, bool] = {}
        chosen = []
        for state in super()._get_waiting_candidates():
            if self.cache.waits_for_disk(state):
                continue
            admission = self.cache.admission(state.request_id)
            if admission is not None and admission.tenant in busy:
                if admission.tenant not in spare:
                    spare[admission.tenant] = self._has_spare(admission)
                if not spare[admission.tenant]:
                    continue
            chosen.append(state)
        return chosen

    def _has_spare(self, admission: Admission) -> bool:
        """Whether the tenant, of which requests run, has memory to start another."""
        if admission.tenant in self.set_back:
            return False
        room, evictable = self.cache.room_blocks(admission)
        return bool((room + evictable) * SPARE_PART >= admission.ceiling_blocks)

    def _try_to_meet_safety_margin(self) -> bool:
        """Always: how much memory others use must not decide whether a request may start."""
        self.cache.pool.try_to_free_sectors()
        return True
