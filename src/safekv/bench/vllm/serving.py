"""What selective sharing is worth in vLLM, end to end: stock, stock with salts, and safekv.

Three in-process engines, each in a process of its own, serve the same chats in turns: whatever
slows the machine slows all three alike, and ratios are paired request by request. What an HTTP
server adds is not in the times; what safekv's front adds to it is measured beside them.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import safekv
from safekv.bench.stats import paired_ratio
from safekv.bench.vllm.words import OBJECTS, PLACES, SUBJECTS, VERBS
from safekv.errors import ConfigError, EngineError

KINDS: Final = ("global", "salt", "safekv")
BLOCK_TOKENS: Final = 32
TOKENS_PER_SENTENCE: Final = 10
EPOCH_S: Final = "0.1"
MAX_AT_ONCE: Final = 16
BARS: Final = {"first_turn": 1.05, "control": 1.02, "kv_memory": 1.10}
"""The most that safekv may take of what global sharing (first turn, memory) or a stock server
(control, where nobody shares) takes."""

Progress = Callable[[int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """How much is measured. A system prompt has about `system_tokens` tokens."""

    tenants: tuple[int, ...] = (4, 16, 64)
    system_tokens: int = 512
    output_tokens: int = 8
    turns: int = 3
    chatting: int = 4
    """Tenants that go on chatting after their first turn."""
    batches: int = 3
    control: int = 16
    first_turns: int = 15
    """At least so many first turns are measured for each number of tenants, in several groups with
    a system prompt of their own where one has fewer."""
    settle_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("system_tokens", "output_tokens", "turns", "chatting", "batches", "first_turns")
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "use 1 or more")
        if self.control < 2:
            raise ConfigError(f"control is {self.control}", "use 2 or more")
        if not self.tenants or min(self.tenants) < 3:
            raise ConfigError("too few tenants", "use 3 or more: the first only fills the caches")

    def groups(self, tenants: int) -> int:
        """How many groups of so many tenants there are; the first of each fills the caches."""
        return -(-self.first_turns // (tenants - 1))

    def steps(self) -> int:
        """How many times all engines get something to do."""
        chats = sum(
            n * self.groups(n) + min(self.chatting, n) * (self.turns - 1) for n in self.tenants
        )
        return chats + self.batches * len(self.tenants) + self.control


@dataclass(slots=True)
class Chat:
    """One tenant's conversation, which each engine continues with its own answers."""

    tenant: str
    system: str
    histories: dict[str, list[dict[str, str]]]

    @classmethod
    def begin(cls, tenant: str, system: str) -> Chat:
        return cls(tenant, system, {kind: [] for kind in KINDS})

    def ask(self, text: str) -> None:
        for history in self.histories.values():
            history.append({"role": "user", "content": text})

    def request(self, kind: str, output_tokens: int) -> Row:
        system = {"role": "system", "content": self.system}
        messages = [system, *self.histories[kind]]
        return {"tenant": self.tenant, "messages": messages, "max_tokens": output_tokens}

    def answered(self, kind: str, text: str) -> None:
        self.histories[kind].append({"role": "assistant", "content": text})


