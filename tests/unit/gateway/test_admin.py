"""The operators' routes: what they do, what they write down, and that they are nobody else's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from echo_engine import EchoEngine

from safekv.errors import ConfigError
from safekv.gateway.admin import Admin
from safekv.gateway.app import create_app
from safekv.gateway.config import GatewayConfig
from safekv.gateway.declarations import DeclarationStore
from safekv.gateway.tenants import TenantStore
from safekv.types import Mode, Profile

TEXT = "You are the assistant of Example Ltd."
ROUTES = (
    ("GET", "/v1/admin/declarations"),
    ("POST", "/v1/admin/declarations"),
    ("DELETE", "/v1/admin/declarations/0123456789ab"),
    ("GET", "/v1/admin/mode"),
    ("PUT", "/v1/admin/mode"),
)
Error = Callable[[httpx.Response], dict[str, object]]


class Engine(EchoEngine):
    """An engine double that becomes stricter."""

    def __init__(self) -> None:
        super().__init__()
        self.now = (Mode.SELECTIVE, Profile.PAPER)

    def sharing(self) -> tuple[Mode, Profile]:
        return self.now

    def set_mode(self, mode: Mode, profile: Profile | None) -> int:
        if mode is Mode.UNSAFE_GLOBAL:
            raise ConfigError("mode unsafe-global shares more than selective", "restart it")
        self.now = (mode, profile or self.now[1])
        return 7


class Server:
    def __init__(self, client: httpx.AsyncClient, engine: Engine, keys: dict[str, str]) -> None:
        self.client, self.engine, self.keys = client, engine, keys

    async def call(
        self, method: str, path: str, body: object = None, key: str | None = "operator"
    ) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {self.keys[key]}"}
        return await self.client.request(method, path, json=body, headers=headers)


@pytest.fixture
async def server(tmp_path: Path, store: TenantStore) -> AsyncIterator[Server]:
    keys = {"tenant": store.add("alice"), "operator": store.add("ops", operator=True)}
    declarations = DeclarationStore(tmp_path / "declared.json", tmp_path / "deployment.key")
    engine = Engine()
    admin = Admin(engine, declarations)
    app = create_app(engine, store, GatewayConfig(), metrics=bytes, admin=admin)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Server(client, engine, keys)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_to_a_tenant_the_routes_do_not_exist(
    server: Server, method: str, path: str, error_of: Error
) -> None:
    body = {"text": TEXT, "mode": "isolated"}
    refused = await server.call(method, path, body, key="tenant")
    missing = await server.call(method, "/v1/no-such-route", body, key="tenant")
    assert (refused.status_code, error_of(refused)) == (404, error_of(missing))
    assert server.engine.now == (Mode.SELECTIVE, Profile.PAPER)
    left = await server.call("GET", "/v1/admin/declarations")
    assert left.json()["data"] == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_nobody_gets_in(
    server: Server, method: str, path: str, error_of: Error
) -> None:
    answer = await server.call(method, path, {"text": TEXT}, key=None)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"


async def test_declared_listed_and_revoked_without_the_text(
    server: Server, caplog: pytest.LogCaptureFixture, error_of: Error
) -> None:
    made = await server.call("POST", "/v1/admin/declarations", {"text": TEXT, "system": True})
    assert made.status_code == 201
    one = made.json()
    assert (one["system"], one["characters"]) == (True, len(TEXT))
    again = await server.call("POST", "/v1/admin/declarations", {"text": TEXT, "system": True})
    assert again.json() == one
    listed = await server.call("GET", "/v1/admin/declarations")
    assert listed.json() == {"object": "list", "data": [one]}
    gone = await server.call("DELETE", f"/v1/admin/declarations/{one['id']}")
    assert gone.json() == {**one, "deleted": True}
    missing = await server.call("DELETE", f"/v1/admin/declarations/{one['id']}")
    assert missing.status_code == 404
    assert error_of(missing)["code"] == "not_found"
    written = [record.getMessage() for record in caplog.records if "audit" in record.name]
    assert len(written) == 3
    assert all(one["id"] in line and "ops" in line for line in written)
    for shown in (made.text, listed.text, gone.text, *written):
        assert "assistant" not in shown


async def test_what_the_command_declares_the_routes_list(server: Server, tmp_path: Path) -> None:
    store = DeclarationStore(tmp_path / "declared.json", tmp_path / "deployment.key")
    one = store.add(TEXT)
    listed = await server.call("GET", "/v1/admin/declarations")
    assert [row["id"] for row in listed.json()["data"]] == [one.id]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "text"), ({"text": "  "}, "text"), ({"text": 3}, "text"), ({"text": "a", "x": 1}, "x")],
)
async def test_bad_declarations_are_named(
    server: Server, body: object, param: str, error_of: Error
) -> None:
    answer = await server.call("POST", "/v1/admin/declarations", body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


async def test_a_store_that_cannot_be_trusted_says_no_more_than_that(
    server: Server, tmp_path: Path, error_of: Error
) -> None:
    (tmp_path / "declared.json").write_text("{}")
    (tmp_path / "declared.json").chmod(0o600)
    answer = await server.call("GET", "/v1/admin/declarations")
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text


async def test_the_mode_becomes_stricter_and_never_looser(
    server: Server, caplog: pytest.LogCaptureFixture, error_of: Error
) -> None:
    before = await server.call("GET", "/v1/admin/mode")
    assert before.json() == {"mode": "selective", "profile": "paper"}
    done = await server.call("PUT", "/v1/admin/mode", {"mode": "selective", "profile": "anonymous"})
    assert done.json() == {"mode": "selective", "profile": "anonymous", "demoted_blocks": 7}
    refused = await server.call("PUT", "/v1/admin/mode", {"mode": "unsafe-global"})
    assert refused.status_code == 409
    assert error_of(refused)["code"] == "not_stricter"
    assert server.engine.now == (Mode.SELECTIVE, Profile.ANONYMOUS)
    wrong = await server.call("PUT", "/v1/admin/mode", {"mode": "open"})
    assert error_of(wrong)["param"] == "mode"
    written = [record.getMessage() for record in caplog.records if "audit" in record.name]
    assert written == ["ops set mode selective, profile anonymous"]


async def test_changes_are_written_down_whatever_the_log_level(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await server.call("PUT", "/v1/admin/mode", {"mode": "isolated"})
    logger = logging.getLogger("safekv.audit_log")
    assert logger.isEnabledFor(logging.INFO)
