"""Reading a request's body: one JSON object that has one meaning, or an error."""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from safekv.errors import RequestError

Body: TypeAlias = dict[str, Any]

JSON_TYPES: Final = ("application/json", "application/json; charset=utf-8")


async def read(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """The whole body. Raises `RequestError` (413) at the byte after `max_bytes`.

    A declared length is believed when it is too large, and otherwise never.
    """
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def require_json(headers: Headers) -> None:
    """Raise `RequestError` (415) unless the body is declared as plain, uncompressed JSON."""
    kinds = headers.getlist("content-type")
    kind = kinds[0].lower().replace('"', "") if len(kinds) == 1 else ""
    if "; ".join(part.strip() for part in kind.split(";")) not in JSON_TYPES:
        raise _unsupported(
            "the body is not declared as JSON", "send Content-Type: application/json"
        )
    if any(coding.lower() != "identity" for coding in headers.getlist("content-encoding")):
        raise _unsupported("the body is compressed", "send it without Content-Encoding")


def parse(raw: bytes) -> Body:
    """The JSON object in `raw`. Raises `RequestError`, quoting nothing of it.

    Refuses what two readers could understand differently: a name that occurs twice in one object,
    anything but UTF-8, NaN and infinities.
    """
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # `from None`: the cause quotes the body.
        raise RequestError(
            "the body is not one JSON object in UTF-8 with each name once",
            "mend it",
            code="invalid_json",
        ) from None
    if not isinstance(found, dict):
        raise RequestError("the body is no JSON object", "send an object", code="invalid_json")
    return found


def write(body: Body) -> bytes:
    """`body` as JSON in ASCII. Raises `RequestError` for numbers that JSON cannot say."""
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise RequestError("a number in the body is not finite", code="invalid_json") from None


def _once_each(pairs: list[tuple[str, Any]]) -> Body:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        f"the body is larger than {max_bytes} bytes",
        "send a shorter prompt",
        code="body_too_large",
        status=413,
    )


def _unsupported(message: str, hint: str) -> RequestError:
    return RequestError(message, hint, code="unsupported_media_type", status=415)
