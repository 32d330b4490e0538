"""A server without model, network or clock: the real warden, and what its tenants observe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from safekv.cache import CacheConfig, Lease
from safekv.errors import CacheError
from safekv.events import EventSink
from safekv.safeguard import SafeguardConfig
from safekv.types import BlockId, TenantId, Verdict, pack_tokens, unpack_tokens
from safekv.warden import Keys, PromptJob, Warden, WardenConfig

BLOCK_TOKENS = 4
Prompt = tuple[int, ...]
Judge = Callable[[Sequence[int]], Verdict | None]
"""A detector of one block's tokens. `None`: it gives no answer at all."""


def everything_clean(block: Sequence[int]) -> Verdict:
    """The worst detector there is: the guarantees that do not rest on it must hold with it."""
    return Verdict.SHAREABLE


def verdicts(judge: Judge, job: PromptJob) -> list[Verdict] | None:
    """What `judge` says of each full block, `None` if it gives no answer to one."""
    tokens = unpack_tokens(job.tokens)
    found = [
        judge(tokens[n * BLOCK_TOKENS : (n + 1) * BLOCK_TOKENS]) for n in range(job.full_blocks)
    ]
    return None if None in found else [verdict for verdict in found if verdict]


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a tenant can observe of one request, on a clock that counts computed tokens.

    `waited_tokens` is the time to the first token, `cached_tokens` the usage field,
    `billed_tokens` what is charged; `room_blocks` is what the tenant may still store. A
    request that does not fit is refused, and then the rest is 0.
    """

    waited_tokens: int
    cached_tokens: int
    billed_tokens: int
    room_blocks: int
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A request that was admitted and not finished yet."""

    tenant: TenantId
    prompt: Prompt
    lease: Lease


class World:
    """One run of a server. Its tenants act one after another; a tick ends an epoch.

    With `delay` a prompt is judged when that many more requests have ended, as by a slow
    detector with time enough for all: a queue that others fill is another channel. `keys`
    let two worlds have the same secrets; otherwise each start draws its own.
    """

    def __init__(
        self,
        config: WardenConfig,
        tenants: Iterable[TenantId],
        *,
        quota_blocks: int = 500,
        pool_blocks: int = 500,
        judge: Judge = everything_clean,
        delay: int = 0,
        declared: Sequence[Prompt] = (),
        safeguard: SafeguardConfig | None = None,
        events: EventSink | None = None,
        keys: Keys | None = None,
    ) -> None:
        self._opened = tuple(tenants)
        self._cache = CacheConfig(
            block_tokens=BLOCK_TOKENS,
            # One quota to spare, for the one cache of `unsafe-global`.
            capacity_blocks=(len(self._opened) + 1) * quota_blocks + pool_blocks,
            shared_blocks=pool_blocks,
            quota_blocks=quota_blocks,
        )
        self._config, self._judge, self._delay = config, judge, delay
        self._declared, self._safeguard, self._events = declared, safeguard, events
        self._keys = keys
        self._ids = count()
        self.restart()

    def restart(self) -> None:
        """Kill the process and start another: nothing in memory survives."""
        self.warden = Warden(self._config, self._cache, self._events, self._safeguard, self._keys)
        self.warden.open(self._opened)
        self.warden.declare([pack_tokens(prompt) for prompt in self._declared])
        self._jobs: deque[tuple[int, PromptJob]] = deque()
        self._ended = 0

    # -- requests --------------------------------------------------------------------------

    def start(self, tenant: TenantId, prompt: Prompt) -> tuple[Running, Seen]:
        """Admit a request; what its tenant learns from the first token of the answer."""
        lease = self.warden.admit(tenant, pack_tokens(prompt))
        told = self.warden.visible_blocks(lease) * BLOCK_TOKENS
        # Masked, the first token goes out when it would have with what the tenant is told of.
        found = told if self.warden.config.masked else lease.hit_blocks * BLOCK_TOKENS
        seen = Seen(len(prompt) - found, told, len(prompt) - told, self.room(tenant))
        return Running(tenant, prompt, lease), seen

    def finish(self, running: Running) -> bool:
        """Compute and store what was not found; whether it fitted."""
        tenant, prompt, lease = running.tenant, running.prompt, running.lease
        full = len(prompt) // BLOCK_TOKENS
        new = [BlockId(next(self._ids)) for _ in range(full - lease.n_blocks)]
        fits = True
        try:
            self.warden.store(tenant, lease, pack_tokens(prompt[: full * BLOCK_TOKENS]), new)
        except CacheError:
            fits = False
        else:
            job = self.warden.computed(tenant, lease, pack_tokens(prompt))
            self.warden.ripen(lease, 0.0)
            if job is not None:
                self._jobs.append((self._ended + self._delay, job))
        self.warden.release(lease)
        self.warden.take_freed()
        self._judge_due()
        self._ended += 1
        return fits

    def send(self, tenant: TenantId, prompt: Prompt) -> Seen:
        """One whole request."""
        running, seen = self.start(tenant, prompt)
        return seen if self.finish(running) else Seen(0, 0, 0, seen.room_blocks, refused=True)

    def burst(self, tenant: TenantId, prompts: Sequence[Prompt]) -> tuple[Seen | int | bool, ...]:
        """Several requests at once: what each shows, in which order they end, and which fit.

        Whoever has less left to compute comes first, as under longest-prefix scheduling.
        """
        started = [self.start(tenant, prompt) for prompt in prompts]
        order = sorted(range(len(started)), key=lambda n: (started[n][1].waited_tokens, n))
        fits = [self.finish(started[n][0]) for n in order]
        return (*(seen for _, seen in started), *order, *fits)

    def evict(self, tenant: TenantId, n_blocks: int) -> None:
        """Let the tenant's oldest blocks lapse, as a request of its own may."""
        self.warden.evict(n_blocks, tenant)

    def room(self, tenant: TenantId) -> int:
        """How many blocks the tenant may still store without losing any."""
        usage = self.warden.usage(tenant)
        return usage.ceiling_blocks - usage.charged_blocks

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> int:
        """End an epoch; the promoted blocks."""
        return self.warden.tick()

    def _judge_due(self) -> None:
        while self._jobs and self._jobs[0][0] <= self._ended:
            _, job = self._jobs.popleft()
            found = verdicts(self._judge, job)
            if found is not None:
                self.warden.settle(job, found)
