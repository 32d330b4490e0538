"""vLLM's server as a child: the command line it gets, and how its life ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from safekv.engines.vllm.process import MIDDLEWARE, SCHEDULER, VllmServer
from safekv.errors import ConfigError

GUARDED = """
    --api-key --api_key --api-key=x --middleware --middlew --scheduler-cls=x --port --host --model
    --config=/x.yaml --uds --headless --served_model
"""


def server(**changed: Any) -> VllmServer:
    given: dict[str, Any] = {"model": "/m", "name": "m", "host": "127.0.0.1", "port": 8123}
    return VllmServer(**{**given, "drain_s": 2.5, **changed})


def value_of(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_middleware_is_the_last_of_all_flags() -> None:
    command = server(flags=("--max-model-len", "4096")).command({})
    assert command[-2:] == ["--middleware", MIDDLEWARE]
    assert command.index("--max-model-len") < command.index("--middleware")
    assert command[:4] == [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert value_of(command, "--model") == "/m"
    assert value_of(command, "--served-model-name") == "m"
    assert (value_of(command, "--host"), value_of(command, "--port")) == ("127.0.0.1", "8123")
    assert value_of(command, "--shutdown-timeout") == "3"
    assert "--enable-prefix-caching" in command
    assert "--enable-prompt-tokens-details" in command


def test_without_the_plug_in_the_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safekv.engines.vllm.process.entry_points", lambda **_: [])
    assert value_of(server().command({}), "--scheduler-cls") == SCHEDULER
    # Never both ways at once: a switch left in the environment is taken out.
    assert "SAFEKV" not in server().environment({"SAFEKV": "1"})


def test_with_the_plug_in_vllm_chooses_its_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "safekv"

    monkeypatch.setattr("safekv.engines.vllm.process.entry_points", lambda **_: [Point()])
    assert "--scheduler-cls" not in server().command({})
    assert server().environment({})["SAFEKV"] == "1"
    for allowed, loads in (("", False), ("other", False), ("other,safekv", True)):
        env = {"VLLM_PLUGINS": allowed}
        assert ("--scheduler-cls" not in server().command(env)) == loads
        assert ("SAFEKV" in server().environment(env)) == loads


def test_settings_reach_the_child_and_reports_do_not_leave_it() -> None:
    child = server(settings={"SAFEKV_WARDEN__MODE": "isolated"}).environment({"PATH": "/bin"})
    assert child["SAFEKV_WARDEN__MODE"] == "isolated"
    assert child["PATH"] == "/bin"
    assert child["VLLM_NO_USAGE_STATS"] == "1"
    assert server().environment({"VLLM_NO_USAGE_STATS": "0"})["VLLM_NO_USAGE_STATS"] == "0"


@pytest.mark.parametrize("flag", GUARDED.split())
def test_flags_that_would_open_a_way_around_are_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="cannot be passed on"):
        server(flags=("--max-num-seqs", "4", flag, "value"))


def test_other_flags_pass() -> None:
    flags = ("--max-model-len", "4096", "--dtype=float32", "-tp", "2", "--enforce-eager", "model")
    assert server(flags=flags).flags == flags


# A stand-in for vLLM's package: what it does is not tested here, only how its end is taken.
CHILD = """
import http.server, os, signal, subprocess, sys, time
behaviour = os.environ["BEHAVIOUR"]
print("starting", flush=True)
if behaviour == "dies":
    sys.exit(7)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {helper.pid}")
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    def leave(*_):
        helper.kill()
        os._exit(0)
    signal.signal(signal.SIGTERM, leave)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

PARENT = """
import os, sys
from safekv.engines.vllm import process
from safekv.cli.errors import exit_status
server = process.VllmServer(
    model="m", name="m", host="127.0.0.1", port=int(sys.argv[1]), drain_s=0.0
)
process.KILL_AFTER_S = float(sys.argv[2])
ready = lambda: print("ready", flush=True)
sys.exit(exit_status(lambda: process.run(server, os.environ, ready)))
"""


class Parent:
    """`run` in a process of its own, with the stand-in in the place of vLLM."""

    def __init__(self, folder: Path, behaviour: str, kill_after_s: float = 60.0) -> None:
        package = folder / "vllm" / "entrypoints" / "openai"
        package.mkdir(parents=True)
        for directory in (package, package.parent, package.parent.parent):
            (directory / "__init__.py").touch()
        (package / "api_server.py").write_text(textwrap.dedent(CHILD))
        self._pids = folder / "pids"
        paths = [str(folder), *sys.path]
        env = {**os.environ, "BEHAVIOUR": behaviour, "PIDS": str(self._pids)}
        env["PYTHONPATH"] = os.pathsep.join(paths)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(port), str(kill_after_s)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def left_behind(self) -> list[int]:
        """The processes of the child that still run."""
        deadline_s = time.monotonic() + 20
        while True:
            alive = [pid for pid in map(int, self._pids.read_text().split()) if running(pid)]
            if not alive or time.monotonic() > deadline_s:
                return alive
            time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_the_command_with_status_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent = Parent(tmp_path, "obeys")
    parent.wait_until_ready()
    parent.process.send_signal(number)
    status, errors = parent.end()
    assert status == 0, errors
    assert "starting" in errors
    assert parent.left_behind() == []


def test_a_server_that_ends_by_itself_is_a_failure(tmp_path: Path) -> None:
    status, errors = Parent(tmp_path, "dies").end()
    assert status == 1
    assert "vLLM ended with status 7" in errors


def test_a_second_signal_kills_all_its_processes(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "stubborn")
    parent.wait_until_ready()
    parent.process.send_signal(signal.SIGTERM)
    # The stand-in ignores SIGTERM, so only what follows can end it.
    time.sleep(0.5)
    assert parent.process.poll() is None
    parent.process.send_signal(signal.SIGTERM)
    assert parent.end()[0] == 0
    assert parent.left_behind() == []


def test_a_server_that_does_not_leave_in_time_is_killed(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "stubborn", kill_after_s=0.2)
    parent.wait_until_ready()
    parent.process.send_signal(signal.SIGTERM)
    assert parent.end()[0] == 0
    assert parent.left_behind() == []


def test_a_server_killed_from_outside_is_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "obeys")
    parent.wait_until_ready()
    os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)
    status, errors = parent.end()
    assert status == 1
    assert "status -9" in errors
    assert parent.left_behind() == []
