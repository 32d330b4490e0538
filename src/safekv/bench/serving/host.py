"""The server's process: one model, served in one mode after another, and watched.

`python -P -m safekv.bench.serving.host`, driven by JSON lines on its stdin (`Host.answer`). The
gateway, the engine and the detector's process are those of `safekv serve`; the model is loaded once
for all modes. Beside them run the sampler (`profile`) and the watch (`watch`).
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, TextIO

import psutil
from fastapi import FastAPI

from safekv.bench.serving.detectors import State, Trouble, build, flood, killing
from safekv.bench.serving.models import about, load_model
from safekv.bench.serving.profile import Sampler
from safekv.bench.serving.stock import StockEngine
from safekv.bench.serving.watch import Watch
from safekv.cache import CacheConfig
from safekv.detect.config import DetectConfig
from safekv.detect.process import DetectorProcess
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.load import LoadedModel
from safekv.gateway.app import create_app
from safekv.gateway.config import GatewayConfig
from safekv.gateway.server import Server, reserve_socket
from safekv.gateway.tenants import TenantStore
from safekv.types import Mode
from safekv.warden import WardenConfig

MODEL = "bench"
STOCK = "stock"
MODES = {
    "global": Mode.UNSAFE_GLOBAL,
    "isolated": Mode.ISOLATED,
    "selective": Mode.SELECTIVE,
}
START_S, STOP_S = 300.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One mode with its memory: equal quotas for `tenants`, and `shared_blocks` for the pool."""

    mode: str
    tenants: list[str]
    capacity_blocks: int
    shared_blocks: int
    overcommit: float = 1.0
    detector: str = "on"
    epoch_s: float = 1.0

    def cache(self) -> CacheConfig:
        return CacheConfig(
            capacity_blocks=self.capacity_blocks,
            shared_blocks=self.shared_blocks,
            overcommit=self.overcommit,
        )


@dataclass(slots=True)
class Served:
    """A running server and what watches it."""

    engine: HFEngine
    server: Server
    thread: threading.Thread
    watch: Watch | StockEngine
    troubles: list[Trouble] = field(default_factory=list)


class Host:
    """Answers requests, one at a time; serves at most one mode. Errors become answers."""

    def __init__(self, loaded: LoadedModel, settings: HFConfig, directory: Path) -> None:
        self._loaded, self._settings, self._directory = loaded, settings, directory
        self._sampler = Sampler()
        self._sampler.start()
        self._served: Served | None = None
        self._detector_s = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        try:
            found: dict[str, Any] = getattr(self, f"do_{request.pop('do')}")(**request)
        except Exception as error:  # the driver must hear of anything that goes wrong
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {error}"[:400]}
        return found

    def do_open(self, **setup: Any) -> dict[str, Any]:
        """Start to serve: the URL, and a key for each tenant."""
        return self._open(Setup(**setup))

    def do_mark(self) -> dict[str, Any]:
        """Count from now on."""
        served = self._now_served()
        served.watch.reset()
        self._sampler.reset()
        self._detector_s = _cpu_of_children()
        return {}

    def do_settled(self) -> dict[str, Any]:
        """Whether nothing waits to be judged or shared."""
        watch = self._now_served().watch
        return {"settled": watch.settled() if isinstance(watch, Watch) else True}

    def do_facts(self) -> dict[str, Any]:
        """What was found, stored and spent since `mark`."""
        served = self._now_served()
        cpu = self._sampler.facts()
        cpu["detector_process_s"] = round(_cpu_of_children() - self._detector_s, 4)
        return {"cache": served.watch.facts(), "kv": _memory(served), "cpu": cpu}

    def do_close(self) -> dict[str, Any]:
        """Stop serving, and give the cache's memory back."""
        served, self._served = self._served, None
        if served is not None:
            for trouble in served.troubles:
                trouble.stop()
            served.server.leave()
            served.thread.join(STOP_S)
            if served.thread.is_alive():
                raise RuntimeError("the server did not stop")
        del served
        gc.collect()
        return {}

    # -- starting --------------------------------------------------------------------------

    def _open(self, setup: Setup) -> dict[str, Any]:
        self.do_close()
        store = TenantStore(self._directory / f"{setup.mode}.{os.urandom(4).hex()}.json")
        keys = {name: store.add(name) for name in setup.tenants}
        detector = build(State(setup.detector)) if setup.mode == "selective" else None
        engine = self._engine(setup, detector)
        # Before the engine starts: its threads keep the warden's methods as they find them.
        watch = engine if isinstance(engine, StockEngine) else Watch(engine.warden)
        engine.open(store.served())
        sock = reserve_socket("127.0.0.1", 0)
        limits = GatewayConfig(
            max_waiting=10_000,
            max_waiting_per_tenant=10_000,
            max_running=10_000,
            max_running_per_tenant=10_000,
            max_body_bytes=1 << 26,
        )
        app = create_app(engine, store, limits, metrics=lambda: b"")
        server, thread, url = _started(app, engine, sock)
        if isinstance(engine, StockEngine):
            engine.watch()
        self._served = Served(engine, server, thread, watch)
        self._served.troubles += _troubles(State(setup.detector), engine, detector)
        return {"url": f"{url}/v1", "model": MODEL, "keys": keys}

    def _engine(self, setup: Setup, detector: Any) -> HFEngine:
        if setup.mode == STOCK:
            return StockEngine(MODEL, self._loaded, engine=self._settings, cache=setup.cache())
        return HFEngine(
            MODEL,
            self._loaded,
            engine=self._settings,
            cache=setup.cache(),
            warden=WardenConfig(mode=MODES[setup.mode], epoch_s=setup.epoch_s),
            detect=DetectConfig(),
            detector=detector,
        )

    def _now_served(self) -> Served:
        if self._served is None:
            raise RuntimeError("nothing is served")
        return self._served


