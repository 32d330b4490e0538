"""One in-process vLLM engine for `safekv bench vllm`: stock, stock with salts, or with safekv.

A process of its own that runs under the driver's Python: `python -m … KIND`, with one JSON object
a line on stdin and stdout. All kinds run the same code but for two arguments: the scheduler class,
and what a request says of its tenant.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from itertools import count
from typing import Any, Final

from safekv.bench.peers.wire import private_stdout
from safekv.engines.vllm.claim import EXTRA_ARG, load_claim_key, sign
from safekv.types import TenantId

SCHEDULER: Final = "safekv.engines.vllm.Scheduler"
KINDS: Final = ("global", "salt", "safekv")
BLOCK_TOKENS: Final = 32
POLL_S: Final = 0.02
QUIET_EPOCHS: Final = 2
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class ServingEngine:
    """The engine under test, used by one thread."""

    def __init__(self, kind: str, model: str, max_model_len: int) -> None:
        """Load `model`; takes 10 s and more. Raises whatever vLLM raises."""
        from vllm import LLM

        self._kind = kind
        self._ids = count()
        self._key = load_claim_key(os.environ) if kind == "safekv" else b""
        scheduler = {"scheduler_cls": SCHEDULER} if kind == "safekv" else {}
        self._llm = LLM(
            model=model,
            dtype="float32",
            enforce_eager=True,
            block_size=BLOCK_TOKENS,
            max_model_len=max_model_len,
            enable_prefix_caching=True,
            **scheduler,
        )
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._scheduler = self._engine.engine_core.engine_core.scheduler
        self._shared = 0

    def about(self) -> dict[str, Any]:
        """The version, and how much memory a block of KV takes."""
        import torch
        import vllm

        pool = self._scheduler.kv_cache_manager.block_pool
        specs = self._scheduler.kv_cache_config.kv_cache_groups
        return {
            "kind": self._kind,
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "scheduler": type(self._scheduler).__name__,
            "pool_blocks": len(pool.blocks),
            "block_bytes": sum(g.kv_cache_spec.page_size_bytes * len(g.layer_names) for g in specs),
        }

    def serve(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Submit all at once and step until all have ended; times from before the first submit."""
        from vllm.sampling_params import RequestOutputKind

        ready = []
        for each in requests:
            prompt = self._prompt(each)
            params = self._params(each, RequestOutputKind.DELTA)
            ready.append((str(next(self._ids)), prompt, params))
        results = {name: _Result(prompt) for name, prompt, _ in ready}
        gc.collect()
        began = time.perf_counter()
        for name, prompt, params in ready:
            self._engine.add_request(name, prompt, params)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                results[output.request_id].take(output, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "results": [results[name].data(self._tokenizer) for name, _, _ in ready],
        }

    def _prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = self._tokenizer.apply_chat_template(
            request["messages"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        salt = {"cache_salt": request["tenant"]} if self._kind == "salt" else {}
        return {"prompt_token_ids": ids, **salt}

    def _params(self, request: dict[str, Any], output_kind: Any) -> Any:
        from vllm import SamplingParams

        claim = None
        if self._kind == "safekv":
            tenant = TenantId(request["tenant"])
            claim = {EXTRA_ARG: sign(self._key, tenant, now_s=time.time(), lifetime_s=300.0)}
        return SamplingParams(
            temperature=0.0,
            max_tokens=request["max_tokens"],
            ignore_eos=True,
            output_kind=output_kind,
            extra_args=claim,
        )

    def settle(self, blocks: int, seconds: float) -> dict[str, Any]:
        """Wait until `blocks` more blocks are shared than at the last call, `seconds` at most,
        and two epochs more in which nothing changes."""
        began = time.perf_counter()
        if self._kind != "safekv":
            return {"waited_s": 0.0, "shared_blocks": 0, "settled": True}
        keeper, before = self._scheduler.keeper, self._shared
        at, quiet = None, 0
        while quiet < QUIET_EPOCHS and time.perf_counter() - began < seconds:
            time.sleep(POLL_S)
            keeper.drain()
            shared, epoch = len(keeper.visible.shared), keeper.visible.epochs
            busy = len(keeper.renamer) > 0 or shared < before + blocks
            if busy or at is None or shared != self._shared:
                quiet = 0
            elif epoch != at:
                quiet += 1
            at, self._shared = epoch, shared
        return {
            "waited_s": time.perf_counter() - began,
            "shared_blocks": self._shared - before,
            "settled": quiet >= QUIET_EPOCHS,
        }

    def cached(self) -> dict[str, int]:
        """How many blocks of the pool hold something that can be found again."""
        pool = self._scheduler.kv_cache_manager.block_pool
        return {"blocks": sum(block.block_hash is not None for block in pool.blocks)}

    def reset(self) -> dict[str, Any]:
        """Forget everything that is cached. What safekv knows of texts stays."""
        return {"reset": bool(self._llm.reset_prefix_cache())}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one line of the driver's."""
        match request["do"]:
            case "serve":
                return self.serve(request["requests"])
            case "settle":
                return self.settle(request["blocks"], request["seconds"])
            case "cached":
                return self.cached()
            case "reset":
                return self.reset()
        raise ValueError(f"no such request: {request['do']}")


class _Result:
    """What came of one request."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt_tokens = len(prompt["prompt_token_ids"])
        self._ids: list[int] = []
        self._ttft_s = self._seconds = 0.0
        self._cached: int | None = None

    def take(self, output: Any, now_s: float) -> None:
        new = output.outputs[0].token_ids
        if new and not self._ids:
            self._ttft_s = now_s
        self._ids += new
        self._cached = output.num_cached_tokens if self._cached is None else self._cached
        if output.finished:
            self._seconds = now_s

    def data(self, tokenizer: Any) -> dict[str, Any]:
        return {
            "ttft_s": self._ttft_s,
            "seconds": self._seconds,
            "prompt_tokens": self._prompt_tokens,
            "cached_tokens": self._cached,
            "output_tokens": len(self._ids),
            "text": tokenizer.decode(self._ids, skip_special_tokens=True),
        }


def main(kind: str, model: str, max_model_len: int) -> int:
    """Serve until stdin ends. Status 1 when the engine does not load."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    answers = private_stdout()

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        engine = ServingEngine(kind, model, max_model_len)
        send({"ok": True, "about": engine.about()})
    except Exception as error:  # whatever vLLM raises is the reason
        traceback.print_exc()
        send({"ok": False, "why": f"{type(error).__name__}: {error}"[:300]})
        return 1
    for line in sys.stdin:
        try:
            send({"ok": True, **engine.answer(json.loads(line))})
        except Exception as error:  # the driver must hear of anything that goes wrong
            traceback.print_exc()
            send({"ok": False, "why": f"{type(error).__name__}: {error}"[:300]})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
