"""Every route of vLLM's server that safekv knows, and who may call it. All others are denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias


class Access(Enum):
    """Who may call a route."""

    OPEN = "anyone"
    KEY = "any key"
    TENANT = "tenant keys"
    OPERATOR = "operator keys"
    NOBODY = "nobody"


class Carrier(Enum):
    """Where a route's request carries the tenant claim to the scheduler."""

    XARGS = "vllm_xargs"
    SAMPLING = "sampling_params.extra_args"
    NONE = "none"
    """The request computes in a namespace of its own that nobody ever meets again."""
    NO_ENGINE = "no computation"


@dataclass(frozen=True, slots=True)
class Route:
    """What safekv does with one method of one path. `note` is for people."""

    access: Access
    carrier: Carrier = Carrier.NO_ENGINE
    note: str = ""


Key: TypeAlias = tuple[str, str]

_GENERATE: Final = {
    "/v1/chat/completions": Route(Access.TENANT, Carrier.XARGS),
    "/v1/chat/completions/batch": Route(Access.TENANT, Carrier.XARGS),
    "/v1/completions": Route(Access.TENANT, Carrier.XARGS),
    "/v1/responses": Route(Access.TENANT, Carrier.XARGS, "never stored, no `previous_response_id`"),
    "/v1/messages": Route(Access.TENANT, Carrier.XARGS),
    "/inference/v1/generate": Route(Access.TENANT, Carrier.SAMPLING, "text only"),
    "/invocations": Route(Access.TENANT, Carrier.XARGS, "pooling bodies: a namespace per request"),
}

_POOLING: Final = (
    "/generative_scoring",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/embeddings",
    "/v2/embed",
)

_TEXT: Final = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")

_OPERATIONS: Final = {
    "GET": (
        "/metrics",
        "/metrics/",
        "/load",
        "/kv_event_sources",
        "/server_info",
        "/is_sleeping",
        "/is_paused",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/fault_tolerance/status",
        "/get_world_size",
        "/weight_info",
    ),
    "POST": (
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/sleep",
        "/wake_up",
        "/release_kv_cache_memory",
        "/pause",
        "/resume",
        "/start_profile",
        "/stop_profile",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
    ),
}

_MULTIPART: Final = "multipart bodies are not read"
_STORED: Final = "stored answers have no owner"
_RENDER: Final = "would hand out a signed claim, or take tokens for text"
_INTERNAL: Final = "for the trainer or supervisor of a server that serves no tenants"

_REFUSED: Final = {
    "/v1/audio/transcriptions": _MULTIPART,
    "/v1/audio/translations": _MULTIPART,
    "/v1/responses/{response_id}/cancel": _STORED,
    "/v1/systemone": "writes extra arguments of its own",
    "/v2/chat": "experimental in vLLM",
    "/cohere/v2/chat": "experimental in vLLM",
    "/cohere/v2/chat/render": _RENDER,
    "/v1/chat/completions/render": _RENDER,
    "/v1/chat/completions/derender": _RENDER,
    "/v1/completions/render": _RENDER,
    "/v1/completions/derender": _RENDER,
    "/v1/messages/render": _RENDER,
    "/v1/responses/render": _RENDER,
    "/inference/v1/abort_requests": "could end other tenants' requests",
    "/abort_requests": "could end other tenants' requests",
    "/collective_rpc": "runs any method of a worker",
    "/adapters": "use `/v1/load_lora_adapter`",
    "/fault_tolerance/apply": _INTERNAL,
    "/init_weight_transfer_engine": _INTERNAL,
    "/shutdown_weight_transfer_engine": _INTERNAL,
    "/start_weight_update": _INTERNAL,
    "/start_draft_weight_update": _INTERNAL,
    "/update_weights": _INTERNAL,
    "/finish_weight_update": _INTERNAL,
    "/update_weight_version": _INTERNAL,
    "/weight_checker": _INTERNAL,
}


def _table() -> Mapping[Key, Route]:
    table = {("POST", path): route for path, route in _GENERATE.items()}
    per_request = Route(Access.TENANT, Carrier.NONE, "a namespace per request: nothing is shared")
    table |= {("POST", path): per_request for path in _POOLING}
    table |= {("POST", path): Route(Access.TENANT) for path in _TEXT}
    table |= {("GET", path): Route(Access.OPEN) for path in ("/health", "/ping")}
    table[("POST", "/ping")] = Route(Access.OPEN)
    table |= {("GET", path): Route(Access.KEY) for path in ("/v1/models", "/version")}
    for method, paths in _OPERATIONS.items():
        table |= {(method, path): Route(Access.OPERATOR) for path in paths}
    table |= {("POST", path): Route(Access.NOBODY, note=why) for path, why in _REFUSED.items()}
    table[("GET", "/v1/responses/{response_id}")] = Route(Access.NOBODY, note=_STORED)
    table[("DELETE", "/adapters/{adapter_name}")] = Route(
        Access.NOBODY, note="use `/v1/unload_lora_adapter`"
    )
    table[("WEBSOCKET", "/v1/realtime")] = Route(Access.NOBODY, note="sockets are not read")
    return MappingProxyType(table)


ROUTES: Final = _table()
"""Every known route by method and path, exactly as vLLM registers them."""


def find(method: str, path: str) -> Route | None:
    """The rule for a request; `None` for a route that is not known, which nobody may call.

    Exact: no prefix, trailing slash, letter case or pattern stands for another path. So routes
    with parameters are never found, and all of those are refused.
    """
    return ROUTES.get((method, path))


def markdown() -> str:
    """The table as docs/deploy-vllm.md shows it."""
    lines = ["| route | who may call it | where the claim travels | |", "|---|---|---|---|"]
    for (method, path), route in ROUTES.items():
        carrier = "–" if route.access is Access.NOBODY else route.carrier.value
        lines.append(f"| `{method} {path}` | {route.access.value} | {carrier} | {route.note} |")
    return "\n".join(lines)
