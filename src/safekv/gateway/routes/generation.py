"""`/v1/completions` and `/v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from safekv.errors import RequestError
from safekv.gateway.answers import ChatShape, CompletionShape
from safekv.gateway.auth import require_tenant
from safekv.gateway.bodies import AnyBody, ChatBody, CompletionBody, parse
from safekv.gateway.streaming import GenerationResponse, Service
from safekv.gateway.tenants import TenantStore
from safekv.types import TenantId


def generation_routes(service: Service, tenants: TenantStore) -> APIRouter:
    """The routes on which tenants generate. The key is checked before the body is read."""
    router = APIRouter()
    model_id = service.engine.model_id

    async def accept(request: Request, model: type[AnyBody]) -> tuple[TenantId, AnyBody]:
        tenant = require_tenant(request, tenants)
        body = parse(model, await request.body())
        require_model(body.model, model_id)
        return tenant, body

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        tenant, body = await accept(request, CompletionBody)
        return GenerationResponse(service, tenant, body, CompletionShape(model_id))

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        tenant, body = await accept(request, ChatBody)
        return GenerationResponse(service, tenant, body, ChatShape(model_id))

    return router


def require_model(asked: str, served: str) -> None:
    """Raise `RequestError` (404) unless `asked` is the one model served."""
    if asked != served:
        raise RequestError(
            f"the model {asked[:120]!r} does not exist",
            f"use {served!r}",
            param="model",
            code="model_not_found",
            status=404,
        )
