"""Declared texts on a real engine: shared without a detector, for prompts and system messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from safekv.detect.base import Document, Finding
from safekv.engines.base import DeclaredText
from safekv.types import Mode, TenantId, Verdict, pack_tokens
from support.engines import ask, running, settled, until

pytestmark = pytest.mark.model
RULES = "Answer in one sentence. Name the source of every number that you give. " * 8


class Refuses:
    """A detector that clears nothing."""

    name = "refuses"

    def judge(self, document: Document) -> list[Finding]:
        return [Finding(Verdict.PRIVATE, "refuses") for _ in document.block_ends]


@pytest.mark.parametrize("mode", [Mode.DECLARED, Mode.SELECTIVE])
async def test_declared_texts_are_shared_until_they_are_revoked(tiny_dir: Path, mode: Mode) -> None:
    answers: list[Sequence[DeclaredText] | None] = [
        [DeclaredText(RULES, system=True), DeclaredText(RULES)]
    ]

    def declared() -> Sequence[DeclaredText] | None:
        return answers.pop() if answers else None

    async with running(tiny_dir, mode, detector=Refuses(), declared=declared) as engine:
        await until(lambda: len(engine.warden._declared) == 2)
        messages = [{"role": "system", "content": RULES}, {"role": "user", "content": "My PIN?"}]
        chat, plain = engine.encode_chat(messages), engine.encode(RULES + "And mine?")
        await ask(engine, "a", chat, max_tokens=1)
        await ask(engine, "a", plain, max_tokens=1)
        await settled(engine, 2)

        def found(tokens: list[int]) -> int:
            lease = engine.warden.admit(TenantId("b"), pack_tokens(tokens))
            engine.warden.release(lease)
            return lease.hit_blocks

        whole = len(engine.encode(RULES)) // 32
        await until(lambda: found(chat) >= whole - 1 and found(plain) >= whole - 1)
        assert found(chat) < len(chat) // 32 + 1
        answers.append([])
        await until(lambda: found(chat) == found(plain) == 0)
        assert (await ask(engine, "a", plain, max_tokens=1)).cached_tokens > 0
