"""`safekv serve` in a process of its own, as an operator starts it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from safekv.gateway.tenants import TenantStore

READY = re.compile(r"serving (\S+) at (http://\S+)")


@dataclass
class RunningServer:
    """A started server, its keys, and what it printed."""

    process: subprocess.Popen[str]
    url: str
    model: str
    keys: Mapping[str, str]
    lines: list[str] = field(default_factory=list)

    def client(self, tenant: str, **options: object) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def metric(self, name: str) -> float:
        """The sum over all labels of one metric, as the operator sees it."""
        with self.client("ops") as client:
            text = client.get("/metrics").raise_for_status().text
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, name
        return sum(map(float, found))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def command(model: Path | str, keys: Path, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "safekv.cli.main", "serve", str(model)]
    return [*program, "--port", "0", "--keys", str(keys), *arguments]


def refused(arguments: list[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and stderr of a server that must not start."""
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stderr


@contextlib.contextmanager
def serving(
    model: Path, directory: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """A server with tenants `acme`, `beta`, `mallory` and the operator `ops`; killed at the end."""
    store = TenantStore(directory / "tenants.json")
    keys = {name: store.add(name) for name in ("acme", "beta", "mallory")}
    keys["ops"] = store.add("ops", operator=True)
    process = subprocess.Popen(
        command(model, directory / "tenants.json", *arguments),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(env or {})},
    )
    server = RunningServer(process, "", "", keys)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _wait_until_ready(server: RunningServer) -> None:
    stderr = server.process.stderr
    assert stderr is not None
    ready = threading.Event()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed at the end of the test
            for line in stderr:
                server.lines.append(line.rstrip())
                if found := READY.search(line):
                    server.model, server.url = found.groups()
                    ready.set()

    threading.Thread(target=read, daemon=True).start()
    for _ in range(1200):
        if ready.wait(0.1):
            return
        if server.process.poll() is not None:
            break
    raise AssertionError("the server did not start:\n" + "\n".join(server.lines))
