"""vLLM's own scheduler and block pool without a model: an executor that computes nothing.

For tests and measurements. Each prompt is answered with the same tokens, at once.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch
from vllm.config import CacheConfig as VllmCacheConfig
from vllm.config import KVEventsConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from safekv.cache import CacheConfig
from safekv.engines.vllm.claim import EXTRA_ARG, sign
from safekv.engines.vllm.config import VllmConfig as PluginConfig
from safekv.engines.vllm.hasher import BlockNamer
from safekv.engines.vllm.index.book import IndexBook
from safekv.engines.vllm.keeper import Index, Keeper, NoIndex
from safekv.engines.vllm.keys import BlockKeys
from safekv.engines.vllm.scheduler import Deployment, SelectiveScheduler
from safekv.safeguard import SafeguardConfig
from safekv.types import TOKEN_BYTES, Mode, TenantId, Verdict, unpack_tokens
from safekv.warden import Keys, PromptJob, WardenConfig

SECRET: Final = b"k" * 32
"""The claim key of a rig. Nothing real is signed with it."""

MODEL: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "vocab_size": 200_000,
    "max_position_embeddings": 1 << 20,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
}
"""A model of which there are no weights, and none are read."""

Judge = Callable[[Sequence[int]], Verdict | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RigPlan:
    """How to build a rig. `stock` is vLLM alone; `asynchronous` its `AsyncScheduler`.

    `delay` prompts must end before one is judged. `prompt_tokens` is the longest prompt.
    """

    warden: WardenConfig
    block_tokens: int = 16
    blocks: int = 1000
    prompt_tokens: int = 8192
    batch_tokens: int = 1 << 17
    stock: bool = False
    asynchronous: bool = False
    events: bool = False
    safeguard: SafeguardConfig | None = None
    index: CacheConfig | None = None
    delay: int = 0
    keys: Keys | None = None


class Answer(tuple[int, int]):
    """Tokens that were found, and tokens the tenant was told of."""

    __slots__ = ()

    @property
    def hit(self) -> int:
        """Prompt tokens that needed no computing."""
        return self[0]

    @property
    def told(self) -> int:
        """The usage field."""
        return self[1]


class StepIndex:
    """An index in this process, whose verdicts come when the test says so."""

    def __init__(self, keeper: Keeper, sizes: CacheConfig, plan: RigPlan, judge: Judge) -> None:
        self.book = IndexBook(
            plan.warden,
            sizes,
            plan.safeguard or SafeguardConfig(),
            BlockKeys(SECRET),
            keeper.hear,
            keys=plan.keys,
        )
        self._width = sizes.block_tokens * TOKEN_BYTES
        self._judge, self._delay = judge, plan.delay
        self._jobs: list[tuple[int, PromptJob]] = []
        self._ended = 0

    def put(self, tenant: TenantId, tokens: bytes) -> None:
        """Remember a prompt, and judge those whose time has come."""
        job = self.book.computed(tenant, tokens)
        if job is not None:
            self._jobs.append((self._ended + self._delay, job))
        while self._jobs and self._jobs[0][0] <= self._ended:
            self._settle(self._jobs.pop(0)[1])
        self._ended += 1

    def _settle(self, job: PromptJob) -> None:
        blocks = (
            unpack_tokens(job.tokens[n * self._width : (n + 1) * self._width])
            for n in range(job.full_blocks)
        )
        verdicts = [self._judge(block) for block in blocks]
        if None not in verdicts:
            self.book.warden.settle(job, [verdict for verdict in verdicts if verdict])

    def stop(self) -> None:
        """Nothing to stop."""


def everything_clean(block: Sequence[int]) -> Verdict:
    """The worst detector there is."""
    return Verdict.SHAREABLE


class Rig:
    """One engine core without executor. Requests run one after another, or as told."""

    def __init__(self, plan: RigPlan, judge: Judge = everything_clean) -> None:
        self.plan = plan
        self._numbers = count()
        self._hash = get_hash_fn_by_name("sha256")
        init_none_hash(self._hash)
        shape = plan.block_tokens, plan.blocks, plan.prompt_tokens, plan.batch_tokens
        config = _config(*shape, asynchronous=plan.asynchronous, events=plan.events)
        base: type = AsyncScheduler if plan.asynchronous else Scheduler
        self.scheduler = _scheduler(base if plan.stock else self._selective(base, judge), config)
        self.hits: dict[str, int] = {}
        self._listen()
        if plan.stock:
            self.hasher: Any = get_request_block_hasher(plan.block_tokens, self._hash)
        else:
            self.hasher = BlockNamer(BlockKeys(SECRET), SECRET, plan.block_tokens, self._hash)

    def _selective(self, base: type, judge: Judge) -> type:
        plan = self.plan

        def start(keeper: Keeper, sizes: CacheConfig) -> Index:
            if plan.warden.mode not in (Mode.SELECTIVE, Mode.DECLARED):
                return NoIndex()
            return StepIndex(keeper, plan.index or sizes, plan, judge)

        deployed = Deployment(
            mode=plan.warden.mode,
            vllm=PluginConfig(step_budget_us=10**9),
            cache=CacheConfig(),
            safeguard=plan.safeguard or SafeguardConfig(),
            secret=SECRET,
            start_index=start,
        )
        return type(
            "RigScheduler",
            (SelectiveScheduler, base),
            {"deployment": staticmethod(lambda vllm_config: deployed)},
        )

    # -- requests --------------------------------------------------------------------------

    @property
    def pool(self) -> Any:
        """vLLM's block pool."""
        return self.scheduler.kv_cache_manager.block_pool

    @property
    def keeper(self) -> Keeper:
        """safekv's part."""
        keeper: Keeper = self.scheduler.keeper
        return keeper

    @property
    def book(self) -> IndexBook:
        """The index's book."""
        index = self.keeper.index
        assert isinstance(index, StepIndex)
        return index.book

    def request(
        self,
        tenant: str | None,
        prompt: Sequence[int],
        *,
        max_tokens: int = 1,
        salt: str | None = None,
        extra: dict[str, Any] | None = None,
        **more: Any,
    ) -> Request:
        """A request with a signed claim for `tenant`, named as the input thread would."""
        said = dict(extra or {})
        if tenant is not None:
            said[EXTRA_ARG] = sign(SECRET, TenantId(tenant), now_s=time.time(), lifetime_s=60.0)
        params = SamplingParams(
            max_tokens=max_tokens, temperature=0.0, ignore_eos=True, extra_args=said or None
        )
        return Request(
            request_id=more.pop("request_id", f"r{next(self._numbers)}"),
            prompt_token_ids=list(prompt),
            sampling_params=params,
            pooling_params=None,
            cache_salt=salt,
            block_hasher=self.hasher,
            **more,
        )

    def add(self, request: Request) -> Request:
        """Hand a request to the scheduler."""
        self.scheduler.add_request(request)
        return request

    def step(self) -> dict[str, Any]:
        """One step: schedule, compute nothing, take the answers in. The stats that went out."""
        scheduled = self.scheduler.schedule()
        ids = list(scheduled.num_scheduled_tokens)
        tokens = []
        for name in ids:
            request = self.scheduler.requests[name]
            done = request.num_computed_tokens >= request.num_tokens
            tokens.append([7] if done else [])
        output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={name: n for n, name in enumerate(ids)},
            sampled_token_ids=tokens,
        )
        said: dict[str, Any] = {}
        for outputs in self.scheduler.update_from_output(scheduled, output).values():
            for one in outputs.outputs:
                if one.prefill_stats is not None:
                    said[one.request_id] = one.prefill_stats
        return said

    def run(self, limit: int = 100_000) -> dict[str, Any]:
        """Step until nothing is left."""
        said: dict[str, Any] = {}
        for _ in range(limit):
            if not self.scheduler.has_unfinished_requests():
                return said
            said.update(self.step())
        raise AssertionError("requests that never end")

    def send(self, tenant: str | None, prompt: Sequence[int], **more: Any) -> Answer:
        """One whole request: what it found, and what its tenant was told."""
        request = self.add(self.request(tenant, prompt, **more))
        said = self.run()
        return Answer((self.hits[request.request_id], said[request.request_id].num_cached_tokens))

    def _listen(self) -> None:
        """Note what each admitted request found, before the tenant is told less."""
        manager = self.scheduler.kv_cache_manager
        inner = manager.record_prefix_cache_stats

        def heard(request: Request, num_hits: int) -> None:
            self.hits[request.request_id] = num_hits
            inner(request, num_hits)

        manager.record_prefix_cache_stats = heard

    def tick(self) -> int:
        """End an epoch, and apply what it decided; the promoted blocks."""
        promoted = self.book.tick()
        self.keeper.drain()
        return promoted


