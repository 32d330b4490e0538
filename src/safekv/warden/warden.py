"""The one object an engine holds. It joins the tree, the policy and the detector's verdicts.

The numbers in the comments are the steps of `docs/life-of-a-request.md`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from safekv.cache import CacheConfig, Lease, PrefixTree, TreeStats
from safekv.events import Admitted, Event, EventSink, Evicted, NullSink, Promoted, Stored
from safekv.types import TOKEN_BYTES, BlockId, Mode, TenantId, Verdict
from safekv.warden.config import WardenConfig
from safekv.warden.promotion import PromotionQueue, PromptJob, evidence_from


class Warden:
    """Decides what each tenant may reuse, and is the only one that touches the tree.

    Mutable state: the tree and the promotion queue, both behind one lock that is held for
    microseconds. The engine's thread calls `admit`, `store`, `release` and `evict`; the
    detector's thread calls `settle` and `tick`. Events leave outside the lock.
    """

    def __init__(
        self, config: WardenConfig, cache: CacheConfig, events: EventSink | None = None
    ) -> None:
        self.config = config
        self.block_tokens = cache.block_tokens
        self._tree = PrefixTree(cache.block_tokens)
        self._queue = PromotionQueue()
        self._lock = threading.Lock()
        self._events = events or NullSink()
        self._on_prompt: Callable[[PromptJob], None] | None = None

    def on_prompt(self, listener: Callable[[PromptJob], None]) -> None:
        """Call `listener` with every prompt that was stored. It must return at once."""
        self._on_prompt = listener

    # -- the request path ------------------------------------------------------------------

    def admit(self, tenant: TenantId, tokens: bytes) -> Lease:
        """Step 3: the blocks of `tokens` that `tenant` may reuse, locked until `release`.

        At least one token is left to compute, since its logits are needed. O(tokens).
        """
        n_tokens = len(tokens) // TOKEN_BYTES
        with self._lock:
            return self._tree.match(tenant, tokens, max(0, n_tokens - 1) // self.block_tokens)

    def store(self, lease: Lease, tokens: bytes, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Step 6: keep `blocks`, the KV of all full blocks of `tokens`, in the tenant's cache.

        Returns the blocks that the path has now. Where they differ from `blocks`, the same
        content was stored already: the caller uses that copy and frees its own. Private,
        except in `unsafe-global`, where everything is shared at once.
        """
        with self._lock:
            before = self._tree.stored_blocks
            stored = self._tree.insert(lease, tokens, blocks)
            new = self._tree.stored_blocks - before
            if self.config.mode is Mode.UNSAFE_GLOBAL:
                self._tree.promote(lease.tenant, tokens, len(blocks))
        duplicates = sum(a != b for a, b in zip(stored, blocks, strict=True))
        self._emit(Stored(lease.tenant, new, duplicates))
        return stored

    def computed(self, lease: Lease, prompt: bytes) -> PromptJob | None:
        """Count a prompt that was computed; what the detector should see of it, if anything.

        The tenant becomes a holder of what it read. `None` when nothing is left to decide:
        no full block, all of them shared already, or a mode that never promotes.
        """
        n_tokens, width = len(prompt) // TOKEN_BYTES, self.block_tokens
        hit, own = len(lease.blocks) * width, lease.own_blocks * width
        with self._lock:
            self._tree.adopt(lease, prompt)
            shared = self._tree.shared_blocks_of(prompt)
        self._emit(Admitted(lease.tenant, n_tokens, hit, own))
        full = n_tokens // width
        if full <= shared or self.config.mode is not Mode.SELECTIVE:
            return None
        return PromptJob(lease.tenant, prompt, full)

    def submit(self, job: PromptJob) -> None:
        """Step 7: hand a prompt to the detector, without waiting.

        Generated tokens never come here: they stay private until someone sends them.
        """
        if self._on_prompt is not None:
            self._on_prompt(job)

    def release(self, lease: Lease) -> None:
        """Step 6, last: let the lease's blocks be evicted again. Safe to call twice."""
        with self._lock:
            self._tree.release(lease)

    def evict(self, n_blocks: int) -> list[BlockId]:
        """Let claims lapse until `n_blocks` charged blocks are free; the blocks nobody holds now.

        Least recently used first, and nothing that a running request needs.
        """
        with self._lock:
            freed = self._tree.evict(n_blocks)
        if freed:
            self._emit(Evicted(len(freed)))
        return freed

    # -- off the request path --------------------------------------------------------------

    def settle(self, job: PromptJob, verdicts: Sequence[Verdict]) -> None:
        """Step 8, first half: remember what of `job` was cleared, until the next tick.

        Only clearing counts. A veto leaves no trace, so nobody can learn from what is
        promoted later that another tenant's text was vetoed.
        """
        evidence = evidence_from(job, verdicts, self.block_tokens)
        if evidence is not None and self.config.mode is Mode.SELECTIVE:
            with self._lock:
                self._queue.add(evidence)

    def tick(self) -> int:
        """Step 8, second half: end the epoch and promote what it cleared. Blocks promoted."""
        with self._lock:
            promoted = sum(
                self._tree.promote(e.tenant, e.tokens, e.n_blocks) for e in self._queue.take()
            )
        if promoted:
            self._emit(Promoted(promoted))
        return promoted

    # -- facts -----------------------------------------------------------------------------

    def evictable_blocks(self) -> int:
        """How many charged blocks `evict` could free now."""
        with self._lock:
            return self._tree.evictable_blocks

    def charged_blocks(self) -> int:
        """What the tree costs of the budget: a private run once per holder."""
        with self._lock:
            return self._tree.charged_blocks

    def locked_blocks(self) -> int:
        """How many charged blocks running requests hold now."""
        with self._lock:
            return self._tree.charged_blocks - self._tree.evictable_blocks

    def stored_blocks(self) -> int:
        """How many blocks the tree holds now."""
        with self._lock:
            return self._tree.stored_blocks

    def stats(self) -> TreeStats:
        """Sizes now, for the operator only. O(nodes)."""
        with self._lock:
            return self._tree.stats()

    def check(self) -> None:
        """Raise `IsolationBroken` unless the tree's invariants hold. O(tree)."""
        with self._lock:
            self._tree.check()

    def _emit(self, event: Event) -> None:
        self._events.emit(event)
