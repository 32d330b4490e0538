"""What clients may send. Fields that would change the answer and are not served are refused.

Fields that choose nothing here (`user`, `metadata`, `cache_salt`, `session_id`, …) are accepted
and ignored: the tenant comes from the key alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from safekv.engines.base import Engine
from safekv.errors import RequestError

MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 256
DEFAULT_COMPLETION_TOKENS: Final = 16
DEFAULT_CHAT_TOKENS: Final = 512
"""Without a limit an answer ends here, or where the context does. OpenAI's own is unbounded."""

NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "add_generation_prompt": (None, True),
    "audio": (None,),
    "best_of": (None, 1),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "ignore_eos": (None, False),
    "length_penalty": (None, 1),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "reasoning_effort": (None,),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "stop_token_ids": (None, []),
    "structured_outputs": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_k": (None, 0, -1),
    "top_logprobs": (None, 0),
    "use_beam_search": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Fields we know and do not serve, and their values that ask for nothing."""

MESSAGE_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (None,),
    "function_call": (None,),
    "tool_calls": (None, []),
}


def _refuse(text: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{text}", {"text": text})


def _one_prompt(value: object) -> object:
    if isinstance(value, list):
        if any(isinstance(item, int | list) for item in value):
            raise _refuse("token ids are not accepted, send text")
        if len(value) != 1:
            raise _refuse("one prompt per request, send the others separately")
        return value[0]
    return value


Sized = TypeVar("Sized", str, list[Any])


def _not_empty(value: Sized) -> Sized:
    if not value:
        raise _refuse("it is empty, send some text")
    return value


def _joined_parts(value: object) -> object:
    """Content as one string. Parts are joined as they are, without a separator."""
    if not isinstance(value, list):
        return value
    texts = [_text_of(part) for part in value]
    if not texts:
        raise _refuse("content has no parts")
    return "".join(texts)


def _text_of(part: object) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise _refuse("only parts of type 'text' are accepted")
    text = part.get("text")
    if not isinstance(text, str):
        raise _refuse("a text part needs a string 'text'")
    return text


def _stop_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class _Silent(BaseModel):
    """A model whose `repr` shows none of its content, which may be a prompt."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return ()


class StrictBody(_Silent):
    """What operators send: no field that is not known."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class StreamOptions(_Silent):
    include_usage: bool | None = None


class GenerationBody(_Silent):
    """What both generating routes accept. Raises pydantic's `ValidationError`."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_stop_list)] = []
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def limit(self) -> tuple[str, int | None, int]:
        """The field that bounds the answer, its value, and what `None` stands for, in tokens."""
        raise NotImplementedError

    def encode(self, engine: Engine) -> Sequence[int]:
        """The prompt's tokens. CPU-bound: run it in a thread."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `RequestError` for fields that contradict each other or are not served."""
        _require_neutral(self.model_extra or {}, NEUTRAL, "")
        if self.seed is not None and self.temperature != 0:
            raise _unserved("seed", "leave it out, or set temperature to 0")
        if self.stream_options is not None and not self.stream:
            raise _unserved("stream_options", "it needs stream=true")

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionBody(GenerationBody):
    """The body of `/v1/completions`: one prompt, as text."""

    prompt: Annotated[str, BeforeValidator(_one_prompt), AfterValidator(_not_empty)]

    def limit(self) -> tuple[str, int | None, int]:
        return "max_tokens", self.max_tokens, DEFAULT_COMPLETION_TOKENS

    def encode(self, engine: Engine) -> Sequence[int]:
        return engine.encode(self.prompt)


class Message(_Silent):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_parts)]

    def plain(self) -> dict[str, str]:
        """The message for a chat template, which knows no `developer`."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class ChatBody(GenerationBody):
    """The body of `/v1/chat/completions`: at least one message."""

    messages: Annotated[list[Message], AfterValidator(_not_empty)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    def limit(self) -> tuple[str, int | None, int]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens, DEFAULT_CHAT_TOKENS
        return "max_tokens", self.max_tokens, DEFAULT_CHAT_TOKENS

    def encode(self, engine: Engine) -> Sequence[int]:
        return engine.encode_chat([message.plain() for message in self.messages])

    def check(self) -> None:
        super().check()
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise _unserved("max_tokens", "it differs from max_completion_tokens, send one")
        for index, message in enumerate(self.messages):
            _require_neutral(message.model_extra or {}, MESSAGE_NEUTRAL, f"messages[{index}].")


AnyBody = TypeVar("AnyBody", bound=GenerationBody)
AnyModel = TypeVar("AnyModel", bound=_Silent)


def parse(model: type[AnyBody], raw: bytes) -> AnyBody:
    """The body of a generating route in `raw`. Raises like `parse_plain`, and what `check` does."""
    body = parse_plain(model, raw)
    body.check()
    return body


def parse_plain(model: type[AnyModel], raw: bytes) -> AnyModel:
    """The body in `raw`, whatever content type it was sent as.

    Raises `RequestError` (400) naming the first wrong field, never quoting its value.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RequestError("the body is not valid UTF-8", code="invalid_utf8") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        # `from None`: pydantic's error holds the prompt.
        raise _request_error(error) from None


def _request_error(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RequestError("the body is not valid JSON", code="invalid_json")
    param = _path(first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    if not param:
        return RequestError("the body is not a JSON object", code="invalid_json")
    return RequestError(f"{param}: {message}", param=param, code="invalid_value")


def _path(location: Iterable[int | str]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _require_neutral(
    fields: Mapping[str, object], neutral: Mapping[str, tuple[object, ...]], prefix: str
) -> None:
    for name, value in fields.items():
        if name in neutral and not any(_same(value, one) for one in neutral[name]):
            raise _unserved(prefix + name, "leave it out")


def _same(value: object, other: object) -> bool:
    """Equality in JSON's sense, where `false` is not 0."""
    return isinstance(value, bool) is isinstance(other, bool) and value == other


def _unserved(param: str, hint: str) -> RequestError:
    return RequestError(
        f"{param} is not supported here", hint, param=param, code="unsupported_parameter"
    )
