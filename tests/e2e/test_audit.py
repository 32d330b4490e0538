"""`safekv audit` against `safekv serve`: a leak where all share one cache, none where nobody does.

Short: few pairs and a tiny model. Times are noise here, so a pass is not expected, only that
nothing false is claimed; `docs/records/audit.jsonl` holds whole audits.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safekv.cli.main import run
from support.servers import serving

SIZES = ["--content", "canary-key", "--blocks", "12", "--batch", "6", "--looks", "1"]
PACE = ["--settle", "0.3", "--rate", "0", "--prompt-tokens", "160", "--max-tokens", "1"]


@pytest.mark.model
@pytest.mark.parametrize("mode", ["unsafe-global", "isolated"])
def test_an_audit_tells_the_modes_apart(
    tiny_dir: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tiny_dir, tmp_path, "--mode", mode, "--epoch", "0.1") as server:
        for name in ("acme", "beta"):
            (tmp_path / name).write_text(server.keys[name])
        keys = ["--key", str(tmp_path / "acme"), "--other-key", str(tmp_path / "beta")]
        status = run(["audit", f"{server.url}/v1", *keys, *SIZES, *PACE, "--json"])
    record = json.loads(capsys.readouterr().out)
    cached = {f["channel"]: f["verdict"] for f in record["findings"]}["cached-tokens"]
    controls = record["environment"]["controls"]
    own = {c["channel"]: c["verdict"] for c in controls if c["scope"] == "same-key"}
    assert own["cached-tokens"] == "seen"
    if mode == "unsafe-global":
        assert (status, cached) == (1, "leak")
    else:
        assert status in (0, 3)
        assert cached != "leak"
