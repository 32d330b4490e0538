"""What the watch counts on a real warden, and the ways a detector is put in trouble."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from safekv.bench.serving.detectors import ClearAll, State, Trouble, build, flood
from safekv.bench.serving.watch import Watch
from safekv.cache import CacheConfig
from safekv.detect.base import Document
from safekv.detect.process import DetectorProcess
from safekv.types import BlockId, TenantId, Verdict, pack_tokens
from safekv.warden import PromptJob, Warden, WardenConfig

WIDTH = 4


class Served:
    """A warden under watch, with blocks of four tokens."""

    def __init__(self) -> None:
        self.warden = Warden(WardenConfig(), CacheConfig(block_tokens=WIDTH, capacity_blocks=400))
        self.warden.open([TenantId(name) for name in "abc"])
        self.watch = Watch(self.warden)
        self._blocks = count()

    def send(self, tenant: str, tokens: list[int], verdicts: list[Verdict] | None = None) -> None:
        """One prompt, computed and judged at once."""
        name, packed = TenantId(tenant), pack_tokens(tokens)
        lease = self.warden.admit(name, packed)
        full = len(tokens) // WIDTH
        new = [BlockId(next(self._blocks)) for _ in range(full - lease.n_blocks)]
        self.warden.store(name, lease, pack_tokens(tokens[: full * WIDTH]), new)
        job = self.warden.computed(name, lease, packed)
        self.warden.release(lease)
        if job is not None and verdicts is not None:
            self.warden.settle(job, verdicts)


CLEAN = [Verdict.SHAREABLE] * 2
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_prompt_is_followed_from_first_sight_to_being_shared() -> None:
    served = Served()
    served.send("a", PROMPT, CLEAN)
    assert not served.watch.settled()
    served.warden.tick()
    assert served.watch.settled()
    (one,) = served.watch.facts()["promotions"]
    parts = [one[key] for key in one if key != "sight_to_shared_s"]
    assert sum(parts) == pytest.approx(one["sight_to_shared_s"])
    assert min(parts) >= 0


def test_what_was_computed_only_because_it_was_not_shared_yet_is_late() -> None:
    served = Served()
    served.send("a", PROMPT, CLEAN)
    served.send("b", PROMPT, CLEAN)  # before the tick: computed again
    served.warden.tick()
    served.send("c", PROMPT, CLEAN)  # found
    facts = served.watch.facts()
    assert facts["prompts"] == 3
    assert facts["prompt_tokens"] == 27
    assert facts["hit_tokens"] == 8
    assert facts["own_hit_tokens"] == 0
    assert facts["late_tokens"] == 8
    served.watch.reset()
    served.send("c", PROMPT, CLEAN)
    later = served.watch.facts()
    assert (later["prompts"], later["hit_tokens"], later["own_hit_tokens"]) == (1, 8, 8)
    assert later["late_tokens"] == 0
    assert later["promotions"] == []


def test_what_is_private_is_never_late_and_nobody_waits_for_it() -> None:
    served = Served()
    vetoed = [Verdict.PRIVATE, Verdict.SHAREABLE]
    served.send("a", PROMPT, vetoed)
    served.send("b", PROMPT, vetoed)
    served.warden.tick()
    facts = served.watch.facts()
    assert facts["late_tokens"] == 0
    assert facts["promotions"] == []
    assert served.watch.settled()
    served.send("c", [*PROMPT, 10, 11, 12, 13])  # never judged
    assert not served.watch.settled()


def test_a_detector_that_is_off_clears_what_it_did_not_see() -> None:
    findings = ClearAll().judge(Document("4111 1111 1111 1111", (5, 10)))
    assert [finding.verdict for finding in findings] == [Verdict.SHAREABLE] * 2
    assert isinstance(build(State.OFF), ClearAll)
    assert all(
        isinstance(build(state), DetectorProcess)
        for state in (State.ON, State.SATURATED, State.DEAD)
    )


def test_a_flood_is_of_long_prompts_that_differ_and_ends_when_told() -> None:
    jobs: list[PromptJob] = []
    enough = threading.Event()

    def submit(job: PromptJob) -> None:
        jobs.append(job)
        if len(jobs) == 6:
            enough.set()

    flooding = flood(submit, lambda text: list(range(len(text.split()))), 32)
    assert enough.wait(60)
    flooding.stop()
    assert len({job.tokens for job in jobs}) == len(jobs)
    assert len({job.tenant for job in jobs}) == 4
    assert all(job.full_blocks >= 6000 // 32 for job in jobs)
    ended = len(jobs)
    acts = threading.Event()
    Trouble(acts.set, 0.001).stop()
    assert len(jobs) == ended