class Engine:
    """The driver's half of one engine's process."""

    def __init__(self, kind: str, model: str, max_model_len: int, env: Mapping[str, str]) -> None:
        self.kind = kind
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        worker = [sys.executable, "-m", "safekv.bench.vllm.serving_worker"]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*worker, kind, model, str(max_model_len)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=dict(env),
        )

    def hello(self) -> Row:
        """What it says of itself once it is loaded. Raises `EngineError`."""
        about: Row = self._answer()["about"]
        return about

    def ask(self, **request: Any) -> Row:
        """Send one request and wait for its answer. Raises `EngineError`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost() from error
        return self._answer()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._lost()
        answer: Row = json.loads(line)
        if not answer["ok"]:
            raise EngineError(f"vLLM ({self.kind}) failed: {answer['why']}")
        return answer

    def _lost(self) -> EngineError:
        self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return EngineError(
            f"vLLM ({self.kind}) ended with status {self._process.returncode}: {last}"
        )

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


@contextmanager
def engines(model: str, plan: ServingPlan) -> Iterator[dict[str, Engine]]:
    """All engines, loaded, with keys of their own in a folder that goes with them."""
    length = plan.system_tokens + 160 * plan.turns + 256
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"SAFEKV_WARDEN__EPOCH_S": EPOCH_S, **os.environ, "SAFEKV_HOME": home}
        root = Path(safekv.__file__).resolve().parent.parent
        if root.name == "src":
            env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")]).rstrip(":")
        running = {kind: Engine(kind, model, length, env) for kind in KINDS}
        for engine in running.values():
            stack.callback(engine.close)
        yield running


class Run:
    """One measurement: the engines, the plan, and what was seen so far."""

    def __init__(self, running: Mapping[str, Engine], plan: ServingPlan, tick: Callable[[], None]):
        self._engines = running
        self._plan = plan
        self._tick = tick
        self._turn = 0
        self._words = random.Random(plan.seed)  # noqa: S311 - texts, not secrets

    def sentences(self, tokens: int) -> str:
        """About `tokens` tokens of harmless text that no other call returns."""
        pick = self._words.choice
        made = [
            f"{pick(SUBJECTS)} {pick(VERBS)} {pick(OBJECTS)} {pick(PLACES)}."
            for _ in range(max(1, tokens // TOKENS_PER_SENTENCE))
        ]
        # A number at the front: texts are different from their first block on.
        return f"Note {self._words.randrange(10**6)}: " + " ".join(made)

    def together(
        self, chats: Sequence[Chat], *, promoted: int = 0, keep: bool = True
    ) -> dict[str, Row]:
        """Let every engine serve the open question of each chat, one engine after the other, and
        wait until `promoted` blocks more are shared."""
        answers = {}
        for kind in self._order():
            requests = [chat.request(kind, self._plan.output_tokens) for chat in chats]
            answers[kind] = self._engines[kind].ask(do="serve", requests=requests)
            # Detection ends before another engine's turn, so it slows nobody else.
            answers[kind]["settled"] = self._engines[kind].ask(
                do="settle", blocks=promoted, seconds=self._plan.settle_s
            )
            for chat, result in zip(chats, answers[kind]["results"], strict=True):
                if keep:
                    chat.answered(kind, result["text"])
                else:
                    chat.histories[kind].pop()
        self._tick()
        return answers

    def _order(self) -> list[str]:
        """Another engine begins each time, so none always follows the same one."""
        self._turn += 1
        first = self._turn % len(KINDS)
        return [*KINDS[first:], *KINDS[:first]]

    def reset(self) -> None:
        for engine in self._engines.values():
            engine.ask(do="reset")

    def _group(self, tenants: int) -> tuple[list[Chat], dict[str, Row], list[dict[str, Row]]]:
        """The first turns of `tenants` tenants with one new system prompt, in empty caches."""
        self.reset()
        system = self.sentences(self._plan.system_tokens)
        chats = [Chat.begin(f"tenant-{i}", system) for i in range(tenants)]
        for chat in chats:
            chat.ask(self.sentences(20))
        # The last blocks of the system prompt wait for what follows them: the look-ahead.
        expected = self._plan.system_tokens // BLOCK_TOKENS // 2
        primer = self.together(chats[:1], promoted=expected)
        return chats, primer, [self.together([chat]) for chat in chats[1:]]

    def shared(self, tenants: int) -> Row:
        """`tenants` tenants with one system prompt: first turns, chats, batches, memory."""
        first = list[dict[str, Row]]()
        for _ in range(self._plan.groups(tenants)):
            chats, primer, turns = self._group(tenants)
            first += turns
        later = []
        for _ in range(self._plan.turns - 1):
            for chat in chats[: self._plan.chatting]:
                chat.ask(self.sentences(20))
                later.append(self.together([chat]))
        batches = []
        for _ in range(self._plan.batches):
            some = chats[:MAX_AT_ONCE]
            for chat in some:
                chat.histories = {kind: [] for kind in KINDS}
                chat.ask(self.sentences(20))
            batches.append(self.together(some, keep=False))
        blocks = {kind: e.ask(do="cached")["blocks"] for kind, e in self._engines.items()}
        return {
            "tenants": tenants,
            "groups": self._plan.groups(tenants),
            "prompt_tokens": primer["global"]["results"][0]["prompt_tokens"],
            "cold_ttft_s": {kind: _ttft(primer[kind]) for kind in KINDS},
            "promotion_s": primer["safekv"]["settled"],
            "first_turn": _paired([_times(each) for each in first]),
            "later_turns": _paired([_times(each) for each in later]) if later else None,
            "batches": _batches(batches),
            "cached_blocks": blocks,
            "kv_memory_ratio": blocks["safekv"] / blocks["global"],
            "same_texts": _same(primer, *first),
        }

    def control(self) -> Row:
        """Chats that share nothing, so that all three compute everything."""
        self.reset()
        times = []
        for i in range(self._plan.control):
            chat = Chat.begin(f"alone-{i}", self.sentences(self._plan.system_tokens))
            chat.ask(self.sentences(20))
            times.append(_times(self.together([chat])))
        return {"requests": self._plan.control, **_paired(times)}


def run(model: str, plan: ServingPlan, progress: Progress) -> Row:
    """Measure everything of `plan` with the model at `model`. Takes minutes.

    Raises `EngineError` when an engine does not load or dies.
    """
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, plan.steps())

    progress(0, plan.steps())
    with engines(model, plan) as running:
        about = {kind: engine.hello() for kind, engine in running.items()}
        measured = Run(running, plan, tick)
        control = measured.control()
        shared = [measured.shared(n) for n in plan.tenants]
    return {
        "part": "serving",
        "plan": asdict(plan),
        "engines": about,
        "shared": shared,
        "control": control,
        "bars": _bars(shared, control),
    }


def _ttft(answer: Row) -> float:
    return float(answer["results"][0]["ttft_s"])


def _times(answers: Mapping[str, Row]) -> dict[str, float]:
    return {kind: _ttft(answer) for kind, answer in answers.items()}


def _paired(times: Sequence[Mapping[str, float]]) -> Row:
    """Percentiles of each engine's TTFT, and safekv's against the others', paired."""
    by_kind = {kind: [each[kind] for each in times] for kind in KINDS}
    return {
        "ttft_s": {kind: _percentiles(found) for kind, found in by_kind.items()},
        "to_global": asdict(paired_ratio(by_kind["safekv"], by_kind["global"])),
        "to_salt": asdict(paired_ratio(by_kind["safekv"], by_kind["salt"])),
        "stock_to_itself": asdict(paired_ratio(by_kind["salt"], by_kind["global"])),
        "samples_s": by_kind,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"p50": statistics.median(ordered), "p95": p95, "n": len(ordered)}


