from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from safekv.cache.config import CacheConfig
from safekv.detect.config import DetectConfig
from safekv.errors import ConfigError
from safekv.gateway.config import GatewayConfig
from safekv.settings.explain import as_data, as_toml
from safekv.settings.load import CONVERTERS, load
from safekv.settings.model import Settings, known_keys
from safekv.types import Mode, Profile


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, path: str = "safekv.toml") -> Path:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def refused(
    path: Path | None = None, env: dict[str, str] | None = None, **flags: object
) -> ConfigError:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    with pytest.raises(ConfigError) as caught:
        load(path, env or {}, dotted)
    assert caught.value.exit_code == 2
    return caught.value


def test_without_sources_all_is_default() -> None:
    settings, origins = load(None, {"HOME": "/h", "SAFEKV_HOME": "/h"}, {})
    assert settings == Settings()
    assert settings.warden.mode is Mode.SELECTIVE
    assert set(origins) == set(known_keys())
    assert set(origins.values()) == {"default"}


def test_later_sources_win_and_say_so() -> None:
    write("[cache]\nblock_tokens = 8\ncapacity_blocks = 9\n[warden]\nepoch_s = 2\n")
    env = {"SAFEKV_CACHE__BLOCK_TOKENS": "16", "SAFEKV_WARDEN__MODE": "isolated"}
    flags = {"cache.block_tokens": 64, "server.port": None, "detect.queue_prompts": "7"}
    settings, origins = load(None, env, flags)
    assert settings.cache == CacheConfig(block_tokens=64, capacity_blocks=9)
    assert settings.warden.mode is Mode.ISOLATED
    assert settings.warden.epoch_s == 2.0
    assert settings.detect.queue_prompts == 7
    assert origins["cache.block_tokens"] == "flag"
    assert origins["cache.capacity_blocks"] == "safekv.toml"
    assert origins["warden.mode"] == "SAFEKV_WARDEN__MODE"
    assert origins["server.port"] == "default"


def test_paths_in_a_file_are_relative_to_it(directory: Path) -> None:
    path = write(
        '[detect]\nextra_rulesets = ["a.toml", "/abs.toml"]\n[server]\nkeys_file = "k.json"\n',
        "sub/other.toml",
    )
    env = {"SAFEKV_DETECT__EXTRA_RULESETS": "x.toml:/y.toml"}
    settings, _ = load(path, {}, {})
    assert settings.server.keys_file == Path("sub/k.json")
    assert settings.detect.extra_rulesets == (Path("sub/a.toml"), Path("/abs.toml"))
    assert load(path, env, {})[0].detect.extra_rulesets == (Path("x.toml"), Path("/y.toml"))
    home = load(None, {}, {"server.keys_file": "~/k.json"})[0].server.keys_file
    assert home == Path.home() / "k.json"


def test_policy_and_safeguard_are_settings() -> None:
    write("[warden]\nprofile = 'anonymous'\nthreshold_low = 4\n[safeguard]\narmed_reads = 5\n")
    settings, _ = load(None, {"SAFEKV_SAFEGUARD__READS_PER_NODE": "7"}, {})
    assert settings.warden.profile is Profile.ANONYMOUS
    assert settings.warden.threshold_low == 4
    assert (settings.safeguard.armed_reads, settings.safeguard.reads_per_node) == (5, 7)


def test_a_flag_mode_may_be_the_enum_itself() -> None:
    flags = {"warden.mode": Mode.UNSAFE_GLOBAL}
    assert load(None, {}, flags)[0].warden.mode is Mode.UNSAFE_GLOBAL


