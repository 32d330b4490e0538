"""What must be known of an endpoint before it is measured: model, form, lengths, clock."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import httpx

from safekv.attack.target import TargetError
from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.line import Line, Now, Place, unreachable
from safekv.audit.endpoint.observation import Content, Observation
from safekv.audit.endpoint.wire import Form
from safekv.errors import ConfigError

CLOCK_READS: Final = 2_000
COARSEST: Final = 0.01
"""A clock's step may be this share of the shortest answer."""

REFUSED_KEY: Final = frozenset({"401", "403"})
REFUSED_FORM: Final = frozenset({"400", "404", "405", "415", "422"})


def find_model(place: Place, key: str) -> str:
    """The first model the endpoint lists. Raises `TargetError`, or `ConfigError` for a bad key."""
    url = place.base_url.rstrip("/") + "/models"
    try:
        answer = httpx.get(
            url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=place.timeout_s,
            verify=place.verify(),
            trust_env=False,
        )
    except httpx.ConnectError as error:
        raise unreachable(error) from None
    except httpx.UnsupportedProtocol:
        raise ConfigError("the address is no http or https URL", "give http://host/v1") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetError(
            f"asking the endpoint for its models failed: {type(error).__name__}",
            "name the model with --model",
        ) from None
    if str(answer.status_code) in REFUSED_KEY:
        raise refused_key("the own key", answer.status_code)
    try:
        return str(answer.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise TargetError(
            f"the endpoint does not list its models (status {answer.status_code})",
            "name the model with --model, and end the address in /v1",
        ) from None


def find_form(line: Line, writer: Writer, words: int) -> Observation:
    """Find out how the endpoint wants to be asked, and set `line.form`; gives a good answer.

    Tries a stream with usage, a stream without, and no stream. Raises `ConfigError` for a key
    that is refused, `TargetError` when no form is answered.
    """
    api = line.form.api
    seen = Observation("")
    for form in (Form(api), Form(api, usage_in_stream=False), Form(api, stream=False)):
        line.form = form
        seen = line.ask(writer.write(Content.PROSE, words))
        if seen.total_s is not None:
            return seen
        if seen.outcome in REFUSED_KEY:
            raise refused_key("the own key", seen.outcome)
        if seen.outcome not in REFUSED_FORM:
            break
    raise TargetError(
        f"the endpoint did not answer a plain request: {seen.outcome}",
        "check the address (it ends in /v1), --model and --api",
    )


def refused_key(whose: str, status: object) -> ConfigError:
    """The error for a key that an endpoint does not accept."""
    return ConfigError(f"the endpoint refused {whose} with status {status}", "check that key")


def prompt_tokens(seen: Observation) -> float | None:
    """The length of the prompt as the endpoint counts it, its template included."""
    return seen.usage.get("prompt_tokens", seen.usage.get("input_tokens"))


def words_for(
    line: Line, writer: Writer, content: Content, wanted_tokens: int
) -> tuple[int, float | None]:
    """How many words make a prompt of about that many tokens, and what one was counted as.

    Two requests. Without a usage field three tokens for two words are assumed.
    """
    few, many = max(8, wanted_tokens // 8), max(16, wanted_tokens // 4)
    counts = [prompt_tokens(line.ask(writer.write(content, words))) for words in (few, many)]
    if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
        return max(1, wanted_tokens * 2 // 3), None
    per_word = (counts[1] - counts[0]) / (many - few)
    overhead = counts[0] - few * per_word
    return max(1, round((wanted_tokens - overhead) / per_word)), per_word


def clock_step_s(now: Now) -> float:
    """The smallest step of the clock that times are taken with."""
    reads = [now() for _ in range(CLOCK_READS)]
    steps = [b - a for a, b in pairwise(reads) if b > a]
    return min(steps, default=1.0)


def require_fine_clock(step_s: float, shortest_s: float) -> None:
    """Raise `TargetError` when answers are too quick for the clock."""
    if step_s > COARSEST * shortest_s:
        raise TargetError(
            f"the clock's step of {step_s:.2g} s is too coarse for answers of {shortest_s:.2g} s",
            "use longer prompts, or another machine",
        )


def spread(lengths: Mapping[Content, list[float]]) -> dict[str, Any]:
    """Smallest, middle and largest prompt length of each content in tokens; `None` untold."""
    return {
        content.value: ([min(found), sorted(found)[len(found) // 2], max(found)] if found else None)
        for content, found in lengths.items()
    }
