"""The child process of `convert`: `python -m safekv.engines.hf.store.dequantise GGUF TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def dequantise(gguf: Path, target: Path) -> None:
    """Load `gguf` with every weight unpacked to float32 and save it with its tokenizer."""
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **source
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    dequantise(Path(sys.argv[1]), Path(sys.argv[2]))