def _started(app: FastAPI, engine: HFEngine, sock: socket) -> tuple[Server, threading.Thread, str]:
    """A server that accepts requests, the thread it runs in, and its URL."""
    urls: list[str] = []
    failures: list[BaseException] = []
    ready = threading.Event()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    server = Server(app, engine, sock, drain_s=1.0, on_ready=on_ready)

    def run() -> None:
        try:
            asyncio.run(server.run())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="bench-server", daemon=True)
    thread.start()
    if not ready.wait(START_S) or not urls:
        raise failures[0] if failures else RuntimeError("the server did not start")
    return server, thread, urls[0]


def _troubles(state: State, engine: HFEngine, detector: Any) -> list[Trouble]:
    if isinstance(detector, DetectorProcess) and state is State.DEAD:
        return [killing(detector)]
    if detector is not None and state is State.SATURATED:
        return [flood(engine.warden.submit, engine.encode, engine.warden.block_tokens)]
    return []


def _memory(served: Served) -> dict[str, int]:
    """KV that is stored now, and what engines would store that keep a copy for each tenant."""
    engine = served.engine
    block_bytes = int(
        engine.loop.batch_processor.cache.cache_allocators["full_attention"].bytes_per_block
    )
    if isinstance(engine, StockEngine):
        stored = charged = engine.stored_blocks()
    else:
        stored = engine.warden.stored_blocks()
        charged = engine.warden.stats().charged_blocks  # a shared run counts once there
    return {
        "block_bytes": block_bytes,
        "stored_blocks": stored,
        "charged_blocks": charged,
        "kv_bytes": stored * block_bytes,
        "kv_bytes_one_copy_per_tenant": charged * block_bytes,
    }


def _cpu_of_children() -> float:
    """CPU seconds of children, those that ended included: the detector's process."""
    ended = os.times()
    total = ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main(answers: TextIO) -> None:
    """Load the model that the first line asks for; then answer line by line."""
    first = json.loads(sys.stdin.readline())
    settings = HFConfig(**first["engine"])
    try:
        loaded = load_model(first["model"], settings)
    except Exception as error:
        traceback.print_exc()
        said = getattr(error, "message", str(error))
        print(json.dumps({"failed": f"{type(error).__name__}: {said}"[:400]}), file=answers)
        answers.flush()
        return
    with tempfile.TemporaryDirectory(prefix="safekv-bench-") as directory:
        host = Host(loaded, settings, Path(directory))
        print(json.dumps({"about": about(loaded)}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(host.answer(json.loads(line))), file=answers, flush=True)
        host.do_close()


if __name__ == "__main__":
    # Libraries print to stdout; the answers keep the real one to themselves.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        main(stdout)