@cache
def _config(
    block_tokens: int,
    blocks: int,
    prompt_tokens: int,
    batch_tokens: int,
    *,
    asynchronous: bool,
    events: bool,
) -> VllmConfig:
    folder = Path(tempfile.gettempdir()) / f"safekv-rig-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    config = VllmConfig(
        model_config=ModelConfig(
            model=str(folder),
            tokenizer=str(folder),
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=prompt_tokens,
        ),
        cache_config=VllmCacheConfig(block_size=block_tokens, enable_prefix_caching=True),
        scheduler_config=SchedulerConfig(
            max_num_seqs=64,
            max_num_batched_tokens=min(batch_tokens, 64 * prompt_tokens),
            max_model_len=prompt_tokens,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=asynchronous,
        ),
    )
    # vLLM's CPU platform sets sizes of its own; nothing here computes.
    config.cache_config.block_size = block_tokens
    config.cache_config.num_gpu_blocks = blocks
    config.scheduler_config.async_scheduling = asynchronous
    if events:
        config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
    return config


def _scheduler(cls: type, config: VllmConfig) -> Any:
    size = config.cache_config.block_size
    spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    caches = KVCacheConfig(
        num_blocks=config.cache_config.num_gpu_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    return cls(
        vllm_config=config,
        kv_cache_config=caches,
        structured_output_manager=StructuredOutputManager(config),
        block_size=size,
        hash_block_size=size,
        log_stats=True,
    )
