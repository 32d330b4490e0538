"""`/v1/models`: the one model this server runs."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safekv.gateway.auth import authenticate
from safekv.gateway.routes.generation import require_model
from safekv.gateway.tenants import TenantStore


def model_routes(model_id: str, tenants: TenantStore) -> APIRouter:
    """The routes that name the model, for any key."""
    router = APIRouter()
    card = {
        "id": model_id,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "safekv",
    }

    @router.get("/v1/models", response_model=None)
    async def models(request: Request) -> Response:
        authenticate(request, tenants)
        return JSONResponse({"object": "list", "data": [card]})

    # `path`: the ids of many models hold a slash.
    @router.get("/v1/models/{name:path}", response_model=None)
    async def model(request: Request, name: str) -> Response:
        authenticate(request, tenants)
        require_model(name, model_id)
        return JSONResponse(card)

    return router
