"""The gateway as one ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from fastapi import FastAPI

from safekv.engines.base import Engine
from safekv.gateway import errors
from safekv.gateway.admin import Admin
from safekv.gateway.boundary import BodyLimit, ErrorWall
from safekv.gateway.config import GatewayConfig
from safekv.gateway.limits import WaitingRoom
from safekv.gateway.routes.admin import admin_routes
from safekv.gateway.routes.generation import generation_routes
from safekv.gateway.routes.models import model_routes
from safekv.gateway.routes.operations import operation_routes
from safekv.gateway.streaming import Service
from safekv.gateway.tenants import TenantStore

ENCODERS = 1
"""Prompts tokenised at once. Fast tokenizers are not safe to call from two threads."""


def create_app(
    engine: Engine,
    tenants: TenantStore,
    config: GatewayConfig,
    *,
    metrics: Callable[[], bytes],
    warnings: Sequence[str] = (),
    admin: Admin | None = None,
) -> FastAPI:
    """The OpenAI-compatible application in front of `engine`, which it neither starts nor stops.

    `metrics` renders Prometheus text; `warnings` are shown in `/health` to anyone; `admin` carries
    out what operators ask for, if they may ask for anything. Serves no
    documentation pages. `engine.encode` and `engine.encode_chat` are called from a worker
    thread, one call at a time; everything else from the event loop.
    """
    app = FastAPI(title="safekv", openapi_url=None, redirect_slashes=False)
    errors.install(app)
    service = Service(
        engine,
        WaitingRoom(config.max_waiting, config.max_waiting_per_tenant),
        WaitingRoom(config.max_running, config.max_running_per_tenant),
        anyio.CapacityLimiter(ENCODERS),
    )
    app.include_router(generation_routes(service, tenants))
    app.include_router(model_routes(engine.model_id, tenants))
    app.include_router(operation_routes(engine, tenants, metrics, warnings))
    if admin is not None:
        app.include_router(admin_routes(admin, tenants))
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    # Added last, so it is the outermost.
    app.add_middleware(ErrorWall)
    return app
