"""`safekv demo` as a user runs it, with the real model and real servers, in its short form.

What the numbers *are* is not asserted: they are times, and this machine may be busy. The exit
status says whether they came out as expected; both ways the output must be whole.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NUMBERS = ("hit_rate", "ttft_first_turn_median_s", "ttft_p95_s", "attacker_auc", "guesses")


@pytest.mark.model
def test_the_short_demo_runs_and_says_everything(model_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safekv.cli.main", "demo", "--quick", "--json"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    shown = json.loads(done.stdout)
    assert list(shown["modes"]) == ["isolated", "selective", "unsafe-global"]
    for mode, result in shown["modes"].items():
        assert all(isinstance(result[name], int | float) for name in NUMBERS), mode
        assert result["ttft_first_turn_median_s"] > 0
        assert isinstance(result["secret_recovered"], bool)
        assert result["outputs_equal"] is True, "a hit must not change the answer"
    hits = {mode: result["hit_rate"] for mode, result in shown["modes"].items()}
    # Hit rates are counts, not times: they hold on any machine.
    assert hits["isolated"] < hits["selective"] <= hits["unsafe-global"]
    assert {"python", "torch", "transformers", "cores"} <= shown["environment"].keys()
    page = (tmp_path / "safekv-demo.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']https?:", page), "the page must stand alone"
