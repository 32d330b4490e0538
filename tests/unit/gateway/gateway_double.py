"""The application over an engine double, and shorthands to call it."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from echo_engine import MODEL, EchoEngine
from fastapi import FastAPI

from safekv.gateway.tenants import TenantStore


@dataclass
class Gateway:
    """One application over an engine double, with a key for two tenants and an operator."""

    engine: EchoEngine
    store: TenantStore
    client: httpx.AsyncClient
    app: FastAPI
    alice: str
    bob: str
    operator: str

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key or self.alice}"}

    async def complete(self, key: str | None = None, **fields: object) -> httpx.Response:
        body = {"model": MODEL, "prompt": "hi", **fields}
        return await self.client.post("/v1/completions", json=body, headers=self.headers(key))

    async def chat(self, key: str | None = None, **fields: object) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=self.headers(key))

    async def raw(self, content: bytes, path: str = "/v1/completions") -> httpx.Response:
        return await self.client.post(path, content=content, headers=self.headers())
