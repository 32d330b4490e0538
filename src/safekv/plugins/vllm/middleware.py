"""`--middleware safekv.engines.vllm.TenantMiddleware`: the front, with this server's settings.

The name is resolved when vLLM builds its application. That is when settings and keys are read,
so that what is wrong with them stops the server's start: the middleware itself is only built
later, when an exception would look to the server like an application without a start-up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Scope

from safekv.engines.vllm.claim import load_claim_key
from safekv.gateway.tenants import TenantStore, default_keys_file
from safekv.gateway.vllm.front import Front
from safekv.plugins.vllm.config import load_settings

logger = logging.getLogger(__name__)


class SchedulerCheck:
    """Whether the server's scheduler reads claims: safekv's do, and say so by `verifies_claims`.

    Without it every tenant would use one cache, as in a stock server, while the front pretends
    that they do not. Asked once, of the class that the engine core takes.
    """

    def __init__(self) -> None:
        self._found: bool | None = None

    def __call__(self, scope: Scope) -> bool:
        if self._found is None:
            config = scope["app"].state.vllm_config.scheduler_config
            self._found = getattr(config.get_scheduler_cls(), "verifies_claims", False) is True
            if not self._found:
                logger.error(
                    "safekv: nothing is served, because vLLM runs without safekv's scheduler; "
                    "start it with SAFEKV=1 or --scheduler-cls safekv.engines.vllm.Scheduler"
                )
        return self._found


def bound_front(env: Mapping[str, str]) -> type[Front]:
    """The class that vLLM adds to its application, bound to the settings and keys of `env`.

    Makes the claim key if there is none yet. Raises `ConfigError` for a setting or a key file
    that cannot be trusted.
    """
    settings = load_settings(env)
    tenants = TenantStore(settings.server.keys_file or default_keys_file(env))
    tenants.check()
    bound: dict[str, Any] = {
        "tenants": tenants,
        "claim_key": load_claim_key(env),
        "max_body_bytes": settings.server.max_body_bytes,
        "config": settings.front,
        "believed": SchedulerCheck(),
    }

    class TenantMiddleware(Front):
        """safekv's front with the settings of this process."""

        def __init__(self, app: ASGIApp) -> None:
            super().__init__(app, **bound)

    # Once for nothing, so that a gateway's secret that cannot be read stops the start too.
    TenantMiddleware(_no_app)
    if settings.front.trusted_source:
        logger.warning(
            "safekv: whoever can reach this server as the trusted gateway chooses the tenant (%s)",
            settings.front.trusted_source,
        )
    return TenantMiddleware


async def _no_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("this application is never called")


def __getattr__(name: str) -> object:
    if name == "TenantMiddleware":
        return bound_front(os.environ)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
