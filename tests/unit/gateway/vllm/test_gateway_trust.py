"""A gateway that authenticated already is believed if it was declared and proves itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.front import CLAIM_KEY, Harness, claimed

from safekv.errors import ConfigError
from safekv.gateway.vllm.config import FrontConfig
from safekv.gateway.vllm.front import Front

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": []}
SECRET = "s" * 40
GATEWAY = [("x-safekv-gateway", SECRET)]


def secret_file(folder: Path, text: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = folder / "gateway.secret"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def by_header(tmp_path: Path) -> Harness:
    return Harness(
        tmp_path, trusted_source="header:X-Tenant", trusted_secret_file=secret_file(tmp_path)
    )


@pytest.fixture
def by_field(tmp_path: Path) -> Harness:
    return Harness(
        tmp_path, trusted_source="field:cache_salt", trusted_networks=("10.0.3.0/24", "fd00::/8")
    )


async def tenant_of(harness: Harness, body: object = HELLO, **request: Any) -> str | None:
    """Whose request it became, or `None` if it was refused."""
    before = len(harness.inner.passed)
    answer = await harness.send("POST", CHAT, body, **request)
    if answer.status != 200:
        assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
        assert len(harness.inner.passed) == before
        return None
    return claimed(harness.last().json()["vllm_xargs"])


async def test_the_header_of_a_gateway_with_the_secret_names_the_tenant(
    by_header: Harness,
) -> None:
    headers = [*GATEWAY, ("x-tenant", "acme")]
    assert await tenant_of(by_header, headers=headers) == "gateway/acme"
    assert set(by_header.last().headers) == {"content-type", "content-length"}
    # What the gateway says counts more than a key that it passes on.
    assert await tenant_of(by_header, headers=headers, key=by_header.alice) == "gateway/acme"


@pytest.mark.parametrize(
    "proof",
    [
        [],
        [("x-safekv-gateway", "")],
        [("x-safekv-gateway", SECRET[:-1])],
        [("x-safekv-gateway", SECRET + "x")],
        [("x-safekv-gateway", "é" * 40)],
        [*GATEWAY, *GATEWAY],
        [*GATEWAY, ("x-safekv-gateway", "x")],
    ],
)
async def test_without_the_secret_the_header_says_nothing(
    by_header: Harness, proof: list[tuple[str, str]]
) -> None:
    headers = [*proof, ("x-tenant", "acme")]
    assert await tenant_of(by_header, headers=headers) is None
    assert await tenant_of(by_header, headers=headers, key=by_header.alice) == "alice"


@pytest.mark.parametrize(
    "named",
    [[], [("x-tenant", "")], [("x-tenant", "a"), ("x-tenant", "b")], [("x-tenant", "x" * 201)]],
)
async def test_a_gateway_that_names_no_single_tenant_is_refused(
    by_header: Harness, named: list[tuple[str, str]]
) -> None:
    assert await tenant_of(by_header, headers=[*GATEWAY, *named]) is None
    # Not even with a key: the gateway is broken, and must not fall back to somebody's.
    headers = [*GATEWAY, *named]
    assert await tenant_of(by_header, headers=headers, key=by_header.alice) is None


async def test_a_gateways_tenant_is_no_tenant_with_a_key(by_header: Harness) -> None:
    by_gateway = await tenant_of(by_header, headers=[*GATEWAY, ("x-tenant", "alice")])
    by_key = await tenant_of(by_header, key=by_header.alice)
    assert (by_gateway, by_key) == ("gateway/alice", "alice")


async def test_the_salt_of_a_gateway_at_its_address_names_the_tenant(by_field: Harness) -> None:
    salted = {**HELLO, "cache_salt": "tenant 7"}
    for client in ("10.0.3.9", "::ffff:10.0.3.9", "fd00::1"):
        assert await tenant_of(by_field, salted, client=client) == "gateway/tenant 7"
        assert "cache_salt" not in by_field.last().json()


@pytest.mark.parametrize(
    "client", ["10.0.4.9", "203.0.113.9", "::1", "::ffff:10.0.4.9", "unix", "", "10.0.3.9.example"]
)
async def test_from_elsewhere_the_salt_says_nothing(by_field: Harness, client: str) -> None:
    salted = {**HELLO, "cache_salt": "tenant 7"}
    assert await tenant_of(by_field, salted, client=client) is None
    assert await tenant_of(by_field, salted, client=client, key=by_field.bob) == "bob"


@pytest.mark.parametrize("salt", [None, "", 7, ["a"], {"a": 1}, True, "x" * 201, "\ud800"])
async def test_a_salt_that_is_no_name_is_refused(by_field: Harness, salt: object) -> None:
    assert await tenant_of(by_field, {**HELLO, "cache_salt": salt}, client="10.0.3.9") is None


async def test_with_secret_and_network_both_are_asked_for(tmp_path: Path) -> None:
    harness = Harness(
        tmp_path,
        trusted_source="header:X-Tenant",
        trusted_secret_file=secret_file(tmp_path),
        trusted_networks=("10.0.3.9/32",),
    )
    named = [("x-tenant", "acme")]
    proven = [*GATEWAY, *named]
    assert await tenant_of(harness, headers=proven, client="10.0.3.9") == "gateway/acme"
    assert await tenant_of(harness, headers=proven, client="10.0.3.8") is None
    assert await tenant_of(harness, headers=named, client="10.0.3.9") is None


async def test_no_address_is_no_address_of_the_gateway(by_field: Harness) -> None:
    salted = {**HELLO, "cache_salt": "tenant 7"}
    answer = await by_field.send("POST", CHAT, salted, **{"client": ""})
    assert answer.status == 401


async def test_a_gateway_is_no_operator(by_header: Harness) -> None:
    headers = [*GATEWAY, ("x-tenant", "acme")]
    assert (await by_header.send("GET", "/metrics", headers=headers)).status == 403
    assert (await by_header.send("GET", "/metrics", key=by_header.operator)).status == 200
    assert (await by_header.send("GET", "/v1/models", headers=headers)).status == 200


async def test_nobody_is_trusted_unless_declared(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    headers = [*GATEWAY, ("x-tenant", "acme")]
    assert await tenant_of(harness, {**HELLO, "cache_salt": "a"}, headers=headers) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trusted_source": "header:X-Tenant"}, "any client could write it"),
        ({"trusted_networks": ("10.0.0.0/8",)}, "is not set"),
        ({"trusted_source": "X-Tenant", "trusted_networks": ("10.0.0.0/8",)}, "'X-Tenant'"),
        ({"trusted_source": "header:Host", "trusted_networks": ("10.0.0.0/8",)}, "'header:Host'"),
        ({"trusted_source": "field:a b", "trusted_networks": ("10.0.0.0/8",)}, "'field:a b'"),
        ({"trusted_source": "field:x", "trusted_networks": ("everywhere",)}, "'everywhere'"),
        ({"trusted_source": "field:x", "trusted_networks": ("10.0.3.9/24",)}, "host bits"),
        ({"trusted_source": "field:x", "trusted_networks": ("0.0.0.0/0",)}, "everybody"),
        ({"trusted_source": "field:x", "trusted_networks": ("::/0",)}, "everybody"),
        ({"claim_lifetime_s": 0.0}, "front.claim_lifetime_s is 0.0"),
        ({"claim_lifetime_s": 86400.0}, "front.claim_lifetime_s is 86400.0"),
        ({"passed_xargs": ("safekv",)}, "'safekv'"),
        ({"passed_xargs": ("kv_transfer_params",)}, "'kv_transfer_params'"),
    ],
)
def test_settings_that_trust_anybody_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FrontConfig(**settings)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (None, 0o600, "no secret"),
        ("short", 0o600, "shorter than 32"),
        ("é" * 40, 0o600, "shorter than 32 ASCII"),
        (SECRET, 0o644, "mode 0644"),
    ],
)
def test_a_secret_that_cannot_be_trusted_is_refused(
    tmp_path: Path, text: str | None, mode: int, message: str
) -> None:
    path = tmp_path / "none" if text is None else secret_file(tmp_path, text, mode)
    with pytest.raises(ConfigError, match=message) as caught:
        Harness(tmp_path, trusted_source="header:X-Tenant", trusted_secret_file=path)
    assert SECRET not in caught.value.message + caught.value.hint


def test_the_front_keeps_its_secret_out_of_its_repr(by_header: Harness) -> None:
    assert isinstance(by_header.front, Front)
    assert SECRET not in repr(by_header.front.__dict__)
    assert CLAIM_KEY.hex() not in repr(by_header.front)
