"""A fused checkpoint is a normal one for vLLM too: it says what the plain one says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from safekv.cloak.keys import CloakKey

PROMPT = "The lighthouse keeper climbed the narrow stairs every evening, lit the lamp, and"
NEW_TOKENS = 16
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(model=sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True)
    sampling = SamplingParams(temperature=0, max_tokens=int(sys.argv[3]), ignore_eos=True)
    (answer,) = llm.generate([sys.argv[2]], sampling)
    print("\\n" + json.dumps(list(answer.outputs[0].token_ids)))
"""


@pytest.mark.model
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_serves_a_fused_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from safekv.cloak.fusion import fuse_checkpoint

    fused = tmp_path / "fused"
    fuse_checkpoint(model_dir, fused, CloakKey.generate(), 1.0, lambda done, total: None)
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(model_dir)(PROMPT, return_tensors="pt").input_ids
    truth = plain.generate(
        ids, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
    )
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(fused), PROMPT, str(NEW_TOKENS)],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer == truth[0, ids.shape[1] :].tolist()