def _batches(batches: Sequence[Mapping[str, Row]]) -> Row:
    """Output tokens per second and TTFT of requests that run at once."""
    rates = {
        kind: [
            sum(r["output_tokens"] for r in each[kind]["results"]) / each[kind]["seconds"]
            for each in batches
        ]
        for kind in KINDS
    }
    waits = {
        kind: [r["ttft_s"] for each in batches for r in each[kind]["results"]] for kind in KINDS
    }
    return {
        "at_once": len(batches[0]["global"]["results"]),
        "output_tokens_per_s": {kind: statistics.median(found) for kind, found in rates.items()},
        "ttft_s": {kind: _percentiles(found) for kind, found in waits.items()},
        "to_global": asdict(paired_ratio(rates["safekv"], rates["global"])),
        "to_salt": asdict(paired_ratio(rates["safekv"], rates["salt"])),
    }


def _same(*answers: Mapping[str, Row]) -> float:
    """The share of answers whose text was the same from all three."""
    texts = [{each[kind]["results"][0]["text"] for kind in KINDS} for each in answers]
    return sum(len(each) == 1 for each in texts) / len(texts)


def _bars(shared: Sequence[Row], control: Row) -> Row:
    """What was asked for, and what was measured: the worst of all numbers of tenants."""
    got = {
        "first_turn": max(each["first_turn"]["to_global"]["value"] for each in shared),
        "control": control["to_global"]["value"],
        "kv_memory": max(each["kv_memory_ratio"] for each in shared),
    }
    return {
        name: {"worst": got[name], "bar": bar, "met": got[name] <= bar}
        for name, bar in BARS.items()
    }


def front_cost(pass_on: Callable[[bytes], None], body_tokens: int, calls: int = 200) -> Row:
    """Median and p95 microseconds of `pass_on` for a chat of about `body_tokens` tokens."""
    text = "the gardener waters the roses near the harbour. " * (body_tokens // 10)
    message = {"role": "user", "content": text}
    body = json.dumps({"model": "m", "messages": [message], "max_tokens": 8}).encode()
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        pass_on(body)
        times.append((time.perf_counter() - began) * 1e6)
    found = _percentiles(times)
    return {"body_bytes": len(body), "p50_us": found["p50"], "p95_us": found["p95"]}
