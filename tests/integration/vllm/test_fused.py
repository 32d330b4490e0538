"""A fused checkpoint is a normal one for vLLM too: it says what the plain one says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safekv.cloak.fusion import fuse_checkpoint
from safekv.cloak.keys import CloakKey

PROMPT = "The lighthouse keeper climbed the narrow stairs every evening, lit the lamp, and"
NEW_TOKENS = 16
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(
        model=sys.argv[1], dtype="float32", block_size=32, max_model_len=256, enforce_eager=True
    )
    sampling = SamplingParams(temperature=0, max_tokens=int(sys.argv[3]), ignore_eos=True)
    (answer,) = llm.generate([sys.argv[2]], sampling, use_tqdm=False)
    print("\\n" + json.dumps(list(answer.outputs[0].token_ids)))
"""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.model
def test_vllm_serves_a_fused_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fused = tmp_path / "fused"
    fuse_checkpoint(model_dir, fused, CloakKey.generate(), 1.0, lambda done, total: None)
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(model_dir)(PROMPT, return_tensors="pt").input_ids
    truth = plain.generate(
        ids, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
    )
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(fused), PROMPT, str(NEW_TOKENS)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer == truth[0, ids.shape[1] :].tolist()
