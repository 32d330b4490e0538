"""The command group: quick to import, honest in its help, one exit status per kind of failure."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

import safekv
from safekv.cli.errors import ExitCode, exit_status
from safekv.cli.main import COMMANDS, run
from safekv.errors import ConfigError, RequestError, SafeKVError

HEAVY = ("torch", "transformers", "fastapi", "uvicorn", "openai", "httpx", "re2")


@pytest.mark.parametrize(
    "module", ["safekv", "safekv.cli.main", "safekv.cli.models", "safekv.engines.hf.store"]
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_lists_every_command_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitCode.OK
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.summary in shown
    flat = " ".join(shown.split())
    assert "0 ok, 1 failed, 2 wrong usage or configuration, 3 inconclusive" in flat
    assert "130 interrupted" in flat


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    command = COMMANDS[name].load()
    assert isinstance(command, click.Command)
    assert command.name == name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"safekv, version {safekv.__version__}\n"


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "'server'" in captured.err
    assert "serve, demo" in captured.err


def test_an_unknown_flag_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--nope"]) == ExitCode.USAGE
    assert "--nope" in capsys.readouterr().err


def raiser(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SafeKVError("it broke"), ExitCode.FAILED),
        (ConfigError("it broke"), ExitCode.USAGE),
        (RequestError("it broke"), ExitCode.USAGE),
        (click.UsageError("it broke"), ExitCode.USAGE),
        (click.ClickException("it broke"), ExitCode.FAILED),
        (click.exceptions.Exit(3), ExitCode.INCONCLUSIVE),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (click.Abort(), ExitCode.INTERRUPTED),
    ],
)
def test_each_failure_has_its_status(error: BaseException, status: int) -> None:
    assert exit_status(lambda: raiser(error)) == status


def test_an_error_is_one_sentence_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    exit_status(lambda: raiser(SafeKVError("port 80 is in use", "choose another with --port")))
    assert capsys.readouterr() == (
        "",
        "error: port 80 is in use\n hint: choose another with --port\n",
    )


@pytest.mark.parametrize(("returned", "status"), [(None, 0), ("text", 0), (0, 0), (3, 3)])
def test_a_command_may_return_its_status(returned: object, status: int) -> None:
    assert exit_status(lambda: returned) == status


def test_a_missing_extra_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("no module", name="torch.nn")
    assert exit_status(lambda: raiser(missing)) == ExitCode.USAGE
    assert "pip install 'safekv[hf]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bug", [ModuleNotFoundError("no module", name="safekv.cli.nope"), ValueError("bug")]
)
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        exit_status(lambda: raiser(bug))


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "safekv.cli.main", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == ExitCode.FAILED
