"""The story in each mode: fresh keys, a fresh server, the same requests."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from safekv.attack.target import Target
from safekv.bench.record import environment
from safekv.demo.operator import Operator
from safekv.demo.pace import Pace
from safekv.demo.plan import StoryPlan
from safekv.demo.process import Running, free_port, serve_command, serving
from safekv.demo.result import ModeResult
from safekv.demo.story import Stage, Story, cast_names
from safekv.gateway.tenants import TenantStore
from safekv.types import Mode

Hear = Callable[[Mode, Stage, int, int], None]


@dataclass(frozen=True, slots=True)
class Performance:
    """All modes' results, in the order played, and where they were measured."""

    results: dict[Mode, ModeResult]
    environment: dict[str, object]

    def to_json(self) -> dict[str, object]:
        """The demo's one JSON object."""
        modes = {mode.value: result.to_json() for mode, result in self.results.items()}
        return {"modes": modes, "environment": self.environment}


@dataclass(frozen=True, slots=True)
class Staging:
    """Keys of everybody in the story, in a key file of their own."""

    keys_file: Path
    keys: dict[str, str]
    operator_key: str

    @classmethod
    def prepare(cls, home: Path, plan: StoryPlan) -> Staging:
        """Make the key file in the private directory `home`."""
        store = TenantStore(home / "tenants.json")
        keys = {name: store.add(name) for name in cast_names(plan)}
        return cls(store.path, keys, store.add("operator", operator=True))

    def __repr__(self) -> str:
        return f"Staging({len(self.keys)} keys)"


def play(
    model: str, modes: Sequence[Mode], plan: StoryPlan, hear: Hear, *, log: Path | None = None
) -> Performance:
    """Serve `model` in each of `modes` and play the story there.

    Takes at most `plan.mode_s` per mode, unless the machine is too slow even for the shortest
    story; what one mode leaves over is the next ones'. No server outlives the
    call. Raises `EngineError` when one does not start or dies, `TargetError` when it answers
    wrongly. Server output is appended to `log` if given.
    """
    where = environment()
    start_s = time.perf_counter()
    results: dict[Mode, ModeResult] = {}
    with tempfile.TemporaryDirectory(prefix="safekv-demo-") as home:
        staging = Staging.prepare(Path(home), plan)
        for place, mode in enumerate(modes):
            hear(mode, Stage.START, 0, 1)
            now_s = time.perf_counter()
            left_s = start_s + plan.mode_s * len(modes) - now_s
            pace = Pace(now_s + left_s / (len(modes) - place))
            port = free_port()
            command = serve_command(model, mode, port, staging.keys_file)
            with serving(command, port, log=log) as server:
                results[mode], name = _play_on(server, mode, plan, staging, hear, pace)
            where["model"] = name
    return Performance(results, {**where, "plan": asdict(plan)})


def _play_on(
    server: Running, mode: Mode, plan: StoryPlan, staging: Staging, hear: Hear, pace: Pace
) -> tuple[ModeResult, str]:
    operator = Operator(server, staging.operator_key)
    model_id = operator.model_id()
    with ExitStack() as lines:

        @cache
        def speak(name: str) -> Target:
            return lines.enter_context(Target(server.api_url, staging.keys[name], model_id))

        def told(stage: Stage, done: int, of: int) -> None:
            hear(mode, stage, done, of)

        return Story(mode, plan, speak, operator, told, pace=pace).play(), model_id
