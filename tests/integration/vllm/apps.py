"""vLLM's own HTTP application, built without an engine, for every task and with every switch on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

SWITCHES = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    "VLLM_ENABLE_COHERE_API": "1",
}


def tasks() -> list[str]:
    """Every task that vLLM knows; each brings routes of its own."""
    from vllm.tasks import SupportedTask

    return [name for each in get_args(SupportedTask) for name in (get_args(each) or (each,))]


class AnyModel:
    """A model's configuration as far as building routes asks for it."""

    def __init__(self, task: str) -> None:
        self._task = task

    def get_pooling_task(self, supported: object) -> str:
        return self._task

    def __getattr__(self, name: str) -> None:
        return None


@cache
def app(task: str, middleware: str = "") -> Any:
    """The application for `task`, as `python -m vllm.entrypoints.openai.api_server` builds it."""
    os.environ.update(SWITCHES)
    # An engine of another test may have made vLLM keep the variables as they were.
    import vllm.envs

    vllm.envs.disable_envs_cache()
    from vllm.config import ProfilerConfig
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    flags = ["--model", "m", "--enable-scale-out"]
    flags += ["--middleware", middleware] if middleware else []
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    args.enable_fault_tolerance = True
    args.profiler_config = ProfilerConfig(profiler="torch", torch_profiler_dir="/nowhere")
    return build_app(args, (task,), AnyModel(task))


def routes() -> Iterator[tuple[str, str, Any]]:
    """Every method, path and route object, with its task's first occurrence only."""
    seen = set()
    for task in tasks():
        for route in app(task).routes:
            for method in _methods(route):
                if (method, route.path) not in seen:
                    seen.add((method, route.path))
                    yield method, route.path, route


def _methods(route: Any) -> list[str]:
    methods = getattr(route, "methods", None)
    if methods:
        # Starlette adds HEAD to its own GET routes; nothing of it is known, so all are denied.
        return sorted(set(methods) - {"HEAD"})
    return ["MOUNT"] if type(route).__name__ == "Mount" else ["WEBSOCKET"]
