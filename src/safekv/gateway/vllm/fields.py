"""What a client may say in a request to vLLM: fields and headers that pass, and all others go.

Both are lists of what passes, so a field that a later vLLM adds chooses nothing until somebody
has looked at it. A test compares them with every request model of vLLM's server.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from safekv.engines.vllm.claim import EXTRA_ARG
from safekv.errors import RequestError
from safekv.gateway.vllm.body import Body
from safekv.gateway.vllm.routes import Carrier


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PASSED: Final = _names("""
    model messages prompt suffix input inputs texts images query queries items documents
    data_1 data_2 text_1 text_2 tokens token_ids system instructions instruction

    max_tokens max_completion_tokens max_output_tokens min_tokens n best_of seed stop stop_sequences
    stop_token_ids ignore_eos include_stop_str_in_output temperature top_p top_k min_p
    frequency_penalty presence_penalty repetition_penalty length_penalty logit_bias bad_words
    allowed_token_ids use_beam_search early_stopping repetition_detection watermarking
    response_format structured_outputs guided_decoding_backend thinking_token_budget

    logprobs top_logprobs prompt_logprobs logprob_token_ids echo stream stream_options
    stream_interval output_mode return_tokens_as_token_ids return_token_ids return_token_offsets
    return_prompt_text return_token_strs skip_special_tokens spaces_between_special_tokens include
    include_reasoning enable_response_messages

    tools tool_choice parallel_tool_calls max_tool_calls reasoning reasoning_effort
    reasoning_ended reasoning_parser_kwargs thinking output_config text metadata service_tier
    truncation previous_input_messages

    add_generation_prompt continue_final_message add_special_tokens chat_template
    chat_template_kwargs truncate_prompt_tokens truncation_side padding truncate

    encoding_format embed_dtype endianness dimensions output_dimension embedding_types input_type
    use_activation task label_token_ids apply_softmax item_first top_n max_tokens_per_query
    max_tokens_per_doc
""")
"""Fields of a body that reach vLLM as the client wrote them."""

REMOVED: Final = _names("""
    cache_salt prompt_cache_key user session_id request_id priority vllm_xargs extra_args
    kv_transfer_params ec_transfer_params store routed_experts_prompt_start
    mm_payload return_mm_kwargs mm_processor_kwargs media_io_kwargs token_offsets
""")
"""Fields that could choose a namespace, a place in the queue or a connector, or disturb another's
request. Known, and removed like all that is not known."""

REFUSED: Final = {
    "previous_response_id": "stored answers have no owner; send the conversation itself",
    "background": "answers cannot be fetched later; leave it out",
    "features": "hashes of media are not taken from clients",
    "content_parts": "send text as token_ids",
    "prompt_embeds": "send text or token ids",
    "data": "plug-in data cannot be checked",
}
"""Fields without which the answer would be another one: refused unless null or false."""

SAMPLING: Final = _names("""
    n presence_penalty frequency_penalty repetition_penalty temperature watermarking top_p top_k
    min_p seed stop stop_token_ids ignore_eos max_tokens min_tokens logprobs prompt_logprobs
    logprob_token_ids flat_logprobs detokenize skip_special_tokens spaces_between_special_tokens
    include_stop_str_in_output output_kind stream_interval structured_outputs logit_bias
    allowed_token_ids bad_words thinking_token_budget repetition_detection
""")
"""Fields of `sampling_params` in `/inference/v1/generate` that reach vLLM."""

HEADERS: Final = frozenset(
    name.encode()
    for name in _names("""
        accept accept-encoding accept-language access-control-request-headers
        access-control-request-method content-type host origin traceparent tracestate user-agent
    """)
)
"""Headers that reach vLLM. Not among them: credentials, sessions, priorities, request ids,
adapters, data-parallel ranks."""

_CONTENT: Final = ("messages", "input", "inputs", "images", "system", "previous_input_messages")


def prepare(
    body: Body, carrier: Carrier, claim: str, passed_xargs: Collection[str]
) -> tuple[Body, list[str]]:
    """What reaches vLLM in the place of `body`, with the claim, and the names that were removed.

    `body` is left as it was, but for names of media inside messages. Raises `RequestError` for a
    field that is refused, or `sampling_params` that is no object.
    """
    for name, why in REFUSED.items():
        if body.get(name):
            raise RequestError(f"{name} is not served", why, param=name, code="unsupported_field")
    clean = {name: value for name, value in body.items() if name in PASSED}
    kept = {"sampling_params"} if carrier is Carrier.SAMPLING else set()
    removed = [name for name in body if name not in PASSED | REFUSED.keys() | kept]
    # An id that a client gives to an image would stand for its content in the cache keys.
    removed += [f"{name}.uuid" for name in _CONTENT if _drop_ids(clean.get(name))]
    if carrier is Carrier.XARGS:
        clean["vllm_xargs"] = _xargs(body.get("vllm_xargs"), passed_xargs) | {EXTRA_ARG: claim}
    elif carrier is Carrier.SAMPLING:
        clean["sampling_params"] = sampling = _sampling(body, removed)
        passed = _xargs(body["sampling_params"].get("extra_args"), passed_xargs)
        sampling["extra_args"] = passed | {EXTRA_ARG: claim}
    return clean, removed


def _xargs(given: object, passed: Collection[str]) -> Body:
    if not isinstance(given, dict):
        return {}
    return {name: value for name, value in given.items() if name in passed}


def _sampling(body: Body, removed: list[str]) -> Body:
    given = body.get("sampling_params")
    if not isinstance(given, dict):
        raise RequestError(
            "sampling_params is no object", "send {} at least", param="sampling_params"
        )
    removed += [f"sampling_params.{name}" for name in given if name not in SAMPLING]
    return {name: value for name, value in given.items() if name in SAMPLING}


def _drop_ids(content: Any) -> bool:
    """Remove every `uuid` at any depth of `content`; whether there was one."""
    found, left = False, [content]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            found = "uuid" in item or found
            item.pop("uuid", None)
            left += item.values()
        elif isinstance(item, list):
            left += item
    return found
