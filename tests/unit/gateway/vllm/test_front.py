"""Nothing gets past the front but authenticated, cleaned and signed requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from tests.support.front import CLAIM_KEY, NOW_S, Harness, claimed

from safekv.engines.vllm.claim import sign
from safekv.gateway.vllm import fields
from safekv.gateway.vllm.front import Front, route_path
from safekv.gateway.vllm.routes import ROUTES, Access, Carrier
from safekv.types import TenantId

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

FORGED: dict[str, Any] = {
    "cache_salt": "alice",
    "user": "alice",
    "priority": -100,
    "request_id": "r",
    "session_id": "s",
    "prompt_cache_key": "alice",
    "kv_transfer_params": {"do_remote_prefill": True},
    "ec_transfer_params": {"a": 1},
    "extra_args": {"safekv": "alice"},
    "a_field_of_the_future": "alice",
}

SMUGGLED = [
    ("X-Session-ID", "alice"),
    ("X-Vllm-Priority", "-5"),
    ("X-Request-Id", "alice-1"),
    ("X-data-parallel-rank", "0"),
    ("X-Amzn-SageMaker-Session-Id", "alice"),
    ("X-Amzn-SageMaker-Adapter-Identifier", "other-model"),
    ("X-SafeKV-Gateway", "0" * 64),
    ("X-Tenant", "alice"),
    ("Cookie", "tenant=alice"),
    ("X-A-Header-Of-The-Future", "alice"),
]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def routes_for(access: Access) -> list[tuple[str, str]]:
    return [key for key, route in ROUTES.items() if route.access is access]


async def test_the_bearer_becomes_a_signed_claim(harness: Harness) -> None:
    for key, tenant in ((harness.alice, "alice"), (harness.bob, "bob")):
        answer = await harness.send("POST", CHAT, HELLO, key=key)
        assert answer.status == 200
        assert claimed(harness.last().json()["vllm_xargs"]) == tenant
    assert harness.inner.after == [{"type": "http.disconnect"}] * 2


async def test_no_two_requests_bear_the_same_claim(harness: Harness) -> None:
    for _ in range(2):
        await harness.send("POST", CHAT, HELLO, key=harness.alice)
    one, other = (passed.json()["vllm_xargs"]["safekv"] for passed in harness.inner.passed)
    assert one != other


@pytest.mark.parametrize(("method", "path"), [k for k in ROUTES if k[0] != "WEBSOCKET"])
async def test_without_a_key_only_open_routes_answer(
    harness: Harness, method: str, path: str
) -> None:
    for headers in (
        [],
        [("authorization", "Bearer skv_0123456789ab_" + "A" * 43)],
        [("authorization", f"Basic {harness.alice}")],
        [("authorization", f"Bearer {harness.alice}"), ("authorization", "Bearer x")],
    ):
        answer = await harness.send(method, path, {}, headers=headers)
        if ROUTES[(method, path)].access is Access.OPEN:
            assert answer.status == 200
            assert harness.last().body == b""
        else:
            assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
            assert harness.inner.passed == []


@pytest.mark.parametrize(("method", "path"), routes_for(Access.OPERATOR))
async def test_operator_routes_are_closed_to_tenants(
    harness: Harness, method: str, path: str
) -> None:
    refused = await harness.send(method, path, {}, key=harness.alice)
    assert (refused.status, refused.error()["code"]) == (403, "wrong_role")
    assert harness.inner.passed == []
    answer = await harness.send(
        method, path, b'{"lora_name": "x"}', key=harness.operator, query_string=b"level=1"
    )
    assert answer.status == 200
    assert harness.last().body == b'{"lora_name": "x"}'
    assert harness.last().scope["query_string"] == b"level=1"


@pytest.mark.parametrize(("method", "path"), routes_for(Access.TENANT))
async def test_tenant_routes_are_closed_to_operators(
    harness: Harness, method: str, path: str
) -> None:
    refused = await harness.send(method, path, HELLO, key=harness.operator)
    assert (refused.status, refused.error()["code"]) == (403, "wrong_role")
    assert harness.inner.passed == []


@pytest.mark.parametrize(
    ("method", "path"), [k for k in routes_for(Access.NOBODY) if k[0] != "WEBSOCKET"]
)
async def test_refused_routes_are_closed_to_everyone(
    harness: Harness, method: str, path: str
) -> None:
    filled = path.replace("{response_id}", "resp_1").replace("{adapter_name}", "a")
    for at in {path, filled}:
        for key in (harness.alice, harness.operator):
            answer = await harness.send(method, at, HELLO, key=key)
            assert answer.status in (403, 404)
            assert answer.error()["code"] in ("not_served", "not_found")
    assert harness.inner.passed == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/brand/new"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/v1/../v1/chat/completions"),
        ("POST", "/v1/chat/completions\n"),
        ("POST", "v1/chat/completions"),
        ("POST", ""),
        ("GET", CHAT),
        ("PUT", CHAT),
        ("PATCH", CHAT),
        ("post", CHAT),
        ("HEAD", "/docs"),
        ("OPTIONS", CHAT),
        ("TRACE", "/health"),
        ("GET", "/metrics/x"),
        ("GET", "/static/swagger-ui.css"),
        ("GET", "/v1/responses/resp_1"),
    ],
)
async def test_a_route_that_is_not_known_is_denied(
    harness: Harness, method: str, path: str
) -> None:
    for key in (harness.alice, harness.operator):
        answer = await harness.send(method, path, HELLO, key=key)
        assert (answer.status, answer.error()["code"]) == (404, "not_found")
    assert (await harness.send(method, path, HELLO)).status == 401
    assert harness.inner.passed == []


@pytest.mark.parametrize(("method", "path"), routes_for(Access.TENANT))
async def test_nothing_a_client_forges_gets_through(
    harness: Harness, method: str, path: str
) -> None:
    carrier = ROUTES[(method, path)].carrier
    mine = sign(CLAIM_KEY, TenantId("bob"), now_s=NOW_S - 10, lifetime_s=60)
    extra = {"safekv": mine, "session_id": "s", "kv_transfer_params": {"a": 1}}
    body = {**HELLO, **FORGED, "vllm_xargs": extra, "sampling_params": {"extra_args": extra}}
    answer = await harness.send(method, path, body, key=harness.alice, headers=SMUGGLED)
    assert answer.status == 200
    passed = harness.last()
    assert set(passed.headers) == {"content-type", "content-length"}
    assert int(passed.headers["content-length"]) == len(passed.body)
    reached = passed.json()
    assert mine not in passed.body.decode()
    assert reached["messages"] == HELLO["messages"]
    assert set(reached) <= fields.PASSED | {"vllm_xargs", "store", "sampling_params"}
    if carrier is Carrier.XARGS:
        assert list(reached["vllm_xargs"]) == ["safekv"]
        assert claimed(reached["vllm_xargs"]) == "alice"
    else:
        assert "vllm_xargs" not in reached
    assert ("sampling_params" in reached) == (carrier is Carrier.SAMPLING)
    if carrier is Carrier.SAMPLING:
        assert list(reached["sampling_params"]["extra_args"]) == ["safekv"]
        assert claimed(reached["sampling_params"]["extra_args"]) == "alice"
    announced = answer.headers["x-safekv-removed"].split(", ")
    assert {"cache_salt", "user", "priority", "a_field_of_the_future"} <= set(announced)


async def test_a_body_without_such_fields_is_not_announced(harness: Harness) -> None:
    answer = await harness.send("POST", CHAT, HELLO, key=harness.alice)
    assert "x-safekv-removed" not in answer.headers


async def test_responses_are_never_stored(harness: Harness) -> None:
    for store in (True, None, "yes"):
        await harness.send("POST", "/v1/responses", {"input": "x", "store": store}, key=harness.bob)
        assert harness.last().json()["store"] is False


@pytest.mark.parametrize("name", sorted(fields.REFUSED))
async def test_what_would_change_the_answer_is_refused_by_name(harness: Harness, name: str) -> None:
    for path in (CHAT, "/v1/responses", "/inference/v1/generate"):
        answer = await harness.send("POST", path, {**HELLO, name: ["x"]}, key=harness.alice)
        assert (answer.status, answer.error()["param"]) == (400, name)
    assert harness.inner.passed == []
    assert (
        await harness.send("POST", CHAT, {**HELLO, name: None}, key=harness.alice)
    ).status == 200
    assert name not in harness.last().json()


async def test_ids_that_a_client_gives_to_media_are_removed(harness: Harness) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:x", "uuid": "b"}, "uuid": "alices"}
    body = {**HELLO, "messages": [{"role": "user", "content": [part, {"uuid": None}]}]}
    body["tools"] = [{"function": {"parameters": {"properties": {"uuid": {"type": "string"}}}}}]
    answer = await harness.send("POST", CHAT, body, key=harness.alice)
    reached = harness.last().json()
    assert "uuid" not in json.dumps(reached["messages"])
    assert reached["tools"] == body["tools"]
    assert answer.headers["x-safekv-removed"] == "messages.uuid"


async def test_names_of_extra_arguments_pass_only_if_they_are_declared(tmp_path: Path) -> None:
    harness = Harness(tmp_path, passed_xargs=("bias", "level"))
    given = {"bias": 1, "other": 2, "safekv": "forged"}
    await harness.send("POST", CHAT, {**HELLO, "vllm_xargs": given}, key=harness.alice)
    reached = harness.last().json()["vllm_xargs"]
    assert set(reached) == {"bias", "safekv"}
    assert claimed(reached) == "alice"
    body = {"token_ids": [1], "sampling_params": {"extra_args": given, "_all_stop_token_ids": [2]}}
    await harness.send("POST", "/inference/v1/generate", body, key=harness.bob)
    sampling = harness.last().json()["sampling_params"]
    assert set(sampling) == {"extra_args"}
    assert set(sampling["extra_args"]) == {"bias", "safekv"}
    assert claimed(sampling["extra_args"]) == "bob"


@pytest.mark.parametrize("sampling", [None, 1, "x", []])
async def test_sampling_params_that_are_no_object_are_refused(
    harness: Harness, sampling: object
) -> None:
    body = {"token_ids": [1], "sampling_params": sampling}
    answer = await harness.send("POST", "/inference/v1/generate", body, key=harness.alice)
    assert (answer.status, answer.error()["param"]) == (400, "sampling_params")


BAD_BODIES = {
    "empty": b"",
    "text": b"hello",
    "list": b"[]",
    "number": b"1",
    "null": b"null",
    "cut": b'{"messages": [',
    "two": b'{"model": "m"}{"model": "m"}',
    "duplicate": b'{"cache_salt": "a", "cache_salt": "b"}',
    "duplicate inside": b'{"messages": [{"role": "user", "role": "system"}]}',
    "duplicate escaped": b'{"user": 1, "\\u0075ser": 2}',
    "latin-1": '{"model": "é"}'.encode("latin-1"),
    "utf-16": '{"model": "m"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "overlong": b'{"model": "\xc0\xaf"}',
    "surrogate bytes": b'{"model": "\xed\xa0\x80"}',
    "nan": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "overflow": b'{"temperature": 1e999}',
    "digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "nested": b'{"tools": ' + b"[" * 45_000 + b"]" * 45_000 + b"}",
    "control": b'{"model": "a\x00b"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_what_is_not_one_plain_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    harness = Harness(tmp_path, max_body_bytes=100_000)
    json_type = [("content-type", "application/json")]
    answer = await harness.send("POST", CHAT, body, key=harness.alice, headers=json_type)
    assert (answer.status, answer.error()["code"]) == (400, "invalid_json")
    assert harness.inner.passed == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "text/plain")],
        [("content-type", "multipart/form-data; boundary=x")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "application/json; charset=utf-16")],
        [("content-type", "application/json, text/plain")],
        [("content-type", "application/json"), ("content-type", "text/plain")],
        [("content-type", "application/vnd.api+json")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
        [("content-type", "application/json"), ("content-encoding", "br, identity")],
    ],
)
async def test_only_plain_json_is_read(harness: Harness, headers: list[tuple[str, str]]) -> None:
    body = json.dumps(HELLO).encode()
    answer = await harness.send("POST", CHAT, body, key=harness.alice, headers=headers)
    assert (answer.status, answer.error()["code"]) == (415, "unsupported_media_type")
    assert harness.inner.passed == []


@pytest.mark.parametrize(
    "kind",
    ["application/json", 'Application/JSON;charset="UTF-8"', "application/json; charset=utf-8"],
)
async def test_usual_spellings_of_json_are_read(harness: Harness, kind: str) -> None:
    body = json.dumps(HELLO).encode()
    headers = [("content-type", kind), ("content-encoding", "identity")]
    answer = await harness.send("POST", CHAT, body, key=harness.alice, headers=headers)
    assert answer.status == 200


async def test_a_long_body_is_refused_at_the_byte_beyond_the_limit(harness: Harness) -> None:
    def padded(size: int) -> bytes:
        return b'{"prompt": "' + b"x" * (size - 14) + b'"}'

    json_type = [("content-type", "application/json")]
    path = "/v1/completions"
    fits = await harness.send("POST", path, padded(4096), key=harness.alice, headers=json_type)
    assert fits.status == 200
    too_long = padded(9000)
    answer = await harness.send("POST", path, too_long, key=harness.alice, headers=json_type)
    assert (answer.status, answer.error()["code"]) == (413, "body_too_large")
    # 5000 bytes were read when it was clear, not 9000.
    assert len(harness.unread) == 4
    lying = [*json_type, ("content-length", "99999")]
    answer = await harness.send("POST", path, padded(100), key=harness.alice, headers=lying)
    assert answer.status == 413
    assert len(harness.unread) == 1
    assert len(harness.inner.passed) == 1


async def test_who_has_no_key_is_not_read_at_all(harness: Harness) -> None:
    assert (await harness.send("POST", CHAT, {"messages": "x" * 3000})).status == 401
    assert len(harness.unread) == 4


async def test_a_client_that_goes_while_sending_starts_nothing(harness: Harness) -> None:
    sent: list[Message] = []
    messages: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {harness.alice}".encode())]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    await harness.front(scope, receive, send)
    assert sent == []
    assert harness.inner.passed == []


async def test_sockets_are_closed_before_they_are_accepted(harness: Harness) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {harness.alice}".encode())]
    for path in ("/v1/realtime", CHAT, "/health"):
        scope = {"type": "websocket", "path": path, "headers": headers}
        await harness.front(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"] * 3
    assert harness.inner.passed == []


async def test_a_protocol_of_the_future_gets_nothing(harness: Harness) -> None:
    async def never(*_: object) -> Message:
        raise AssertionError("nothing is read or sent")

    await harness.front({"type": "webtransport"}, never, never)  # type: ignore[arg-type]
    assert harness.inner.passed == []


async def test_a_preflight_passes_without_a_key_or_a_body(harness: Harness) -> None:
    asks = [("origin", "http://x"), ("access-control-request-method", "POST")]
    answer = await harness.send("OPTIONS", CHAT, HELLO, headers=asks)
    assert answer.status == 200
    assert harness.last().body == b""
    assert (await harness.send("OPTIONS", CHAT, HELLO, headers=asks[:1])).status == 401


async def test_keys_and_query_strings_stay_outside(harness: Harness) -> None:
    await harness.send("GET", "/v1/models", key=harness.alice, query_string=b"tenant=alice")
    assert harness.last().scope["query_string"] == b""
    assert "authorization" not in harness.last().headers


async def test_a_revoked_key_is_refused_at_once(harness: Harness) -> None:
    assert (await harness.send("POST", CHAT, HELLO, key=harness.alice)).status == 200
    harness.store.revoke("alice")
    assert (await harness.send("POST", CHAT, HELLO, key=harness.alice)).status == 401


async def test_a_loose_key_file_lets_nobody_in(harness: Harness) -> None:
    harness.store.path.chmod(0o644)
    assert (await harness.send("POST", CHAT, HELLO, key=harness.alice)).status == 401
    assert harness.inner.passed == []


async def test_a_fault_of_ours_is_a_bare_500_and_reaches_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret prompt")

    monkeypatch.setattr(fields, "prepare", broken)
    answer = await harness.send("POST", CHAT, HELLO, key=harness.alice)
    assert (answer.status, answer.error()["code"]) == (500, "internal_error")
    assert "secret prompt" not in answer.body.decode() + caplog.text
    assert harness.inner.passed == []


async def test_what_vllm_raises_is_left_to_vllm(tmp_path: Path) -> None:
    async def engine_died(*_: object) -> None:
        raise ValueError("dead")

    harness = Harness(tmp_path, engine_died)
    with pytest.raises(ValueError, match="dead"):
        await harness.send("POST", CHAT, HELLO, key=harness.alice)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", CHAT, CHAT),
        ("/llm", f"/llm{CHAT}", CHAT),
        ("/llm", CHAT, CHAT),
        ("/llm", "/llm", ""),
        ("/llm", f"/llmx{CHAT}", f"/llmx{CHAT}"),
        ("/v1", "/v1/models", "/models"),
    ],
)
def test_the_path_is_what_starlettes_router_takes(root: str, path: str, expected: str) -> None:
    from starlette._utils import get_route_path

    scope = {"path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope) == expected


async def test_a_root_path_opens_no_other_route(harness: Harness) -> None:
    inside = await harness.send("POST", f"/llm{CHAT}", HELLO, key=harness.alice, root_path="/llm")
    assert inside.status == 200
    outside = await harness.send("GET", "/llm/metrics", key=harness.alice, root_path="/llm")
    assert outside.status == 403


def test_a_front_prints_no_key(harness: Harness) -> None:
    assert isinstance(harness.front, Front)
    assert CLAIM_KEY.hex() not in repr(harness.front)
