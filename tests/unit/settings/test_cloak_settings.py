"""The section `cloak`: off unless somebody asks, and nothing misspelt passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.cli.main import cli
from safekv.cli.serve import MATRIX_WARNING, _warnings
from safekv.engines.hf.config import CloakProfile, CloakSettings
from safekv.errors import ConfigError
from safekv.gateway.tenants import TenantStore
from safekv.settings.explain import as_data
from safekv.settings.load import load


def test_off_by_default() -> None:
    settings, origins = load(None, {}, {})
    assert settings.cloak == CloakSettings()
    assert settings.cloak.profile is CloakProfile.OFF
    assert origins["cloak.profile"] == "default"


def test_file_variable_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "safekv.toml"
    file.write_text('[cloak]\nprofile = "matrix"\nkey_file = "keys/cloak.json"\nbeacon = false\n')
    settings, _ = load(file, {}, {})
    assert settings.cloak == CloakSettings(
        profile=CloakProfile.MATRIX, key_file=tmp_path / "keys/cloak.json", beacon=False
    )
    settings, _ = load(file, {"SAFEKV_CLOAK__PROFILE": "stream"}, {})
    assert settings.cloak.profile is CloakProfile.STREAM
    settings, origins = load(file, {"SAFEKV_CLOAK__PROFILE": "stream"}, {"cloak.profile": "off"})
    assert (settings.cloak.profile, origins["cloak.profile"]) == (CloakProfile.OFF, "flag")
    assert as_data(settings)["cloak"]["profile"] == "off"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"cloak.profile": "aes"}, "cloak.profile is 'aes'"),
        ({"cloak.profile": True}, "cloak.profile is True"),
        ({"cloak.condition": 0.5}, r"cloak.condition is 0.5 \(from flag\)"),
        ({"cloak.scale": 2000.0}, r"cloak.scale is 2000.0 \(from flag\)"),
        ({"cloak.profil": "stream"}, "unknown setting cloak.profil"),
    ],
)
def test_what_cannot_be_is_refused(flags: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(None, {}, flags)


def test_vllm_does_not_run_without_the_cloak_that_was_asked_for() -> None:
    asked = ["serve", "m", "--engine", "vllm", "--cloak", "stream"]
    error = CliRunner().invoke(cli, asked).exception
    assert isinstance(error, ConfigError)
    assert "cloak.profile is 'stream', but vLLM's blocks" in str(error)


def test_serve_warns_of_matrix_and_of_nothing_else(tmp_path: Path) -> None:
    tenants = TenantStore(tmp_path / "keys.json")
    for profile in CloakProfile:
        settings, _ = load(None, {}, {"cloak.profile": profile.value})
        warned = MATRIX_WARNING in _warnings(settings, tenants)
        assert warned == (profile is CloakProfile.MATRIX)
