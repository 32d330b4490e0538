"""What tenants send: five shapes of traffic, from all in common to nothing in common.

Prompts are written in advance, earlier answers included, so that what is sent never depends on
what came back: neither on its content nor on when it came.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from safekv.bench.serving.prose import CARD, prose
from safekv.errors import ConfigError

Message = dict[str, str]
SEEDER: Final = "seeder"
"""The tenant that sends what is common before anything is measured."""
QUESTION_WORDS: Final = 28
ANSWER_WORDS: Final = 24
SECRET_EVERY: Final = 5
"""Every fifth turn ends with a card number."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of one tenant. `first` is the tenant's first in its part of the run."""

    tenant: str
    messages: tuple[Message, ...] = field(repr=False)
    first: bool
    answer_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is sent. `common_words` are the words that requests have in common, where the
    workload has such; the others do not read it."""

    tenants: int
    turns: int
    common_words: int
    answer_tokens: int

    def __post_init__(self) -> None:
        for name, least in (
            ("tenants", 1),
            ("turns", 1),
            ("common_words", 1),
            ("answer_tokens", 2),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"use {least} or more")


@dataclass(frozen=True, slots=True)
class Script:
    """What to send: `warm` before the measurement, one after the other; then `turns` in order."""

    warm: tuple[Turn, ...]
    turns: tuple[Turn, ...]


Make = Callable[[Size, str], Script]


@dataclass(frozen=True, slots=True)
class Workload:
    """A shape of traffic and the size and rate (requests a second) it has by default."""

    title: str
    size: Size
    rate: float
    make: Make


def system_prompt(size: Size, seed: str) -> Script:
    """Many tenants, one long system prompt, short questions that have nothing else in common."""
    system = _system(prose(f"{seed}/system", size.common_words))

    def messages(tenant: int, turn: int) -> tuple[Message, ...]:
        return (system, _user(_question(f"{seed}/{tenant}/{turn}", tenant + turn)))

    warm = (_warm((system, _user(_question(f"{seed}/warm", 1)))),)
    return Script(warm, _rounds(size, seed, messages))


def chat(size: Size, seed: str) -> Script:
    """One conversation for each tenant that grows by a question and an answer each turn."""
    system = _system(prose(f"{seed}/system", size.common_words))

    def messages(tenant: int, turn: int) -> tuple[Message, ...]:
        told: list[Message] = [system]
        for earlier in range(turn):
            name = f"{seed}/{tenant}/{earlier}"
            told += [_user(_question(name, tenant + earlier)), _assistant(name)]
        return (*told, _user(_question(f"{seed}/{tenant}/{turn}", tenant + turn)))

    warm = (_warm((system, _user(_question(f"{seed}/warm", 1)))),)
    return Script(warm, _rounds(size, seed, messages))


def documents(size: Size, seed: str) -> Script:
    """Tenants ask about documents that they have in common; the first is asked about most."""
    library = [
        _system("Answer from this text. " + prose(f"{seed}/document {n}", size.common_words))
        for n in range(DOCUMENTS)
    ]
    rng = random.Random(f"{seed}/readers")  # noqa: S311 - a workload, not a secret
    weights = [1 / (n + 1) for n in range(DOCUMENTS)]
    readings = {
        (tenant, turn): rng.choices(library, weights)[0]
        for turn in range(size.turns)
        for tenant in range(size.tenants)
    }

    def messages(tenant: int, turn: int) -> tuple[Message, ...]:
        question = _question(f"{seed}/{tenant}/{turn}", tenant + turn)
        return (readings[tenant, turn], _user(question))

    warm = tuple(_warm((document, _user(_question(f"{seed}/warm", 1)))) for document in library)
    return Script(warm, _rounds(size, seed, messages))


DOCUMENTS: Final = 3
APPLICATIONS: Final = 2


def agent(size: Size, seed: str) -> Script:
    """Agents of two applications: tool schemas in common, steps and tool results of their own.

    The gateway serves no `tools`, so the schemas stand in the system message, as JSON.
    """
    systems = [
        _system("You may call these tools.\n" + _schemas(f"{seed}/{app}", size.common_words))
        for app in range(APPLICATIONS)
    ]

    def messages(tenant: int, turn: int) -> tuple[Message, ...]:
        told: list[Message] = [systems[tenant % APPLICATIONS]]
        told.append(_user(_question(f"{seed}/{tenant}/task", tenant)))
        for step in range(turn):
            name = f"{seed}/{tenant}/step {step}"
            told += [_assistant(name), _user("Tool result: " + prose(f"{name}/result", 60))]
        return tuple(told)

    warm = tuple(_warm((system, _user(_question(f"{seed}/warm", 1)))) for system in systems)
    return Script(warm, _rounds(size, seed, messages))


def control(size: Size, seed: str) -> Script:
    """Nothing in common: every prompt is new from its first words on, so no cache can help."""

    def messages(tenant: int, turn: int) -> tuple[Message, ...]:
        return (
            _system(prose(f"{seed}/{tenant}/{turn}/text", size.common_words)),
            _user(_question(f"{seed}/{tenant}/{turn}", tenant + turn)),
        )

    alone = _system(prose(f"{seed}/warm text", size.common_words))
    return Script(
        (_warm((alone, _user(_question(f"{seed}/warm", 1)))),), _rounds(size, seed, messages)
    )


WORKLOADS: Final = {
    "system": Workload(
        "many tenants, one long system prompt, short turns",
        Size(tenants=4, turns=3, common_words=2048, answer_tokens=6),
        0.7,
        system_prompt,
    ),
    "chat": Workload(
        "multi-turn chat",
        Size(tenants=3, turns=4, common_words=192, answer_tokens=6),
        0.7,
        chat,
    ),
    "documents": Workload(
        "shared documents",
        Size(tenants=4, turns=2, common_words=1024, answer_tokens=6),
        0.5,
        documents,
    ),
    "agent": Workload(
        "agents with tool schemas",
        Size(tenants=4, turns=3, common_words=1024, answer_tokens=6),
        0.5,
        agent,
    ),
    "control": Workload(
        "no sharing (control)",
        Size(tenants=4, turns=2, common_words=256, answer_tokens=6),
        0.5,
        control,
    ),
}


def tenants_of(script: Script) -> list[str]:
    """Everybody who sends something, in alphabetical order."""
    return sorted({turn.tenant for turn in (*script.warm, *script.turns)})


def demand_words(turns: Sequence[Turn]) -> int:
    """The words of all messages that differ, or stand behind ones that differ."""
    seen, words = set[str](), 0
    for turn in turns:
        for n, message in enumerate(turn.messages):
            name = json.dumps(turn.messages[: n + 1])
            if name not in seen:
                seen.add(name)
                words += len(message["content"].split())
    return words


def _rounds(
    size: Size, seed: str, messages: Callable[[int, int], tuple[Message, ...]]
) -> tuple[Turn, ...]:
    """Turn by turn, every tenant once in random order."""
    rng = random.Random(f"{seed}/order")  # noqa: S311 - a workload, not a secret
    turns = []
    for turn in range(size.turns):
        order = rng.sample(range(size.tenants), size.tenants)
        turns += [
            Turn(f"tenant-{n}", messages(n, turn), turn == 0, size.answer_tokens) for n in order
        ]
    return tuple(turns)


def _warm(messages: tuple[Message, ...]) -> Turn:
    return Turn(SEEDER, messages, False, 2)


def _question(seed: str, number: int) -> str:
    text = prose(f"{seed}/question", QUESTION_WORDS) + " What should be done next?"
    return text if number % SECRET_EVERY else f"{text} {CARD}"


def _schemas(seed: str, n_words: int) -> str:
    """Tool schemas as JSON, with at least `n_words` words in their descriptions."""
    tools, words, n = [], 0, 0
    while words < n_words:
        text = prose(f"{seed}/tool {n}", 30)
        argument = {"type": "string", "description": prose(f"{seed}/argument {n}", 12)}
        tools.append(
            {
                "name": f"tool_{n}",
                "description": text,
                "parameters": {"type": "object", "properties": {"item": argument}},
            }
        )
        words += len(text.split()) + len(argument["description"].split())
        n += 1
    return json.dumps(tools, indent=1)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(seed: str) -> Message:
    return {"role": "assistant", "content": prose(f"{seed}/answer", ANSWER_WORDS)}
