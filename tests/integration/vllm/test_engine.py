"""Real engine, real model, real detector: vLLM in this process, the index in one of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safekv.engines.vllm.claim import load_claim_key, sign
from safekv.engines.vllm.keeper import Keeper
from safekv.gateway.declarations import DeclarationStore
from safekv.types import TenantId

pytestmark = pytest.mark.model

BLOCK = 32
SYSTEM = "You are the assistant of a small shop that sells tools, seeds and garden furniture. " * 8
SECRET = "My card number is 4539 1488 0343 6467, it expires in May. Please charge it today. " * 4


class Served:
    """One engine. `ask` returns found blocks, told tokens, and the answer."""

    def __init__(self, model: Path) -> None:
        from vllm import LLM

        self.llm = LLM(
            model=str(model),
            dtype="float32",
            enforce_eager=True,
            block_size=BLOCK,
            max_model_len=1024,
            enable_prefix_caching=True,
            scheduler_cls="safekv.engines.vllm.Scheduler",
            # The detector has time, however busy the machine is.
            additional_config={"safekv": {"warden.epoch_s": 0.2, "detect.time_limit_s": 300.0}},
        )
        self.key = load_claim_key(os.environ)
        self.tokenizer = self.llm.get_tokenizer()

    @property
    def keeper(self) -> Keeper:
        keeper: Keeper = self.llm.llm_engine.engine_core.engine_core.scheduler.keeper
        return keeper

    def ask(self, tenant: str | None, ids: list[int], **more: Any) -> tuple[int, int, list[int]]:
        from vllm import SamplingParams

        extra = dict(more.get("extra", {}))
        if tenant is not None:
            extra["safekv"] = sign(self.key, TenantId(tenant), now_s=time.time(), lifetime_s=60.0)
        params = SamplingParams(max_tokens=3, temperature=0.0, extra_args=extra or None)
        before = self.keeper.counts.hit_blocks
        prompt = {"prompt_token_ids": ids, **more.get("fields", {})}
        (out,) = self.llm.generate([prompt], params, use_tqdm=False)
        found = self.keeper.counts.hit_blocks - before
        return found, out.num_cached_tokens or 0, list(out.outputs[0].token_ids)

    def ids(self, text: str, blocks: int) -> list[int]:
        """The first tokens of `text`: whole blocks, and one token to compute."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        assert len(ids) > blocks * BLOCK
        return ids[: blocks * BLOCK + 1]


@pytest.fixture(scope="module")
def served(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SAFEKV_HOME": str(home),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        one = Served(model_dir)
        yield one
        one.keeper.index.stop()


def until(true: Callable[[], bool]) -> None:
    """Wait for another process, for as long as a busy machine may take."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened within ten minutes")


def test_a_letter_is_its_senders_before_and_after_the_verdict(served: Served) -> None:
    system = len(served.tokenizer(SYSTEM)["input_ids"]) // BLOCK
    letter = served.ids(SYSTEM + SECRET, system + 2)
    blocks, pid = len(letter) // BLOCK, served.keeper.index.pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGSTOP)
    try:
        cold = served.ask("a", letter)
        assert cold[:2] == (0, 0)
        assert served.ask("a", letter) == (blocks, blocks * BLOCK, cold[2])
        assert served.ask("b", letter) == (0, 0, cold[2])
        assert served.ask(None, letter) == (0, 0, cold[2])
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: (served.keeper.drain(), len(served.keeper.visible.shared) > 2)[1])
    found, told, answer = served.ask("c", letter)
    # The rule vetoes what the card number touches; what lies before it is everybody's.
    assert 0 < found <= system
    assert (told, answer) == (0, cold[2])
    forged = {"extra": {"safekv": "skvc1.a", "tenant": "a"}, "fields": {"cache_salt": "a"}}
    assert served.ask(None, letter, **forged) == (0, 0, cold[2])
    assert served.ask("a", letter) == (blocks, blocks * BLOCK, cold[2])
    assert served.ask("b", letter) == (blocks, blocks * BLOCK, cold[2])


def test_after_promotion_everybody_finds_it_and_the_answers_are_the_same(served: Served) -> None:
    text = "The opening hours of the shop are from nine to six, on Saturdays from ten to four. "
    ids = served.ids(text * 15, 5)
    last = len(served.keeper.visible.shared)
    cold = served.ask("a", ids)
    assert cold[0] == 0
    until(lambda: (served.keeper.drain(), len(served.keeper.visible.shared) >= last + 3)[1])
    found, told, answer = served.ask("d", ids)
    assert found >= 3
    assert (told, answer) == (0, cold[2])
    assert served.ask("d", ids) == (5, 5 * BLOCK, cold[2])


def test_what_is_declared_is_shared_and_told_and_gone_when_revoked(served: Served) -> None:
    text = ("Our public test card has the number 5555 5555 5555 4444 and no money. " * 12).strip()
    store, visible = DeclarationStore.default(os.environ), served.keeper.visible
    one = store.add(text)
    until(lambda: len(visible.declared) >= 4)
    names = set(visible.declared)
    blocks = len(names)
    ids, found = served.ids(text, blocks), (blocks, blocks * BLOCK)
    cold = served.ask("a", ids)
    assert cold[:2] == (0, 0)
    until(lambda: (served.keeper.drain(), names <= visible.shared)[1])
    assert served.ask("d", ids) == (*found, cold[2])
    assert served.ask(None, ids) == (*found, cold[2])
    store.revoke(one.id)
    until(lambda: not names & visible.shared)
    served.keeper.drain()
    assert served.ask("e", ids) == (0, 0, cold[2])
    for holder in ("a", "d"):
        assert served.ask(holder, ids) == (*found, cold[2])


def test_when_the_index_dies_nothing_is_shared_until_it_is_back(served: Served) -> None:
    text = "Garden chairs are made of wood or of metal, and come in green, white and brown. "
    ids = served.ids(text * 15, 5)
    served.ask("a", ids)
    visible, index = served.keeper.visible, served.keeper.index
    until(lambda: (served.keeper.drain(), len(visible.shared) >= 2)[1])
    os.kill(index.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    until(lambda: not visible.shared)
    assert served.ask("f", ids)[0] == 0
    until(lambda: index.restarts == 1)  # type: ignore[attr-defined]
    assert index.state() == "running"  # type: ignore[attr-defined]
    served.ask("g", ids)
    until(lambda: (served.keeper.drain(), len(visible.shared) >= 2)[1])
    assert served.ask("h", ids)[0] >= 2
