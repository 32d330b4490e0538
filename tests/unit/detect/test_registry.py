"""Stages by name: the built-in ones, those of installed packages, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.registry import build_cascade, build_stage, known_stages
from safekv.errors import ConfigError
from safekv.types import Verdict
from support.stages import lay_out_package

MODULE = """
from safekv.detect.base import Finding
from safekv.types import Verdict
from support.stages import lay_out_package

class Shouting:
    name = "shouting"

    def judge(self, document):
        start, findings = 0, []
        for end in document.block_ends:
            loud = document.text[start:end].isupper()
            verdict = Verdict.PRIVATE if loud else Verdict.SHAREABLE
            findings.append(Finding(verdict, "loud" if loud else "clean"))
            start = end
        return findings

def make(config):
    return Shouting()

def broken(config):
    raise RuntimeError("no")

def nothing(config):
    return object()
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lays out a distribution as an installer does, and puts it on the path."""

    def lay_out(distribution: str, **points: str) -> None:
        monkeypatch.syspath_prepend(lay_out_package(tmp_path, distribution, MODULE, points))
        monkeypatch.delitem(sys.modules, distribution, raising=False)

    return lay_out


def ignore(stage: str, reason: str) -> None:
    raise AssertionError(f"{stage} failed: {reason}")


def test_an_installed_package_gives_a_stage(install: Install) -> None:
    install("shoutdetect", shouting="shoutdetect:make")
    assert known_stages() == ("classifier", "judge", "rules", "shouting")
    cascade = build_cascade(DetectConfig(stages=("rules", "shouting")), ignore)
    prose = "quiet and long enough that every block has its look-ahead behind it, and more. "
    findings = cascade.judge(Document(f"LOUD quiet {prose * 2}", (5, 11)))
    assert [f.verdict for f in findings] == [Verdict.PRIVATE, Verdict.SHAREABLE]
    assert findings[0].rule == "loud"


def test_an_unknown_stage_is_named_with_those_known() -> None:
    with pytest.raises(ConfigError, match="'spells'") as raised:
        build_stage("spells", DetectConfig())
    assert "rules" in raised.value.hint


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("shoutdetect:broken", "cannot be made"),
        ("shoutdetect:nothing", "no detector"),
        ("shoutdetect:absent", "cannot be imported"),
        ("no_such_module:make", "cannot be imported"),
    ],
)
def test_a_broken_package_stops_the_start(install: Install, point: str, said: str) -> None:
    install("shoutdetect", shouting=point)
    with pytest.raises(ConfigError, match=said):
        build_stage("shouting", DetectConfig())


def test_two_packages_may_not_offer_one_stage(install: Install) -> None:
    install("shoutdetect", shouting="shoutdetect:make")
    install("otherdetect", shouting="otherdetect:make")
    with pytest.raises(ConfigError, match="offered by"):
        build_stage("shouting", DetectConfig())


def test_a_package_cannot_replace_a_built_in_stage(install: Install) -> None:
    install("shoutdetect", rules="shoutdetect:make")
    assert build_stage("rules", DetectConfig()).name == "rules"


@pytest.mark.parametrize("stages", [(), ("rules", "rules")])
def test_stages_must_be_named_once(stages: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"detect\.stages"):
        DetectConfig(stages=stages)
