"""The outermost layers of the gateway: pure ASGI, so that streams and disconnects pass through."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safekv.errors import RequestError
from safekv.gateway.errors import error_response
from safekv.telemetry.log import where

logger = logging.getLogger(__name__)


class ErrorWall:
    """Lets no exception out: one that nobody expected becomes a bare 500.

    Without it the server would log the exception's message, which may quote a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            logger.debug("client went away while sending")
        except Exception as error:
            logger.error("request failed: %s", where(error))
            if not started:
                await error_response(error)(scope, receive, send)


class BodyLimit:
    """Stops reading a body once more than `max_bytes` of it have arrived.

    Raises `RequestError` (413) out of `receive`, so that the route's error handling answers.
    The declared length is believed when it is too large, and otherwise never. The server
    discards what a client still sends after the answer; closing at once would reset the
    connection, and the client would never read why.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = 0
        declared = _declared_bytes(scope)

        async def limited() -> Message:
            nonlocal arrived
            self._require(declared)
            message = await receive()
            arrived += len(message.get("body", b""))
            self._require(arrived)
            return message

        await self._app(scope, limited, send)

    def _require(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise RequestError(
                f"the body is larger than {self._max_bytes} bytes",
                "send a shorter prompt",
                code="body_too_large",
                status=413,
            )


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
