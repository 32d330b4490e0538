"""A real detector process: killed, hung, lying, refused; nothing is cleared, and it comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from safekv.detect.base import Document
from safekv.detect.child import NICENESS
from safekv.detect.config import DetectConfig
from safekv.detect.process import DetectorProcess, NoVerdictError
from safekv.detect.wire import config_from_wire, config_to_wire
from safekv.errors import ConfigError
from safekv.types import Verdict
from support.stages import lay_out_package

STAGE = """
import os, sys, time
from safekv.detect.base import Finding
from safekv.types import Verdict

class Obeys:
    name = "obeys"

    def judge(self, document):
        text = document.text
        if "HANG" in text:
            time.sleep(600)
        if "DIE" in text:
            os._exit(3)
        if "LIE" in text:
            sys.modules["__main__"].findings_to_wire = lambda answers: []
        if "SHORT" in text:
            return []
        print("printing", repr(text))
        verdict = Verdict.PRIVATE if "secret" in text else Verdict.SHAREABLE
        return [Finding(verdict, "clean")] * len(document.block_ends)

def make(config):
    return Obeys()
"""


class Time:
    """A clock that runs, and can be put forward."""

    ahead_s = 0.0

    def now_s(self) -> float:
        import time

        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def failures() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Time,
    failures: list[tuple[str, str]],
) -> Iterator[DetectorProcess]:
    monkeypatch.syspath_prepend(
        lay_out_package(tmp_path, "obeying", STAGE, {"obeys": "obeying:make"})
    )
    config = DetectConfig(stages=("obeys",), time_limit_s=3.0)
    running = DetectorProcess(config, lambda *failure: failures.append(failure), clock=clock)
    running.start()
    yield running
    running.stop()


def verdicts(process: DetectorProcess, text: str) -> list[Verdict]:
    return [found.verdict for found in process.judge(Document(text, (1, len(text))))]


def fails(process: DetectorProcess, text: str) -> str:
    with pytest.raises(NoVerdictError) as raised:
        verdicts(process, text)
    assert text not in str(raised.value)
    return raised.value.reason


def test_judges_in_another_process(process: DetectorProcess) -> None:
    assert process.pid not in (None, os.getpid())
    assert verdicts(process, "prose") == [Verdict.SHAREABLE] * 2
    assert verdicts(process, "secret \ud83d\u2028\x00 text") == [Verdict.PRIVATE] * 2
    assert process.judge_all([]) == []
    assert process.state() == "running"


def test_a_killed_process_comes_back(process: DetectorProcess, clock: Time) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert fails(process, "prose") == "died"
    assert process.state().startswith("restarting")
    assert fails(process, "prose") == "restarting"
    clock.ahead_s += 1
    assert verdicts(process, "prose") == [Verdict.SHAREABLE] * 2
    assert process.restarts == 1


def test_a_hung_process_is_killed(process: DetectorProcess, clock: Time) -> None:
    hung = process.pid
    assert hung is not None
    assert fails(process, "HANG") == "hung"
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    clock.ahead_s += 1
    assert verdicts(process, "prose") == [Verdict.SHAREABLE] * 2


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has it")
def test_it_takes_what_nobody_wants_until_it_may_have_starved(
    process: DetectorProcess, clock: Time
) -> None:
    assert process.pid is not None
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    os.kill(process.pid, signal.SIGKILL)
    assert fails(process, "prose") == "died"
    clock.ahead_s += 1
    verdicts(process, "prose")
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    assert fails(process, "HANG") == "hung"
    clock.ahead_s += 2
    verdicts(process, "prose")
    assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= NICENESS


def test_a_short_answer_of_the_process_ends_it(process: DetectorProcess) -> None:
    assert fails(process, "LIE") == "wrong-answer"
    assert process.state().startswith("restarting")


def test_a_short_answer_of_a_stage_clears_nothing(
    process: DetectorProcess, failures: list[tuple[str, str]]
) -> None:
    assert verdicts(process, "SHORT") == [Verdict.UNSURE] * 2
    assert failures == [("obeys", "ValueError")]
    assert process.state() == "running"


def test_back_off_doubles_until_an_answer_comes(process: DetectorProcess, clock: Time) -> None:
    for wait_s in (0.5, 1.0, 2.0):
        assert fails(process, "DIE") == "died"
        clock.ahead_s += wait_s * 0.8
        assert fails(process, "prose") == "restarting"
        clock.ahead_s += wait_s * 0.3
    assert verdicts(process, "prose") == [Verdict.SHAREABLE] * 2
    assert fails(process, "DIE") == "died"
    clock.ahead_s += 0.6
    assert verdicts(process, "prose") == [Verdict.SHAREABLE] * 2


def test_a_stopped_process_stays_stopped(process: DetectorProcess) -> None:
    process.stop()
    process.stop()
    assert process.state().startswith("stopped")
    assert fails(process, "prose") == "stopped"
    assert process.pid is None


def test_a_bad_rule_file_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    rules = tmp_path / "bad.toml"
    rules.write_text('[[rule]]\nid = "x"\npattern = "("\nexamples = ["x"]\n')
    refused = DetectorProcess(DetectConfig(extra_rulesets=(rules,)), lambda stage, reason: None)
    with pytest.raises(ConfigError, match=r"bad\.toml:1.*'x'"):
        refused.start()
    assert refused.pid is None


def test_settings_cross_the_wire_unchanged(tmp_path: Path) -> None:
    config = DetectConfig(
        stages=("rules", "classifier"), extra_rulesets=(tmp_path / "a",), classifier=tmp_path
    )
    assert config_from_wire(config_to_wire(config)) == config
    assert config_from_wire(config_to_wire(DetectConfig())) == DetectConfig()
