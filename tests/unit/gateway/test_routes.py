from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from echo_engine import MODEL
from gateway_double import Gateway

from safekv.telemetry.prometheus import CONTENT_TYPE

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
USAGE = {
    "prompt_tokens": 2,
    "completion_tokens": 3,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 3},
}


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; its end must be `[DONE]`."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_completion(gateway: Gateway) -> None:
    body = (await gateway.complete(temperature=0, top_p=0.5)).json()
    choice = {"text": "Hello!", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert body["choices"] == [choice]
    assert body["usage"] == USAGE
    assert (body["object"], body["model"]) == ("text_completion", MODEL)
    assert "alice" not in json.dumps(body)
    (request,) = gateway.engine.requests
    assert (request.tenant, request.temperature, request.top_p) == ("alice", 0.0, 0.5)
    assert list(request.token_ids) == list(b"hi")
    assert request.max_tokens == 16


async def test_a_chat(gateway: Gateway) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    body = (await gateway.chat(messages=messages, max_completion_tokens=2)).json()
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert gateway.engine.chats == [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "ab"}]
    ]


async def test_prompts_are_encoded_off_the_event_loop(gateway: Gateway) -> None:
    await gateway.complete()
    await gateway.chat()
    assert gateway.engine.encoding_threads
    assert threading.get_ident() not in gateway.engine.encoding_threads


async def test_an_open_answer_gets_what_is_left_of_the_context(gateway: Gateway) -> None:
    await gateway.complete(prompt="x" * 60)
    await gateway.chat(messages=[{"role": "user", "content": "x" * 35}])
    assert [one.max_tokens for one in gateway.engine.requests] == [4, 64 - 40]


async def test_a_streamed_chat(gateway: Gateway) -> None:
    chunks = events(await gateway.chat(stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {"content": "!"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * 4 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_streamed_completion_with_usage(gateway: Gateway) -> None:
    options = {"include_usage": True}
    *chunks, last = events(await gateway.complete(stream=True, stream_options=options))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello!"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], USAGE)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_across_pieces_ends_the_request(gateway: Gateway, stream: bool) -> None:
    gateway.engine.script = ["one ", "two\n", "\nthr", "ee", "never"]
    response = await gateway.complete(stop=["\n\n", "zzz"], stream=stream)
    if stream:
        chunks = events(response)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        assert response.json()["choices"][0]["text"] == "one two"
        assert response.json()["usage"]["completion_tokens"] == 3
    assert (gateway.engine.completed, gateway.engine.cancelled) == (0, 1)


async def test_an_unfinished_stop_string_is_given_back(gateway: Gateway) -> None:
    gateway.engine.script = ["a", "EN"]
    assert (await gateway.complete(stop="END")).json()["choices"][0]["text"] == "aEN"


async def test_no_client_field_or_header_chooses_the_tenant(gateway: Gateway) -> None:
    claims = dict.fromkeys(("cache_salt", "user", "session_id", "tenant", "tenant_id"), "bob")
    body = {"model": MODEL, "prompt": "hi", "metadata": {"tenant": "bob"}, "priority": 1, **claims}
    headers = gateway.headers() | dict.fromkeys(
        ("X-Tenant", "OpenAI-Organization", "OpenAI-Project", "X-Forwarded-User", "Cookie"), "bob"
    )
    for query in ("", "?tenant=bob&user=bob"):
        response = await gateway.client.post(f"/v1/completions{query}", json=body, headers=headers)
        assert response.status_code == 200
    assert [one.tenant for one in gateway.engine.requests] == ["alice", "alice"]
    await gateway.complete(gateway.bob, user="alice")
    assert gateway.engine.requests[-1].tenant == "bob"


async def test_models(gateway: Gateway, error_of: ErrorOf) -> None:
    listed = await gateway.client.get("/v1/models", headers=gateway.headers())
    one = await gateway.client.get(f"/v1/models/{MODEL}", headers=gateway.headers())
    assert listed.json()["data"] == [one.json()]
    assert one.json()["id"] == MODEL
    other = await gateway.client.get("/v1/models/other", headers=gateway.headers())
    assert other.status_code == 404
    assert error_of(other)["code"] == "model_not_found"
    assert (await gateway.client.get("/v1/models")).status_code == 401


async def test_health_needs_no_key_and_holds_no_counter(gateway: Gateway) -> None:
    fresh = await gateway.client.get("/health")
    assert fresh.status_code == 200
    assert fresh.json() == {
        "mode": "isolated",
        "status": "ok",
        "engine": "double",
        "generation": "ok",
        "keys": "ok",
        "warnings": ["mode is unsafe-global"],
    }
    await gateway.complete()
    assert (await gateway.client.get("/health")).json() == fresh.json()
    gateway.engine.runs = False
    stopped = await gateway.client.get("/health")
    assert (stopped.status_code, stopped.json()["status"]) == (503, "degraded")


async def test_health_says_that_keys_are_refused(gateway: Gateway) -> None:
    gateway.store.path.chmod(0o644)
    response = await gateway.client.get("/health")
    assert (response.status_code, response.json()["keys"]) == (503, "refused")
    assert str(gateway.store.path) not in response.text


async def test_metrics_are_for_operators(gateway: Gateway, error_of: ErrorOf) -> None:
    async def metrics(**headers: str) -> httpx.Response:
        return await gateway.client.get("/metrics", headers=headers)

    assert (await metrics()).status_code == 401
    tenants = await metrics(**gateway.headers())
    assert tenants.status_code == 403
    assert error_of(tenants)["code"] == "wrong_role"
    shown = await metrics(**gateway.headers(gateway.operator))
    assert shown.content == b"# metrics\n"
    assert shown.headers["content-type"] == CONTENT_TYPE
    assert (await gateway.complete(gateway.operator)).status_code == 403
    assert gateway.engine.requests == []


async def test_every_refused_key_gets_the_same_401(gateway: Gateway, error_of: ErrorOf) -> None:
    revoked = gateway.store.add("carol")
    assert (await gateway.complete(revoked)).status_code == 200
    gateway.store.revoke("carol")
    head = gateway.alice.rpartition("_")[0]
    offers: list[Any] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {head}_{'A' * 43}"},
        {"Authorization": f"Bearer skv_{'0' * 12}_{'A' * 43}"},
        {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Basic {gateway.alice}"},
        {"Authorization": gateway.alice},
        {"X-API-Key": gateway.alice},
        [("Authorization", f"Bearer {gateway.alice}"), ("Authorization", "Bearer other")],
    ]
    body = {"model": MODEL, "prompt": "hi"}
    answers = [
        await gateway.client.post("/v1/completions", json=body, headers=offer) for offer in offers
    ]
    assert {one.status_code for one in answers} == {401}
    assert len({one.content for one in answers}) == 1
    assert len({tuple(one.headers.raw) for one in answers}) == 1
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert error_of(answers[0])["code"] == "invalid_api_key"
    assert len(gateway.engine.requests) == 1


async def test_a_key_file_gone_bad_refuses_everyone_alike(gateway: Gateway) -> None:
    unknown = await gateway.complete("nonsense")
    gateway.store.path.chmod(0o644)
    refused = await gateway.complete()
    assert (refused.status_code, refused.content) == (401, unknown.content)
    gateway.store.path.chmod(0o600)
    assert (await gateway.complete()).status_code == 200
