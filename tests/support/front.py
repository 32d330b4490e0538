"""safekv's front around an application that records what gets past it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safekv.engines.vllm.claim import KEY_BYTES, verify
from safekv.gateway.tenants import TenantStore
from safekv.gateway.vllm.config import FrontConfig
from safekv.gateway.vllm.front import Front
from safekv.types import TenantId

CLAIM_KEY = bytes(range(KEY_BYTES))
NOW_S = 1_800_000_000.0
Header = tuple[str, str]


@dataclass
class Passed:
    """One request as vLLM would get it."""

    scope: Scope
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.scope["headers"]}

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Recorder:
    """An application that reads each request whole, keeps it, and answers 200."""

    passed: list[Passed] = field(default_factory=list)
    after: list[Message] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.passed.append(Passed(scope, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        self.after.append(await receive())


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """The error, which must have OpenAI's shape."""
        found = json.loads(self.body)
        assert list(found) == ["error"]
        assert list(found["error"]) == ["message", "type", "param", "code"]
        error: dict[str, Any] = found["error"]
        return error


class Harness:
    """A front, its keys, and a way to send one request."""

    def __init__(
        self, folder: Path, app: ASGIApp | None = None, *, max_body_bytes: int = 4096, **front: Any
    ) -> None:
        self.inner = Recorder()
        self.store = TenantStore(folder / "keys" / "tenants.json")
        self.alice, self.bob = self.store.add("alice"), self.store.add("bob")
        self.operator = self.store.add("ops", operator=True)
        self.front = Front(
            app or self.inner,
            tenants=self.store,
            claim_key=CLAIM_KEY,
            max_body_bytes=max_body_bytes,
            config=FrontConfig(**front),
            now_s=lambda: NOW_S,
        )

    async def send(
        self,
        method: str,
        path: str,
        body: object = b"",
        *,
        key: str | None = None,
        headers: list[Header] | None = None,
        client: str = "203.0.113.9",
        **scope: Any,
    ) -> Answer:
        """Send one request in chunks of 1000 bytes; `body` is JSON unless it is bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = [("content-type", "application/json")] if not isinstance(body, bytes) else []
        sent += [("authorization", f"Bearer {key}")] if key else []
        sent += headers or []
        chunks = [raw[at : at + 1000] for at in range(0, len(raw), 1000)] or [b""]
        messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": at < len(chunks) - 1}
            for at, chunk in enumerate(chunks)
        ]
        self.unread = messages
        events: list[Message] = []

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            events.append(message)

        whole: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "root_path": "",
            "client": (client, 4000),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent],
            **scope,
        }
        await self.front(whole, receive, send)
        start = next(event for event in events if event["type"] == "http.response.start")
        return Answer(
            start["status"],
            {name.decode().lower(): value.decode() for name, value in start["headers"]},
            b"".join(event.get("body", b"") for event in events),
        )

    def last(self) -> Passed:
        return self.inner.passed[-1]


def claimed(extra_args: dict[str, Any]) -> TenantId | None:
    """The tenant that the scheduler would read out of these extra arguments."""
    return verify(CLAIM_KEY, extra_args.get("safekv"), now_s=NOW_S)
