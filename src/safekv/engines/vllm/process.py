"""vLLM's own server as a child process: its command line, its life, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import FrameType
from typing import Final

from safekv.errors import ConfigError, EngineError

PLUGIN: Final = "safekv"
PLUGIN_GROUP: Final = "vllm.general_plugins"
SWITCH: Final = "SAFEKV"
MIDDLEWARE: Final = "safekv.engines.vllm.TenantMiddleware"
SCHEDULER: Final = "safekv.engines.vllm.Scheduler"
POLL_S: Final = 0.25
KILL_AFTER_S: Final = 15.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

OURS: Final = (
    "api-key",
    "config",
    "headless",
    "host",
    "middleware",
    "model",
    "port",
    "scheduler-cls",
    "served-model-name",
    "shutdown-timeout",
    "uds",
)
"""Flags of vLLM that `safekv serve` sets itself, or that would open another way in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServer:
    """What to serve: `model` for vLLM, `name` for clients, and vLLM flags of the operator's own."""

    model: str
    name: str
    host: str
    port: int
    drain_s: float
    flags: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables that carry safekv's settings to all processes of the server."""

    def __post_init__(self) -> None:
        for flag in self.flags:
            name = flag.partition("=")[0].lstrip("-").replace("_", "-")
            # vLLM completes flags that are cut short, so a beginning counts as the whole.
            meant = next((own for own in OURS if name and own.startswith(name)), None)
            if flag.startswith("--") and meant:
                raise ConfigError(
                    f"vLLM's flag {flag.partition('=')[0]} cannot be passed on",
                    f"safekv sets --{meant} itself, or it would open a way around it",
                )

    def command(self, env: Mapping[str, str]) -> list[str]:
        """The command line. The middleware comes last, so that it is the outermost."""
        place = ["--host", self.host, "--port", str(self.port)]
        served = ["--model", self.model, "--served-model-name", self.name]
        cache = ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
        ours = ["--disable-uvicorn-access-log", "--shutdown-timeout", str(math.ceil(self.drain_s))]
        scheduler = [] if plugin_loads(env) else ["--scheduler-cls", SCHEDULER]
        program = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
        guarded = [*scheduler, "--middleware", MIDDLEWARE]
        return [*program, *served, *place, *cache, *ours, *self.flags, *guarded]

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The child's variables: `env`, the settings, and the plug-in's switch if it loads."""
        child = {"VLLM_NO_USAGE_STATS": "1", **env, **self.settings}
        child.pop(SWITCH, None)
        return child | {SWITCH: "1"} if plugin_loads(env) else child


def plugin_loads(env: Mapping[str, str]) -> bool:
    """Whether vLLM finds safekv's plug-in by itself. It keeps vLLM's choice of scheduler, so it is
    quicker where scheduling is asynchronous; naming a scheduler class turns that off."""
    allowed = env.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        return False
    return any(each.name == PLUGIN for each in entry_points(group=PLUGIN_GROUP))


def run(server: VllmServer, env: Mapping[str, str], on_ready: Callable[[], None]) -> None:
    """Run the server until SIGTERM or SIGINT, and return once it has ended after one.

    `on_ready` is called when `/health` answers. The child is told once, has `drain_s` seconds for
    work in flight and some more to leave; a second signal, or the end of that time, kills it and
    all its processes. Its output goes to stderr. Must be called in the main thread. Raises
    `EngineError` if it ends by itself.
    """
    child = subprocess.Popen(  # noqa: S603 - our own command, no shell
        server.command(env),
        env=server.environment(env),
        stdin=subprocess.DEVNULL,
        stdout=2,
        start_new_session=True,
    )
    stopping = _Stopping(child, server.drain_s + KILL_AFTER_S)
    try:
        with stopping.on_signals():
            if _wait_until_ready(child, server):
                on_ready()
            child.wait()
    finally:
        stopping.end()
    if not stopping.asked:
        raise EngineError(
            f"vLLM ended with status {child.returncode}", "see what it said above; nothing serves"
        )


class _Stopping:
    """How the child is told to leave, and what happens if it does not."""

    def __init__(self, child: subprocess.Popen[bytes], patience_s: float) -> None:
        self._child = child
        self._patience_s = patience_s
        self._timer: threading.Timer | None = None
        self.asked = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._told) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._kill()
            return
        self.asked = True
        # To the server's first process only: it ends the others in order.
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        self._timer = threading.Timer(self._patience_s, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def _kill(self) -> None:
        # The child leads a session of its own, so this reaches the engine core and workers too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def end(self) -> None:
        """Nothing of the server outlives this call, however it came about."""
        if self._timer is not None:
            self._timer.cancel()
        self._kill()
        self._child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], server: VllmServer) -> bool:
    """Whether it serves: `False` once it has ended. Loading a large model may take its time."""
    while child.poll() is None:
        if _healthy(server):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)
    return False


def _healthy(server: VllmServer) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, server.port, timeout=5.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
