from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

# Tests are imported one by one, so the doubles beside them have to be findable.
sys.path.append(str(Path(__file__).parent))

from echo_engine import EchoEngine
from gateway_double import Gateway

from safekv.gateway.app import create_app
from safekv.gateway.config import GatewayConfig
from safekv.gateway.tenants import TenantStore


@pytest.fixture
def store(tmp_path: Path) -> TenantStore:
    return TenantStore(tmp_path / "keys" / "tenants.json")


@pytest.fixture
def config() -> GatewayConfig:
    return GatewayConfig(max_body_bytes=4096, max_waiting=3, max_waiting_per_tenant=2)


@pytest.fixture
async def gateway(store: TenantStore, config: GatewayConfig) -> AsyncIterator[Gateway]:
    alice, bob = store.add("alice"), store.add("bob")
    operator = store.add("ops", operator=True)
    engine = EchoEngine()
    app = create_app(
        engine, store, config, metrics=lambda: b"# metrics\n", warnings=["mode is unsafe-global"]
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Gateway(engine, store, client, app, alice, bob, operator)


@pytest.fixture
def error_of() -> Callable[[httpx.Response], dict[str, object]]:
    """Takes the error out of a response and requires OpenAI's shape of it."""

    def check(response: httpx.Response) -> dict[str, object]:
        body = response.json()
        assert list(body) == ["error"]
        assert list(body["error"]) == ["message", "type", "param", "code"]
        assert body["error"]["message"]
        error: dict[str, object] = body["error"]
        return error

    return check
