"""Settings that promise what safekv does not do beside vLLM are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from safekv.errors import ConfigError
from safekv.plugins.vllm.config import load_settings


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"warden.release": "masked"}, "warden.release is masked"),
        ({"tiers.host_blocks": 64}, "tiers.host_blocks is 64"),
    ],
)
def test_what_vllm_cannot_keep_is_refused(
    extra: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load_settings({}, extra)
    assert load_settings({}, {"warden.mode": "isolated"}).warden.mode.value == "isolated"
