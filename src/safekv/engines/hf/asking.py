"""From a request of the gateway to one of the generation loop, and back."""

from __future__ import annotations

from transformers.generation.continuous_batching.requests import GenerationOutput

from safekv.engines.base import GenerationRequest
from safekv.engines.hf.loop import SelectiveLoop
from safekv.engines.hf.sampling import sampling_kwargs
from safekv.errors import EngineError, RequestError


def require_fit(request: GenerationRequest, limit_tokens: int) -> None:
    """Refuse what the tenant's cache can never hold: it would wait for ever.

    The gateway asked for the limit before, but a tenant that came since may have lowered it.
    """
    asked = len(request.token_ids) + request.max_tokens
    if asked > limit_tokens:
        raise RequestError(
            f"prompt and answer have {asked} tokens, the tenant's cache holds {limit_tokens}",
            "send a shorter prompt or ask for a shorter answer",
            code="context_length_exceeded",
        )


def enqueue(loop: SelectiveLoop, request_id: str, request: GenerationRequest) -> None:
    """Hand the request to the loop. Raises `EngineError` when that is stopping."""
    if loop.background_thread_status.can_accept_new_requests() is not None:
        raise EngineError("the engine is stopping", "try again later")
    accepted = loop.add_request(
        list(request.token_ids),
        request_id=request_id,
        max_new_tokens=request.max_tokens,
        streaming=True,
        **sampling_kwargs(request.temperature, request.top_p),
    )
    if accepted is None:
        raise EngineError("the engine is stopping", "try again later")


def finish_reason(loop: SelectiveLoop, output: GenerationOutput) -> str:
    """Why a finished answer ended: `stop` at an end token, else `length`."""
    eos = loop.generation_config.eos_token_id
    stops = {eos} if isinstance(eos, int) else set(eos or ())
    ended = output.generated_tokens and output.generated_tokens[-1] in stops
    return "stop" if ended else "length"