def test_unknown_names_are_errors_with_a_suggestion() -> None:
    cases = [
        (refused(write("[cach]\nblock_tokens = 8\n")), "cach", "cache"),
        (refused(write("[cache]\nblock_size = 8\n")), "cache.block_size", "cache.block_tokens"),
        (
            refused(write(""), {"SAFEKV_CACHE__BLOK_TOKENS": "8"}),
            "SAFEKV_CACHE__BLOK_TOKENS",
            "SAFEKV_CACHE__BLOCK_TOKENS",
        ),
        (
            refused(write(""), {"SAFEKV_CACHE_BLOCK_TOKENS": "8"}),
            "SAFEKV_CACHE_BLOCK_TOKENS",
            "SAFEKV_CACHE__BLOCK_TOKENS",
        ),
        (refused(write(""), server__prt=1), "server.prt", "server.port"),
    ]
    for error, name, meant in cases:
        assert name in error.message
        assert error.hint == f"did you mean {meant}?"
    assert "config show" in refused(write("[zzz]\n")).hint
    assert "not a section" in refused(write("cache = 3\n")).message


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("cache", 'block_tokens = "many"'),
        ("cache", "block_tokens = 8.5"),
        ("cache", "block_tokens = true"),
        ("warden", "epoch_s = nan"),
        ("warden", "epoch_s = false"),
        ("warden", 'mode = "global"'),
        ("warden", "mode = 3"),
        ("warden", 'profile = "crowd"'),
        ("engine", "device = 3"),
        ("server", "keys_file = 3"),
        ("server", 'keys_file = ""'),
        ("server", "port = 1979-05-27"),
        ("detect", "extra_rulesets = [3]"),
        ("detect", "extra_rulesets = 3"),
    ],
)
def test_a_wrong_type_names_setting_value_and_file(section: str, line: str) -> None:
    error = refused(write(f"[{section}]\n{line}\n"))
    assert error.message.startswith(f"{section}.{line.split()[0]} is ")
    assert error.message.endswith("in safekv.toml")
    assert error.hint.startswith("use ")


def test_a_wrong_value_names_its_source() -> None:
    error = refused(None, {"SAFEKV_CACHE__BLOCK_TOKENS": "0"})
    assert error.message == "cache.block_tokens is 0 (from SAFEKV_CACHE__BLOCK_TOKENS)"
    assert refused(None, {"SAFEKV_CACHE__BLOCK_TOKENS": "x"}).message.endswith(
        "in SAFEKV_CACHE__BLOCK_TOKENS"
    )
    assert "selective" in refused(None, {"SAFEKV_WARDEN__MODE": "SELECTIVE"}).hint


def test_files_that_cannot_be_read_are_named() -> None:
    assert "missing.toml" in refused(Path("missing.toml")).message
    assert "not valid TOML" in refused(write("[cache\n")).message
    Path("binary.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused(Path("binary.toml")).message
    assert refused(Path()).message.startswith("cannot read .")


def test_every_setting_has_a_type_that_can_be_read() -> None:
    readable = [kind for kind, _, _ in CONVERTERS]
    assert [key for key, kind in known_keys().items() if kind not in readable] == []


@hypothesis_settings(deadline=None)
@given(
    tokens=st.integers(4, 10**6),
    epoch=st.floats(1e-6, 1e6),
    host=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")),
    paths=st.lists(st.text("aé \"\\'#😀", min_size=1), max_size=3),
)
def test_what_is_shown_can_be_read_back(
    tokens: int, epoch: float, host: str, paths: list[str]
) -> None:
    flags = {"cache.block_tokens": tokens, "warden.epoch_s": epoch, "server.host": host}
    settings, origins = load(None, {}, flags)
    settings = Settings(
        cache=settings.cache,
        warden=settings.warden,
        server=GatewayConfig(host=host, keys_file=Path("/k") / "".join(paths)),
        detect=DetectConfig(extra_rulesets=tuple(Path("/r") / path for path in paths)),
    )
    Path("again.toml").write_text(as_toml(settings, origins), newline="")
    assert load(Path("again.toml"), {}, {})[0] == settings


def test_data_says_origins_only_when_asked() -> None:
    settings, origins = load(None, {}, {"warden.mode": "isolated"})
    assert as_data(settings)["warden"]["mode"] == "isolated"
    assert as_data(settings, origins)["warden"]["mode"] == {"value": "isolated", "origin": "flag"}


def test_settings_load_without_torch_or_a_web_framework() -> None:
    code = (
        "import sys, safekv.settings.load as _; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'fastapi')))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
