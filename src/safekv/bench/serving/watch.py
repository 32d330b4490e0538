"""Follows prompts through a running warden: what they found, and when they became shared.

In the server's process, on the calls of `Warden` itself; what it costs is put down to the bench.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safekv.cache import Lease
from safekv.types import TOKEN_BYTES, TenantId, Verdict
from safekv.warden import PromptJob, Warden


@dataclass(slots=True)
class Seen:
    """One prompt: when it was admitted and computed, and what of it was found."""

    tenant: TenantId
    prompt: bytes
    admitted_s: float
    computed_s: float
    hit_blocks: int
    own_blocks: int


@dataclass(slots=True)
class Pending:
    """A prompt of which blocks wait to be shared: `goal` of them, once it is judged."""

    seen: Seen
    goal: int | None = None
    judged_s: float = 0.0


class Watch:
    """What happened to the prompts of one engine since `reset`.

    `admit` and `computed` come from the engine's thread, `settle` from the detector's, `tick`
    from the epoch's; `facts` from any.
    """

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._width = warden.block_tokens * TOKEN_BYTES
        self._admitted: dict[int, float] = {}
        self._seen: list[Seen] = []
        self._pending: dict[tuple[TenantId, bytes], Pending] = {}
        self._promotions: list[dict[str, float]] = []
        self._from = 0
        self._guard = threading.Lock()
        for name in ("admit", "computed", "settle", "tick"):
            setattr(warden, name, getattr(self, f"_{name}")(getattr(warden, name)))

    # -- what the warden is told -----------------------------------------------------------

    def _admit(self, admit: Callable[..., Lease]) -> Callable[..., Lease]:
        def watched(tenant: TenantId, tokens: bytes) -> Lease:
            now_s = time.perf_counter()
            lease = admit(tenant, tokens)
            self._admitted[id(lease)] = now_s
            return lease

        return watched

    def _computed(self, computed: Callable[..., PromptJob | None]) -> Callable[..., Any]:
        def watched(tenant: TenantId, lease: Lease, prompt: bytes) -> PromptJob | None:
            job = computed(tenant, lease, prompt)
            now_s = time.perf_counter()
            admitted_s = self._admitted.pop(id(lease), now_s)
            seen = Seen(tenant, prompt, admitted_s, now_s, lease.hit_blocks, lease.own_blocks)
            with self._guard:
                self._seen.append(seen)
                if job is not None:
                    self._pending[(tenant, prompt)] = Pending(seen)
            return job

        return watched

    def _settle(self, settle: Callable[..., None]) -> Callable[..., None]:
        def watched(job: PromptJob, verdicts: Sequence[Verdict]) -> None:
            settle(job, verdicts)
            cleared = 0
            for verdict in verdicts:
                if verdict is not Verdict.SHAREABLE:
                    break
                cleared += 1
            with self._guard:
                waiting = self._pending.get((job.tenant, job.tokens))
                if waiting is None:
                    return
                if cleared <= waiting.seen.hit_blocks:
                    del self._pending[(job.tenant, job.tokens)]
                    return
                waiting.goal, waiting.judged_s = cleared, time.perf_counter()

        return watched

    def _tick(self, tick: Callable[[], int]) -> Callable[[], int]:
        def watched() -> int:
            promoted = tick()
            if promoted:
                self._look()
            return promoted

        return watched

    def _look(self) -> None:
        with self._guard:
            waiting = [(key, one) for key, one in self._pending.items() if one.goal is not None]
        for key, one in waiting:
            if self._warden.shared_blocks_of(one.seen.prompt) >= (one.goal or 0):
                self._promoted(key, one)

    def _promoted(self, key: tuple[TenantId, bytes], one: Pending) -> None:
        now_s = time.perf_counter()
        with self._guard:
            self._pending.pop(key, None)
            self._promotions.append(
                {
                    "sight_to_computed_s": one.seen.computed_s - one.seen.admitted_s,
                    "computed_to_judged_s": one.judged_s - one.seen.computed_s,
                    "judged_to_shared_s": now_s - one.judged_s,
                    "sight_to_shared_s": now_s - one.seen.admitted_s,
                }
            )

    # -- what it saw -----------------------------------------------------------------------

    def reset(self) -> None:
        """Count from now on; earlier prompts still count as sent."""
        with self._guard:
            self._from = len(self._seen)
            self._promotions.clear()

    def settled(self) -> bool:
        """Whether no prompt waits to be judged or shared."""
        with self._guard:
            return not self._pending

    def facts(self) -> dict[str, Any]:
        """Tokens since `reset`, promotions, and what was missed because they come late."""
        with self._guard:
            seen, start, promotions = list(self._seen), self._from, list(self._promotions)
            waiting = len(self._pending)
        tokens, width = seen[start:], self._warden.block_tokens
        return {
            "prompts": len(tokens),
            "prompt_tokens": sum(len(one.prompt) // TOKEN_BYTES for one in tokens),
            "hit_tokens": sum(one.hit_blocks for one in tokens) * width,
            "own_hit_tokens": sum(one.own_blocks for one in tokens) * width,
            "late_tokens": self._late_blocks(seen, start) * width,
            "promotions": promotions,
            "waiting": waiting,
        }

    def _late_blocks(self, seen: Sequence[Seen], start: int) -> int:
        """Blocks that were computed although somebody had sent them, and that are shared now.

        They were missed only because their promotion came later. O(tokens).
        """
        first: dict[bytes, float] = {}
        late = 0
        for one in sorted(seen, key=lambda one: one.computed_s):
            for name in self._names(one.prompt):
                first.setdefault(name, one.computed_s)
        for one in seen[start:]:
            shared = self._warden.shared_blocks_of(one.prompt)
            known = 0
            for name in self._names(one.prompt):
                if not first[name] < one.admitted_s:
                    break
                known += 1
            late += max(0, min(shared, known) - one.hit_blocks)
        return late

    def _names(self, prompt: bytes) -> Iterator[bytes]:
        """A name for each full block and all before it."""
        digest = hashlib.blake2b(digest_size=16)
        for at in range(0, len(prompt) - self._width + 1, self._width):
            digest.update(prompt[at : at + self._width])
            yield digest.copy().digest()
