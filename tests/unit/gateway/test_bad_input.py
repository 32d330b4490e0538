from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from echo_engine import MODEL
from gateway_double import Gateway

from safekv.errors import EngineError, IsolationBroken

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_a_prompt_longer_than_the_context_names_both_lengths(
    gateway: Gateway, error_of: ErrorOf
) -> None:
    for prompt in ("x" * 64, "x" * 700):
        error = error_of(response := await gateway.complete(prompt=prompt))
        assert response.status_code == 400
        assert error["code"] == "context_length_exceeded"
        assert f"{len(prompt)} tokens" in error["message"]
        assert "context 64" in error["message"]
        assert error["param"] == "prompt"
    chat = await gateway.chat(messages=[{"role": "user", "content": "x" * 64}])
    assert error_of(chat)["param"] == "messages"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_does_not_fit_names_all_lengths(
    gateway: Gateway, error_of: ErrorOf, name: str
) -> None:
    messages = [{"role": "user", "content": "x" * 35}]
    response = await gateway.chat(messages=messages, **{name: 25})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("context_length_exceeded", name)
    for length in ("40 tokens", f"{name} is 25", "context of 64", "at most 24"):
        assert length in error["message"]
    assert (await gateway.chat(messages=messages, **{name: 24})).status_code == 200


BAD_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": [[1, 2]]}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"model": None}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": "x" * 257}, "stop[0]"),
    ({"stop": [1]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"seed": 1}, "seed"),
    ({"seed": 1, "temperature": 0.5}, "seed"),
    ({"n": 2}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"logprobs": 0}, "logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"presence_penalty": 0.1}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"top_k": 5}, "top_k"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_COMPLETIONS, ids=lambda value: str(value)[:40])
async def test_a_bad_completion_field_is_named(
    gateway: Gateway, error_of: ErrorOf, fields: dict[str, Any], param: str
) -> None:
    response = await gateway.complete(**fields)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert gateway.engine.requests == []


def user(content: object, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **fields}]}


BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
    (user(None), "messages[0].content"),
    (user([]), "messages[0].content"),
    (user([{"type": "image_url", "image_url": {"url": "u"}}]), "messages[0].content"),
    (user([{"type": "text"}]), "messages[0].content"),
    (user(["hi"]), "messages[0].content"),
    (user("hi", tool_calls=[{"id": "1"}]), "messages[0].tool_calls"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHATS, ids=lambda value: str(value)[:40])
async def test_a_bad_chat_field_is_named(
    gateway: Gateway, error_of: ErrorOf, fields: dict[str, Any], param: str
) -> None:
    response = await gateway.chat(**fields)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert gateway.engine.requests == []


async def test_fields_that_ask_for_nothing_are_accepted(gateway: Gateway) -> None:
    neutral = {
        "n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": None, "logit_bias": {},
        "presence_penalty": 0, "frequency_penalty": 0.0, "seed": 7, "temperature": 0,
        "stop": None, "stream": None, "max_tokens": None, "prompt": ["hi"], "user": "u",
        "response_format": {"type": "text"}, "store": True, "unheard_of": [1],
    }  # fmt: skip
    assert (await gateway.complete(**neutral)).status_code == 200


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b"[" * 3000, "invalid_json"),
        (b'{"model":"echo/one","prompt":"\xff"}', "invalid_utf8"),
        (b'{"model":"echo/one","prompt":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"model":"echo/one","prompt":"\\ud800"}', "invalid_json"),
        (b'{"model":"echo/one","prompt":"\\udc00 x"}', "invalid_json"),
        (b'{"model":"echo/one","prompt":"a","user":"\\ud800 x"}', "invalid_json"),
        (b'{"model":"echo/one","prompt":"a","temperature":NaN}', "invalid_value"),
        (b'{"model":"echo/one","prompt":"a","temperature":1e999}', "invalid_value"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_body_that_is_no_json_text(
    gateway: Gateway, error_of: ErrorOf, raw: bytes, code: str
) -> None:
    response = await gateway.raw(raw)
    assert response.status_code == 400
    assert error_of(response)["code"] == code


async def test_the_content_type_does_not_matter(gateway: Gateway) -> None:
    body = json.dumps({"model": MODEL, "prompt": "hé"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"):
        headers = gateway.headers() | {"Content-Type": kind}
        response = await gateway.client.post("/v1/completions", content=body, headers=headers)
        assert response.status_code == 200


async def test_an_unknown_model(gateway: Gateway, error_of: ErrorOf) -> None:
    for response in (await gateway.complete(model="gpt"), await gateway.chat(model="gpt")):
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
        assert error_of(response)["param"] == "model"


async def test_unknown_routes_and_methods(gateway: Gateway, error_of: ErrorOf) -> None:
    for path in ("/", "/v1/embeddings", "/docs", "/openapi.json", "/redoc", "/v1/completions/"):
        response = await gateway.client.get(path)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    response = await gateway.client.get("/v1/completions")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    gateway: Gateway, error_of: ErrorOf
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1024
            yield b"x" * 1024

    response = await gateway.client.post(
        "/v1/completions", content=endless(), headers=gateway.headers()
    )
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"
    assert "4096" in error_of(response)["message"]
    assert sent <= 4096 + 1024
    declared = await gateway.raw(b"x" * 4097)
    assert declared.status_code == 413
    room = 4096 - len(json.dumps({"model": MODEL, "prompt": "", "stream": False}))
    assert (await gateway.complete(prompt="x" * room, stream=False)).status_code == 400


async def test_without_a_key_the_body_is_not_read(gateway: Gateway) -> None:
    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    response = await gateway.client.post("/v1/completions", content=untouched())
    assert response.status_code == 401


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (EngineError("pool of 17 blocks lost", "secret hint"), 503),
        (IsolationBroken("node 5 of bob"), 500),
        (RuntimeError("the prompt was 'hunter2'"), 500),
    ],
    ids=["engine", "isolation", "foreign"],
)
async def test_a_servers_fault_says_nothing_internal(
    gateway: Gateway,
    error_of: ErrorOf,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    status: int,
    stream: bool,
) -> None:
    gateway.engine.fail_before, gateway.engine.failure = 0, failure
    with caplog.at_level(logging.DEBUG):
        response = await gateway.complete(stream=stream)
    assert response.status_code == status
    assert error_of(response)["type"] == "server_error"
    for text in (response.text, caplog.text):
        assert "hunter2" not in text
        assert "bob" not in text
    assert "17" not in response.text
    assert gateway.engine.cancelled == 1


async def test_a_fault_in_mid_stream_is_an_event_and_ends_the_stream(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.engine.fail_before = 2
    gateway.engine.failure = RuntimeError("the prompt was 'hunter2'")
    response = await gateway.chat(stream=True)
    assert response.status_code == 200
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "hunter2" not in response.text + caplog.text


async def test_an_engine_that_ends_without_a_reason_is_at_fault(gateway: Gateway) -> None:
    gateway.engine.script = []
    assert (await gateway.complete()).status_code == 503
