"""`/v1/admin`: for operators alone. To anybody else these routes do not exist."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safekv.errors import RequestError
from safekv.gateway.admin import Admin
from safekv.gateway.auth import Principal, authenticate
from safekv.gateway.bodies import StrictBody, parse_plain
from safekv.gateway.tenants import TenantStore
from safekv.types import Mode, Profile


class DeclareBody(StrictBody):
    """A text to declare: how prompts begin, or with `system` a chat's system message."""

    text: str
    system: bool = False


class ModeBody(StrictBody):
    """A stricter mode, and under `selective` perhaps another profile."""

    mode: Annotated[Mode, Field(strict=False)]
    profile: Annotated[Profile, Field(strict=False)] | None = None


def admin_routes(admin: Admin, tenants: TenantStore) -> APIRouter:
    """The operators' routes. A tenant's key gets the answer of a route that is not there."""
    router = APIRouter(prefix="/v1/admin")

    def operator(request: Request) -> Principal:
        principal = authenticate(request, tenants)
        if principal.role != "operator":
            raise RequestError("no such route", code="not_found", status=404)
        return principal

    @router.get("/declarations", response_model=None)
    async def declared(request: Request) -> Response:
        operator(request)
        return JSONResponse({"object": "list", "data": await run_sync(admin.declared)})

    @router.post("/declarations", response_model=None)
    async def declare(request: Request) -> Response:
        principal = operator(request)
        body = parse_plain(DeclareBody, await request.body())
        one = await run_sync(lambda: admin.declare(principal, body.text, system=body.system))
        return JSONResponse(one, 201)

    @router.delete("/declarations/{declaration_id}", response_model=None)
    async def revoke(request: Request, declaration_id: str) -> Response:
        principal = operator(request)
        one = await run_sync(lambda: admin.revoke(principal, declaration_id))
        return JSONResponse({**one, "deleted": True})

    @router.get("/mode", response_model=None)
    async def mode(request: Request) -> Response:
        operator(request)
        return JSONResponse(admin.mode())

    @router.put("/mode", response_model=None)
    async def set_mode(request: Request) -> Response:
        principal = operator(request)
        body = parse_plain(ModeBody, await request.body())
        done = await run_sync(lambda: admin.set_mode(principal, body.mode, body.profile))
        return JSONResponse(done)

    return router
