"""The middleware in front of vLLM's server: nothing gets past it without a claim or a reason.

Pure ASGI, so that streams and disconnects pass through. It must be the last `--middleware`,
because that is the outermost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safekv.engines.vllm.claim import sign
from safekv.errors import EngineError, RequestError, SafeKVError
from safekv.gateway.errors import error_response
from safekv.gateway.tenants import TenantStore
from safekv.gateway.vllm import body as bodies
from safekv.gateway.vllm import fields, routes
from safekv.gateway.vllm.config import FrontConfig
from safekv.gateway.vllm.identity import Caller, TrustedGateway, identify, require
from safekv.gateway.vllm.routes import Access, Route
from safekv.telemetry.log import where
from safekv.types import TenantId

REMOVED_HEADER: Final = b"x-safekv-removed"
POLICY_VIOLATION: Final = 1008

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request as vLLM gets it: its scope, its whole body, and what was taken out of it."""

    scope: Scope
    body: bytes
    removed: tuple[str, ...] = ()


class Front:
    """Authenticates, denies, cleans and signs every request before vLLM's routes see it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tenants: TenantStore,
        claim_key: bytes,
        max_body_bytes: int,
        config: FrontConfig,
        believed: Callable[[Scope], bool] = lambda _: True,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`believed` says whether the scheduler behind `scope` reads claims: until it does, all
        but open routes answer 503. `now_s` is wall time. Raises `ConfigError` if a gateway's
        secret cannot be trusted."""
        self._app = app
        self._tenants = tenants
        self._claim_key = claim_key
        self._max_body_bytes = max_body_bytes
        self._config = config
        self._gateway = TrustedGateway(config)
        self._believed = believed
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before it is accepted, so the client sees 403.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            admitted = await self._admit(Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, SafeKVError):
                logger.error("request failed: %s", where(error))
            await error_response(error)(scope, receive, send)
            return
        answer = _announcing(send, admitted.removed) if admitted.removed else send
        # What vLLM raises is vLLM's to handle: its handlers stand outside of this layer.
        await self._app(admitted.scope, _replaying(admitted.body, receive), answer)

    async def _admit(self, request: Request) -> Admitted:
        """The request that may pass. Raises a `SafeKVError` for one that may not."""
        if _is_preflight(request):
            # Answered by vLLM's CORS layer, which no route lies behind.
            return Admitted(_scope(request, b"", keep_query=False), b"")
        route = routes.find(request.method, route_path(request.scope))
        if route is None or route.access is Access.NOBODY:
            # The key is looked at first: who has none learns nothing of the server's routes.
            identify(request, self._tenants, self._gateway)
            raise _not_served(route)
        if route.access is Access.OPEN:
            return Admitted(_scope(request, b"", keep_query=False), b"")
        caller = identify(request, self._tenants, self._gateway)
        require(caller, route.access)
        if not self._believed(request.scope):
            raise EngineError("the scheduler does not read claims")
        raw = await bodies.read(request.receive, request.headers, self._max_body_bytes)
        if caller.access is Access.OPERATOR:
            return Admitted(_scope(request, raw, keep_query=True), raw)
        if request.method == "GET":
            return Admitted(_scope(request, b"", keep_query=False), b"")
        return self._rewritten(request, caller, route, raw)

    def _rewritten(self, request: Request, caller: Caller, route: Route, raw: bytes) -> Admitted:
        bodies.require_json(request.headers)
        body = bodies.parse(raw)
        tenant = caller.tenant
        if tenant is None:
            tenant = self._gateway.tenant(request, body)
        clean, removed = fields.prepare(
            body, route.carrier, self._sign(tenant), self._config.passed_xargs
        )
        if route_path(request.scope) == "/v1/responses":
            clean["store"] = False
        written = bodies.write(clean)
        return Admitted(_scope(request, written, keep_query=False), written, tuple(removed))

    def _sign(self, tenant: TenantId) -> str:
        # After the body has arrived, so that a slow upload does not use up the claim's time.
        lifetime_s = self._config.claim_lifetime_s
        return sign(self._claim_key, tenant, now_s=self._now_s(), lifetime_s=lifetime_s)


def route_path(scope: Scope) -> str:
    """The path that vLLM's router compares: without `--root-path`, as Starlette takes it off."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    rest = path.removeprefix(root)
    return rest if rest[:1] in ("", "/") else path


def _is_preflight(request: Request) -> bool:
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and "origin" in headers
        and "access-control-request-method" in headers
    )


def _not_served(route: Route | None) -> RequestError:
    if route is None:
        return RequestError("no such route", code="not_found", status=404)
    return RequestError("this route is not served", route.note, code="not_served", status=403)


def _scope(request: Request, body: bytes, *, keep_query: bool) -> Scope:
    """The scope with the headers that pass, and the length of the body as it is now."""
    scope = request.scope
    headers = [(name, value) for name, value in scope["headers"] if name in fields.HEADERS]
    headers.append((b"content-length", str(len(body)).encode()))
    changed: Mapping[str, object] = {"headers": headers}
    if not keep_query:
        changed = {**changed, "query_string": b""}
    return {**scope, **changed}


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Gives out `body` once; then only the end of the connection gets through."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message

    return replay


def _announcing(send: Send, removed: tuple[str, ...]) -> Send:
    """Tells the client which of its fields were taken out. Names that are not plain are left out:
    a header is no place for them."""
    plain = sorted(name for name in removed if name.replace(".", "_").isidentifier())
    value = ", ".join(name for name in plain if name.isascii())[:1000].encode()

    async def announce(message: Message) -> None:
        if message["type"] == "http.response.start" and value:
            message = {**message, "headers": [*message.get("headers", ()), (REMOVED_HEADER, value)]}
        await send(message)

    return announce
