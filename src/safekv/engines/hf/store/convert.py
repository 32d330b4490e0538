"""Dequantise a GGUF file to safetensors, in a process of its own.

A process of its own gives back its memory, keeps transformers' progress bars off the
terminal, and makes the offline switches hold for this load alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from safekv.engines.hf.store.child import run_python
from safekv.engines.hf.store.progress import Phase, Progress, Report
from safekv.errors import ModelError

CHILD = "safekv.engines.hf.store.dequantise"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def require_converter() -> None:
    """Raise `ModelError` unless the packages that `convert` needs are installed. Imports none."""
    for package in ("torch", "transformers", "accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"cannot convert a model: the package {package!r} is not installed",
                "install the embedded engine: pip install 'safekv[hf]'",
            )


def convert(gguf: Path, target: Path, report: Report) -> None:
    """Write the model and tokenizer in `gguf` into the new directory `target`.

    The weights become float32 safetensors. Takes about half a minute for 135 M parameters.
    Raises `ModelError` if the file cannot be read as a model; `target` may then hold half of
    it, so give a directory you throw away.
    """

    def tick() -> None:
        report(Progress(Phase.CONVERT))

    tick()
    result = run_python(["-m", CHILD, str(gguf), str(target)], environment=OFFLINE, tick=tick)
    if result.status != 0:
        raise ModelError(
            f"cannot convert {gguf.name}: {result.reason}",
            "check that safekv[hf] is installed in its pinned versions: pip check",
        )
