"""Errors as an OpenAI client expects them. What went wrong inside stays inside."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from safekv.errors import AccessError, OverloadedError, RequestError, SafeKVError
from safekv.gateway.auth import REFUSED

ROUTE_ERRORS = {
    404: ("no such route", "not_found"),
    405: ("this route does not know that method", "method_not_allowed"),
}


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """The one shape of all errors."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: Exception) -> dict[str, object]:
    """The body that tells a client of `error`. Of a server's fault it says only that it is one."""
    if isinstance(error, AccessError):
        return error_body(REFUSED, "invalid_request_error", code="invalid_api_key")
    if isinstance(error, OverloadedError):
        return error_body(_sentence(error), "rate_limit_error", code="rate_limit_exceeded")
    if isinstance(error, RequestError):
        return error_body(
            _sentence(error), "invalid_request_error", param=error.param, code=error.code
        )
    if status_of(error) == 503:
        return error_body("the engine is not available", "server_error", code="unavailable")
    return error_body("internal error", "server_error", code="internal_error")


def status_of(error: Exception) -> int:
    """The HTTP status of `error`: 500 for whatever was not raised on purpose."""
    return error.http_status if isinstance(error, SafeKVError) else 500


def error_response(error: Exception) -> JSONResponse:
    """`describe(error)` with its status and headers."""
    return JSONResponse(describe(error), status_of(error), headers=_headers(error))


def _headers(error: Exception) -> Mapping[str, str]:
    if isinstance(error, AccessError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _sentence(error: SafeKVError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


async def _on_safekv_error(_: Request, error: Exception) -> JSONResponse:
    return error_response(error)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message, code = ROUTE_ERRORS.get(error.status_code, ("bad request", "bad_request"))
    body = error_body(message, "invalid_request_error", code=code)
    return JSONResponse(body, error.status_code, headers=error.headers)


def install(app: FastAPI) -> None:
    """Give every error raised behind the router the OpenAI shape."""
    app.add_exception_handler(SafeKVError, _on_safekv_error)
    app.add_exception_handler(HTTPException, _on_http_error)
