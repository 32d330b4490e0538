"""The seam between the load and an engine: how to start a server in a mode, and ask it for facts.

An engine is a name in `ENGINES` and something that behaves like `EngineHost`. Nothing else in
`safekv.bench.serving` knows which engine it measures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import safekv
from safekv.bench.serving.child import Child
from safekv.bench.serving.load import Endpoint
from safekv.errors import ConfigError

START_S: Final = 600.0
ANSWER_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What to serve: a directory (`local`) or hub id, and for random weights a shape."""

    source: str
    local: bool
    shape: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One mode to serve, its tenants, and its memory in blocks of `block_tokens` tokens."""

    mode: str
    tenants: Sequence[str]
    capacity_blocks: int
    shared_blocks: int
    overcommit: float = 1.0
    detector: str = "on"
    epoch_s: float = 1.0


class EngineHost(Protocol):
    """An engine that can be served in several modes, one at a time.

    Every method raises `EngineError` when its process is lost.
    """

    modes: Sequence[str]
    """Those it can be served in; `isolated`, `global` and `selective` are compared."""
    block_tokens: int
    about: dict[str, Any]

    def open(self, serving: Serving) -> Endpoint:
        """Serve with an empty cache, in place of what was served before."""

    def mark(self) -> None:
        """Count from now on."""

    def settled(self) -> bool:
        """Whether nothing that was sent waits to be judged or shared."""

    def facts(self) -> dict[str, Any]:
        """Since `mark`: `cache` (prompt_tokens, hit_tokens, promotions, …), `kv` (kv_bytes) and
        `cpu` (process_s, ours_s, detector_process_s, by_package_s, sampler_s)."""

    def close(self) -> None:
        """Serve nothing."""


@dataclass(slots=True)
class HFHost:
    """The embedded engine, and transformers' own cache (`stock`), in a process of their own."""

    child: Child
    about: dict[str, Any]
    modes: Sequence[str] = ("stock", "global", "isolated", "selective")
    block_tokens: int = 32

    def open(self, serving: Serving) -> Endpoint:
        said = self.child.ask(START_S, do="open", **asdict(serving))
        return Endpoint(said["url"], said["model"], said["keys"])

    def mark(self) -> None:
        self.child.ask(ANSWER_S, do="mark")

    def settled(self) -> bool:
        return bool(self.child.ask(ANSWER_S, do="settled")["settled"])

    def facts(self) -> dict[str, Any]:
        return self.child.ask(ANSWER_S, do="facts")

    def close(self) -> None:
        self.child.ask(ANSWER_S, do="close")


@contextmanager
def hf_host(model: ModelChoice, settings: dict[str, Any]) -> Iterator[EngineHost]:
    """Start the server's process and load the model; end it with the block."""
    package = str(Path(safekv.__file__).resolve().parent.parent)
    # -P: a stray file where the bench is started must not become part of the server.
    command = [sys.executable, "-P", "-m", "safekv.bench.serving.host"]
    child = Child(command, {**os.environ, "PYTHONPATH": package})
    try:
        about = child.ask(START_S, model=asdict(model), engine=settings)["about"]
        yield HFHost(child, about)
    finally:
        child.close()


class Start(Protocol):
    """Starts an engine's host for a model, and ends it with the block."""

    def __call__(
        self, model: ModelChoice, settings: dict[str, Any], /
    ) -> AbstractContextManager[EngineHost]: ...


def no_vllm(model: ModelChoice, settings: dict[str, Any]) -> AbstractContextManager[EngineHost]:
    """Refuses: `ConfigError`."""
    raise ConfigError(
        "bench serve cannot measure vllm yet", "use --engine hf, or safekv bench vllm"
    )


ENGINES: Final[dict[str, Start]] = {"hf": hf_host, "vllm": no_vllm}
