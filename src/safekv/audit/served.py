"""The real scheduler and paged cache of the embedded engine, step by step, without a forward pass.

Needs torch and transformers, and is imported by nothing that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.continuous_batching.requests import GenerationOutput

from safekv.audit.world import BLOCK_TOKENS, Judge, Prompt, verdicts
from safekv.cache import CacheConfig
from safekv.engines.hf.admission import Admission
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.loop import SelectiveLoop
from safekv.engines.hf.sampling import sampling_kwargs
from safekv.types import TenantId, pack_tokens
from safekv.warden import Keys, Prefill, PromptJob, Warden, WardenConfig

BATCH_TOKENS = 16
BATCH_REQUESTS = 3
NEW_TOKENS = 5
ANSWER = 11
"""The token that every step of the stub answers."""
STEP_S = 1e-3
"""A step of the loop takes this, and nothing more for what it computes."""


class _Steps:
    """A clock of the loop's steps."""

    def __init__(self) -> None:
        self.n = 0

    def now_s(self) -> float:
        return self.n * STEP_S


@dataclass(slots=True)
class Watched:
    """What the sender of one request sees, by the loop's step: `placed` are its places in the
    batch, `tokens` the steps at which tokens came."""

    request_id: str
    tenant: TenantId
    admission: Admission
    placed: list[tuple[int, int, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    due_s: float = 0.0
    finished: bool = False

    def seen(self, began_s: float | None) -> tuple[object, ...]:
        """What its sender can tell: when each token came, what it was told was cached, and, since
        others' times may show it, its places in the batch.

        Masked, with the time at which the tenant's first request was scheduled: the first token
        comes when it is due after that, and the others keep their distance. How the batch went on
        meanwhile is not to be seen, and how long all waited to be scheduled is load.
        """
        cached = self.admission.cached_tokens
        if began_s is None:
            return (*self.tokens, cached, *self.placed)
        apart = [token - self.tokens[0] for token in self.tokens]
        return (round(self.due_s - began_s, 6), cached, *apart)


class ServedWorld:
    """One run of the embedded engine's loop in this thread, with a stub for the model's forward
    pass: everything else, scheduler, memory, set-backs and the warden, is what serves."""

    def __init__(
        self,
        config: WardenConfig,
        tenants: Iterable[TenantId],
        *,
        quota_blocks: int,
        pool_blocks: int,
        judge: Judge,
        keys: Keys,
        declared: Sequence[Prompt] = (),
    ) -> None:
        opened = list(tenants)
        cache = CacheConfig(
            block_tokens=BLOCK_TOKENS,
            capacity_blocks=(len(opened) + 1) * quota_blocks + pool_blocks,
            shared_blocks=pool_blocks,
            quota_blocks=quota_blocks,
        )
        self._clock, self._judge = _Steps(), judge
        self._jobs: list[PromptJob] = []
        self.warden = Warden(config, cache, keys=keys, clock=self._clock)
        if self.warden.schedule is not None:
            self.warden.schedule.calibrate([Prefill(1, 0, STEP_S), Prefill(64, 0, 64 * STEP_S)])
        self.warden.open(opened)
        self.warden.declare([pack_tokens(prompt) for prompt in declared])
        self.warden.on_prompt(self._jobs.append)
        engine = HFConfig(max_batch_tokens=BATCH_TOKENS, max_requests_per_batch=BATCH_REQUESTS)
        self._loop = SelectiveLoop(_model(), cache, engine, self.warden, clock=self._clock)
        self._loop.warmed_up = True
        self._processor: Any = self._loop._create_batch_processor()
        self._processor.output_router.deliver_batch = self._deliver
        self.requests: dict[str, Watched] = {}
        self._sent = 0

    # -- requests --------------------------------------------------------------------------

    def send(self, tenant: TenantId, prompt: Prompt, new_tokens: int = NEW_TOKENS) -> Watched:
        """Queue one request."""
        request_id, self._sent = f"r{self._sent}", self._sent + 1
        ceiling = self.warden.ceiling_blocks(tenant)
        watched = Watched(request_id, tenant, Admission(tenant, len(prompt), ceiling))
        self.requests[request_id] = watched
        self._loop.admissions.by_id[request_id] = watched.admission
        self._loop.add_request(
            list(prompt),
            request_id=request_id,
            max_new_tokens=new_tokens,
            streaming=True,
            eos_token_id=-1,
            **sampling_kwargs(0, 1),
        )
        return watched

    def step(self) -> bool:
        """One turn of the loop; whether it had anything to do."""
        self._clock.n += 1
        if not self._processor.prepare_next_batch():
            return False
        batch = self._processor.inputs_and_outputs
        for place, future in enumerate(batch.requests_in_batch):
            watched = self.requests[future.state.request_id]
            watched.placed.append((self._clock.n, place, future.query_length))
        batch.output_ids[0, :].fill_(ANSWER)
        self._processor.update_batch()
        return True

    def run(self, most: int = 400) -> None:
        """Step until all requests have ended. Raises `RuntimeError` when they do not."""
        for _ in range(most):
            if not self.step() and not self._processor.has_pending_requests():
                break
        else:
            raise RuntimeError("the scheduler does not come to an end")
        self._processor.scheduler.clear_cancelled_requests()  # hands the prompts in
        self._processor.cache.check()

    def take(self, tenant: TenantId) -> list[tuple[object, ...]]:
        """What `tenant` has seen of its requests since the last call, in the order in which
        answers came, and forget everybody's."""
        mine = [one for one in self.requests.values() if one.tenant == tenant]
        began_s = None
        if self.warden.config.masked:
            began_s = min((one.admission.scheduled_s for one in mine), default=0.0)
        rows = [one.seen(began_s) for one in mine]
        self.requests.clear()
        return sorted(rows)

    def _deliver(self, outputs: Sequence[GenerationOutput]) -> None:
        for output in outputs:
            watched = self.requests[output.request_id]
            watched.tokens.append(self._clock.n)
            watched.finished = output.is_finished()
            watched.due_s = watched.admission.due_s

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> int:
        """Judge what was sent, let all answers go out, and end the epoch."""
        self._clock.n += 1_000_000
        while self._jobs:
            job = self._jobs.pop(0)
            found = verdicts(self._judge, job)
            if found is not None:
                self.warden.settle(job, found)
        return self.warden.tick()

    def cached_blocks(self, tenant: TenantId, prompt: Prompt) -> int:
        """How many blocks of `prompt` its tenant would be told of."""
        lease = self.warden.admit(tenant, pack_tokens(prompt))
        told = self.warden.visible_blocks(lease)
        self.warden.release(lease)
        return told


def _model() -> LlamaForCausalLM:
    """One layer of random weights, never asked for a token."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model
