"""`/health` for anyone and `/metrics` for operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safekv.engines.base import Engine
from safekv.gateway.auth import require_operator
from safekv.gateway.tenants import TenantStore
from safekv.telemetry.prometheus import CONTENT_TYPE


def operation_routes(
    engine: Engine,
    tenants: TenantStore,
    metrics: Callable[[], bytes],
    warnings: Sequence[str],
) -> APIRouter:
    """The routes that watch the server. `/health` holds no counter and no load."""
    router = APIRouter()

    @router.get("/health", response_model=None)
    async def health() -> Response:
        runs, keys = engine.healthy(), tenants.usable()
        body = {
            **engine.health(),
            "status": "ok" if runs and keys else "degraded",
            "generation": "ok" if runs else "stopped",
            "keys": "ok" if keys else "refused",
            "warnings": list(warnings),
        }
        return JSONResponse(body, 200 if runs and keys else 503)

    @router.get("/metrics", response_model=None)
    async def metric_text(request: Request) -> Response:
        require_operator(request, tenants)
        return Response(metrics(), media_type=CONTENT_TYPE)

    return router
