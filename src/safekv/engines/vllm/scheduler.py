"""vLLM's scheduler with safekv's names: a mixin over `Scheduler` and `AsyncScheduler`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from safekv.cache import CacheConfig
from safekv.engines.vllm import install
from safekv.engines.vllm.config import VllmConfig
from safekv.engines.vllm.drift import require_known_vllm
from safekv.engines.vllm.hasher import keyed_of
from safekv.engines.vllm.keeper import Index, Keeper
from safekv.engines.vllm.keys import BlockKeys
from safekv.engines.vllm.manager import SelectiveKVCacheManager
from safekv.engines.vllm.refusals import require_supported
from safekv.engines.vllm.visible import Visibility
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a scheduler needs from the one who composes it.

    `start_index` starts the index for a pool of so many blocks, named as given; its keeper
    hears of it. It is not called in modes in which nothing is promoted.
    """

    mode: Mode
    vllm: VllmConfig
    cache: CacheConfig
    safeguard: SafeguardConfig
    secret: bytes = field(repr=False)
    start_index: Callable[[Keeper, CacheConfig], Index]


class SelectiveScheduler:
    """A mixin: put it before vLLM's `Scheduler` or `AsyncScheduler`.

    Raises `ConfigError` when vLLM is another than the one this was written for, or is
    configured in a way that safekv does not cover: then the server does not start.
    """

    keeper: Keeper
    verifies_claims: Final = True
    """What the front asks for, before it lets a request pass: see `plugins/vllm/middleware.py`."""

    @staticmethod
    def deployment(vllm_config: Any) -> Deployment:
        """The settings, given by whoever composes the scheduler."""
        raise NotImplementedError

    def __init__(self, vllm_config: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        require_known_vllm()
        require_supported(vllm_config, kv_cache_config)
        deployed = self.deployment(vllm_config)
        super().__init__(vllm_config, kv_cache_config, *args, **kwargs)  # type: ignore[call-arg]
        manager = self.kv_cache_manager  # type: ignore[attr-defined]
        pool = manager.block_pool
        visible = Visibility(deployed.mode, deployed.safeguard, own_blocks=pool.num_gpu_blocks)
        self.keeper = Keeper(pool, visible, deployed.vllm.step_budget_us / 1e6)
        SelectiveKVCacheManager.adopt(manager, self.keeper)
        install.next_engine(BlockKeys(deployed.secret), deployed.secret)
        if deployed.mode in (Mode.SELECTIVE, Mode.DECLARED):
            sizes = deployed.vllm.cache(pool.hash_block_size, pool.num_gpu_blocks, deployed.cache)
            self.keeper.index = deployed.start_index(self.keeper, sizes)

    def add_request(self, request: Request) -> None:
        """Take a request in. One that continues a session of another tenant ends its sharing."""
        keyed = self.keeper.require(request)
        existing = self.requests.get(request.request_id)  # type: ignore[attr-defined]
        super().add_request(request)  # type: ignore[misc]
        if existing is not None:
            known = keyed_of(existing)
            if known is None or known.tenant != keyed.tenant:
                self.keeper.disown(existing)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Apply verdicts, then schedule a step."""
        self.keeper.drain()
        return super().schedule(*args, **kwargs)  # type: ignore[misc]

    def _update_request_with_output(
        self, request: Request, *args: Any, **kwargs: Any
    ) -> tuple[list[int], bool]:
        """Take new tokens in; the first ones mean that the prompt was computed."""
        self.keeper.computed(request)
        taken: tuple[list[int], bool] = super()._update_request_with_output(  # type: ignore[misc]
            request, *args, **kwargs
        )
        return taken

    def shutdown(self) -> None:
        """Stop the index, then the rest."""
        self.keeper.index.stop()
        super().shutdown()  # type: ignore[misc]
