"""safekv's tables against vLLM's real application: no route and no field is overlooked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import apps
import pytest
from pydantic import BaseModel
from tests.support.front import Harness, claimed

from safekv.engines.vllm.version import installed_version, require_supported
from safekv.gateway.vllm import fields
from safekv.gateway.vllm.routes import ROUTES, Access, Carrier, markdown

DOCS = Path(__file__).parents[3] / "docs" / "deploy-vllm.md"

# Behind other switches than `apps` sets: a task's or a package's own.
ELSEWHERE = {("POST", "/v2/chat"), ("POST", "/cohere/v2/chat"), ("POST", "/cohere/v2/chat/render")}
# Only where documentation is served without a network; denied like all that is not in the table.
MOUNTS = {"/metrics"}


@pytest.fixture(scope="module")
def real() -> dict[tuple[str, str], Any]:
    return {(method, path): route for method, path, route in apps.routes()}


def test_this_version_of_vllm_is_supported() -> None:
    assert require_supported() == installed_version()


def test_every_route_of_vllm_is_in_the_table(real: dict[tuple[str, str], Any]) -> None:
    mounts = {path for method, path in real if method == "MOUNT"}
    assert mounts <= MOUNTS
    assert {key for key in real if key[0] != "MOUNT"} - set(ROUTES) == set()


def test_every_route_of_the_table_is_one_of_vllm(real: dict[tuple[str, str], Any]) -> None:
    mounted = {("GET", f"{path}/") for path in MOUNTS}
    assert set(ROUTES) - set(real) - mounted - ELSEWHERE == set()


def test_the_documented_table_is_this_one() -> None:
    assert markdown() in DOCS.read_text()


def models_of(route: Any) -> list[type[BaseModel]]:
    """The request models of a route's body."""
    found: list[type[BaseModel]] = []
    for parameter in route.dependant.body_params:
        left = [parameter.field_info.annotation]
        while left:
            kind = left.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found.append(kind)
            left += get_args(kind)
    return found


def served(real: dict[tuple[str, str], Any]) -> list[tuple[str, Carrier, type[BaseModel]]]:
    return [
        (path, ROUTES[(method, path)].carrier, model)
        for (method, path), route in real.items()
        if method == "POST" and ROUTES[(method, path)].access is Access.TENANT
        for model in models_of(route)
    ]


def names_of(model: type[BaseModel]) -> set[str]:
    spelt = set(model.model_fields)
    for each in model.model_fields.values():
        spelt |= {name for name in (each.alias, each.validation_alias) if isinstance(name, str)}
    return spelt


def test_every_field_of_every_served_request_is_classified(
    real: dict[tuple[str, str], Any],
) -> None:
    known = fields.PASSED | fields.REMOVED | fields.REFUSED.keys() | {"sampling_params"}
    unknown = {(path, name) for path, _, model in served(real) for name in names_of(model) - known}
    assert unknown == set()
    assert not fields.PASSED & fields.REMOVED
    assert not fields.REFUSED.keys() & (fields.PASSED | fields.REMOVED)


def test_no_field_is_listed_that_no_request_has(real: dict[tuple[str, str], Any]) -> None:
    every = {name for _, _, model in served(real) for name in names_of(model)}
    # `/invocations` has no model of its own; extra_args is a name of sampling_params.
    assert fields.PASSED - every == set()
    assert fields.REMOVED - every <= {"extra_args"}


def test_sampling_fields_are_fields_of_vllms_sampling_params() -> None:
    from vllm import SamplingParams

    assert set(SamplingParams.__struct_fields__) >= fields.SAMPLING
    left_out = set(SamplingParams.__struct_fields__) - fields.SAMPLING
    assert {name for name in left_out if not name.startswith("_")} == {
        "extra_args",
        "output_text_buffer_length",
        "prompt_logprob_start",
        "prompt_logprob_token_ids",
        "routed_experts_prompt_start",
        "skip_clone",
        "skip_reading_prefix_cache",
        "trace_decode_token_ids",
    }


MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES},
    "/v1/chat/completions/batch": {"model": "m", "messages": [MESSAGES, MESSAGES]},
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/responses": {"model": "m", "input": "hello"},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 3},
    "/inference/v1/generate": {"token_ids": [1, 2], "sampling_params": {"max_tokens": 3}},
}
FORGED = {
    "cache_salt": "other",
    "priority": 3,
    "user": "other",
    "session_id": "other",
    "request_id": "other",
    "kv_transfer_params": {"a": 1},
    "vllm_xargs": {"safekv": "forged", "session_id": "other"},
}


def extra_args_of(request: Any) -> dict[str, Any] | None:
    """The extra arguments that vLLM makes of its own request object."""
    kind = type(request).__name__
    if kind == "GenerateRequest":
        found: dict[str, Any] | None = request.sampling_params.extra_args
        return found
    if kind == "BatchChatCompletionRequest":
        request = request.to_chat_completion_request(MESSAGES)
    if kind == "AnthropicMessagesRequest":
        from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

        request = AnthropicServingMessages._build_base_request(request, MESSAGES)
    found = request.to_sampling_params(16, {}).extra_args
    return found


@pytest.mark.parametrize("path", BODIES)
async def test_vllm_reads_the_claim_where_the_front_wrote_it(
    path: str, tmp_path: Path, real: dict[tuple[str, str], Any]
) -> None:
    harness = Harness(tmp_path)
    body = {**BODIES[path], **FORGED}
    for key, tenant in ((harness.alice, "alice"), (harness.bob, "bob")):
        assert (await harness.send("POST", path, body, key=key)).status == 200
        (model,) = models_of(real[("POST", path)])
        request: Any = model.model_validate(harness.last().json())
        extra = extra_args_of(request)
        assert extra is not None
        assert set(extra) == {"safekv"}
        assert claimed(extra) == tenant
        assert getattr(request, "cache_salt", None) is None
        assert getattr(request, "priority", 0) == 0
        assert getattr(request, "session_id", None) is None
        assert getattr(request, "request_id", None) != "other"


def test_every_route_that_carries_a_claim_was_tried() -> None:
    carrying = {
        path
        for (_, path), route in ROUTES.items()
        if route.carrier in (Carrier.XARGS, Carrier.SAMPLING)
    }
    # The invocations' bodies are chat's and completions'.
    assert carrying == {*BODIES, "/invocations"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_invocations_read_the_claim_like_the_route_they_stand_for(
    path: str, tmp_path: Path, real: dict[tuple[str, str], Any]
) -> None:
    harness = Harness(tmp_path)
    await harness.send("POST", "/invocations", {**BODIES[path], **FORGED}, key=harness.bob)
    (model,) = models_of(real[("POST", path)])
    extra = extra_args_of(model.model_validate(harness.last().json()))
    assert extra is not None
    assert claimed(extra) == "bob"


def test_the_middleware_is_the_outermost_of_vllms_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path))
    built = apps.app("generate", "safekv.engines.vllm.TenantMiddleware")
    names = [each.cls.__name__ for each in built.user_middleware]
    assert names[0] == "TenantMiddleware", names
    assert re.fullmatch(r"[0-9a-f]{64}", (tmp_path / "claim.key").read_text()[-67:-3])


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SAFEKV_FRONT__CLAIM_LIFETIME_S", "0"), ("SAFEKV_FRONT__TRUSTED_SOURCE", "header:X-T")],
)
def test_a_wrong_setting_stops_vllm_while_it_builds_its_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    from safekv.errors import ConfigError

    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    apps.app.cache_clear()
    with pytest.raises(ConfigError, match=r"front\."):
        apps.app("generate", "safekv.engines.vllm.TenantMiddleware")
    apps.app.cache_clear()
