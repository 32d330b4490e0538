from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from safekv.cli import demo as module
from safekv.cli.main import run
from safekv.demo.plan import StoryPlan
from safekv.demo.play import Performance, Staging
from safekv.demo.result import ModeResult
from safekv.demo.story import Stage
from safekv.gateway.tenants import TenantStore
from safekv.types import Mode

Results = dict[Mode, ModeResult]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, results: Results, tmp_path: Path) -> Results:
    """The command without servers: `play` gives what this dictionary holds then."""
    shown = dict(results)

    def play(model: str, modes: list[Mode], plan: StoryPlan, hear: object, **_: object) -> object:
        for mode in modes:
            for stage in Stage:
                hear(mode, stage, 0, 3)  # type: ignore[operator]
                hear(mode, stage, 2, 3)  # type: ignore[operator]
        return Performance({mode: shown[mode] for mode in modes}, {"model": model})

    monkeypatch.setattr(module, "play", play)
    monkeypatch.chdir(tmp_path)
    return shown


def test_json_is_one_object_on_stdout_and_the_page_is_written(
    played: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--json", "--model", "some-model"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["environment"]["model"] == "some-model"
    assert "attacker probes" in printed.err
    assert Path("safekv-demo.html").read_text().startswith("<!doctype html>")


def test_people_get_a_table_and_sentences(
    played: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--svg", "small.svg"]) == 0
    out = capsys.readouterr().out
    assert "unsafe-global leaks" in out
    assert "secret recovered" in out
    assert Path("small.svg").read_text().startswith("<svg")


def test_an_unexpected_outcome_is_said_and_exits_1(
    played: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    played[Mode.UNSAFE_GLOBAL] = played[Mode.ISOLATED]
    played[Mode.SELECTIVE] = played[Mode.ISOLATED]
    assert run(["demo"]) == 1
    assert "✗" in capsys.readouterr().out
    assert Path("safekv-demo.html").exists()


def test_a_subset_of_modes_is_played_in_the_order_given(
    played: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--json", "--modes", "unsafe-global, isolated"]) == 0
    assert list(json.loads(capsys.readouterr().out)["modes"]) == ["unsafe-global", "isolated"]


@pytest.mark.parametrize(
    "wrong",
    [["--modes", "isolated,open"], ["--modes", ""], ["--out", "missing/x.html"], ["--nonsense"]],
)
def test_wrong_usage_exits_2_before_anything_is_played(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "play", lambda *_, **__: pytest.fail("played"))
    assert run(["demo", *wrong]) == 2
    assert os.listdir(tmp_path) == []


def test_sigterm_unwinds_so_that_servers_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    unwound = []

    def play(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)

    monkeypatch.setattr(module, "play", play)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(["demo"])
    assert stopped.value.code == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_everybody_gets_a_key_of_their_own_and_no_key_is_shown(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    staging = Staging.prepare(tmp_path, StoryPlan.quick())
    store = TenantStore(staging.keys_file)
    found = {name: store.find(key) for name, key in staging.keys.items()}
    assert all(record is not None and record.tenant == name for name, record in found.items())
    assert not any(key in repr(staging) for key in (*staging.keys.values(), staging.operator_key))
