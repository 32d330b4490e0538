"""KV-Cloak's matrices: as published, put back exactly, and without the released code's defects."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.cloak import Cloak, CloakConfig, CloakKey, CloakKeyFile, Part
from safekv.cloak.hazmat.reference import (
    draw_block_secrets,
    draw_feature,
    draw_head_secrets,
    plane_rotations,
)
from safekv.errors import CloakError, ConfigError

VECTORS = Path(__file__).parents[2] / "vectors"
CONFIG = CloakConfig(block_tokens=16, head_dim=8, kv_heads=2, limit=4.0)
KEY = CloakKey.generate()


def rows(config: CloakConfig = CONFIG, tokens: int | None = None) -> np.ndarray[Any, Any]:
    shape = (config.kv_heads, tokens or config.block_tokens, config.head_dim)
    return np.random.default_rng(0).uniform(-config.limit, config.limit, shape)


@pytest.mark.parametrize("case", json.loads((VECTORS / "cloak.json").read_text()))
def test_vectors_of_an_independent_script(case: dict[str, Any]) -> None:
    config = CloakConfig(
        kv_heads=case["head"] + 1,
        **{
            name: case[name]
            for name in ("block_tokens", "head_dim", "limit", "scale", "condition", "rope")
        },
    )
    key = CloakKey(case["version"], bytes.fromhex(case["secret"]))
    layer, part, block = case["layer"], Part(case["part"]), bytes.fromhex(case["block"])
    drawn = draw_block_secrets(key, config, layer, block)
    assert (drawn.order.tolist(), drawn.beacon_row) == (case["order"], case["row"])
    feature, _ = draw_feature(key, config, layer, part)
    np.testing.assert_allclose(feature[case["head"]], case["feature"], atol=1e-12)
    plain = np.stack([np.array(case["rows"])] * config.kv_heads)
    stored = Cloak(key, config, fused=False).obfuscate(layer, part, block, plain)
    assert isinstance(stored, np.ndarray)
    np.testing.assert_allclose(stored[case["head"]], case["stored"], rtol=1e-11, atol=1e-10)


def test_the_vectors_are_what_the_script_makes() -> None:
    script = [sys.executable, str(VECTORS / "make_cloak_vectors.py")]
    made = json.loads(subprocess.run(script, capture_output=True, check=True).stdout)
    assert made == json.loads((VECTORS / "cloak.json").read_text())


def test_the_script_knows_nothing_of_safekv() -> None:
    source = (VECTORS / "make_cloak_vectors.py").read_text()
    assert "import safekv" not in source
    assert "from safekv" not in source
    assert "numpy" not in source


configs = st.builds(
    CloakConfig,
    block_tokens=st.integers(1, 20),
    head_dim=st.integers(1, 6).map(lambda n: 2 * n),
    kv_heads=st.integers(1, 3),
    limit=st.sampled_from([0.5, 20.0]),
    condition=st.sampled_from([1.0, 10.0]),
    scale=st.sampled_from([1.0, 1.5]),
    beacon=st.booleans(),
    rope=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    configs,
    st.booleans(),
    st.sampled_from(Part),
    st.data(),
    st.sampled_from(["float64", "float32"]),
)
def test_blocks_come_back_partial_or_full(
    config: CloakConfig, fused: bool, part: Part, data: st.DataObject, dtype: str
) -> None:
    tokens = data.draw(st.integers(1, config.block_tokens))
    plain = rows(config, tokens).astype(dtype)
    kept = plain.copy()
    cloak = Cloak(KEY, config, fused=fused)
    stored: Any = cloak.obfuscate(1, part, b"block", plain)
    assert tuple(stored.shape) == (config.kv_heads, config.block_tokens, config.head_dim)
    assert bool((plain == kept).all())
    back: Any = cloak.deobfuscate(1, part, b"block", stored, tokens)
    assert (back.dtype, back.shape) == (plain.dtype, plain.shape)
    tolerance = 1e-11 if dtype.endswith("64") else 2e-4
    assert float(abs(back - plain).max()) <= tolerance * config.limit


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool", "complex64"])
def test_integers_are_refused(dtype: str) -> None:
    with pytest.raises(CloakError, match=f"blocks of {dtype} cannot"):
        Cloak(KEY, CONFIG, fused=False).obfuscate(0, Part.KEYS, b"b", np.zeros((2, 16, 8), dtype))


@pytest.mark.parametrize("bad", [4.001, -4.001, float("nan"), float("inf")])
def test_out_of_range_input_is_refused(bad: float) -> None:
    """The released code corrupts it silently."""
    plain = rows()
    plain[1, 3, 2] = bad
    with pytest.raises(CloakError, match="above the limit 4"):
        Cloak(KEY, CONFIG, fused=False).obfuscate(0, Part.KEYS, b"b", plain)


@pytest.mark.parametrize("shape", [(2, 17, 8), (2, 0, 8), (3, 16, 8), (2, 16, 7), (16, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CloakError, match="a block has the shape"):
        Cloak(KEY, CONFIG, fused=False).obfuscate(0, Part.KEYS, b"b", np.zeros(shape))
    with pytest.raises(CloakError):
        Cloak(KEY, CONFIG, fused=False).deobfuscate(0, Part.KEYS, b"b", np.zeros((2, 15, 8)))
    with pytest.raises(CloakError, match="no identity"):
        Cloak(KEY, CONFIG, fused=False).obfuscate(0, Part.KEYS, b"", rows())


def stored_by(key: CloakKey, block: bytes = b"b", layer: int = 0, part: Part = Part.KEYS) -> bytes:
    stored = Cloak(key, CONFIG, fused=False).obfuscate(layer, part, block, rows())
    assert isinstance(stored, np.ndarray)
    return stored.tobytes()


def test_two_instances_never_share_keys_and_equal_blocks_look_different() -> None:
    looks = {
        stored_by(KEY),
        stored_by(KEY, b"c"),
        stored_by(KEY, layer=1),
        stored_by(KEY, part=Part.VALUES),
        stored_by(CloakKey(KEY.version + 1, KEY.secret)),
        stored_by(CloakKey.generate()),
        stored_by(CloakKey.generate()),
    }
    assert len(looks) == 7
    assert stored_by(KEY) == stored_by(CloakKey(KEY.version, KEY.secret))


def test_orders_differ_from_block_to_block_and_are_common_to_all_heads() -> None:
    orders = {tuple(draw_block_secrets(KEY, CONFIG, 0, bytes([n])).order) for n in range(200)}
    assert len(orders) == 200
    beacons = {draw_block_secrets(KEY, CONFIG, 0, bytes([n])).beacon_row for n in range(200)}
    assert beacons == set(range(16))


def test_matrices_are_as_strong_as_configured() -> None:
    for condition in (1.0, 10.0, 1000.0):
        config = replace(CONFIG, condition=condition, scale=2.0)
        for part in Part:
            secrets = draw_head_secrets(KEY, config, 0, part)
            assert np.linalg.cond(secrets.mix).max() <= condition * (1 + 1e-9)
            assert np.linalg.cond(secrets.feature).max() <= 4 * (1 + 1e-9)
            np.testing.assert_allclose(
                secrets.mix @ secrets.unmix, [np.eye(16)] * 2, atol=1e-11 * condition
            )
            np.testing.assert_allclose(
                secrets.feature @ secrets.unfeature, [np.eye(8)] * 2, atol=1e-11
            )
            assert (secrets.beacon > 3 * config.limit).all()


def rotated(x: np.ndarray[Any, Any], position: float) -> np.ndarray[Any, Any]:
    """Rotary positions in the half-split layout, from their definition."""
    half = x.shape[-1] // 2
    angles = position / 10000 ** (np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def test_key_matrices_commute_with_rotary_positions_and_value_matrices_need_not() -> None:
    feature, _ = plane_rotations(KEY.stream("test", 0), 8, 1.5)
    keys = rows()
    np.testing.assert_allclose(rotated(keys, 7) @ feature, rotated(keys @ feature, 7), atol=1e-12)
    (values, _) = draw_feature(KEY, CONFIG, 0, Part.VALUES)
    assert abs(rotated(keys[0], 7) @ values[0] - rotated(keys[0] @ values[0], 7)).max() > 0.1


def test_scores_are_the_same_with_m_on_both_sides() -> None:
    keys = draw_feature(KEY, CONFIG, 0, Part.KEYS)
    query, key = rows(tokens=1), rows()
    scores = (query @ np.swapaxes(keys[1], 1, 2)) @ np.swapaxes(key @ keys[0], 1, 2)
    np.testing.assert_allclose(scores, query @ np.swapaxes(key, 1, 2), atol=1e-11)


def test_a_known_prompt_gives_m_away() -> None:
    """The weakness that is said wherever this is offered: S and P leave the row space alone.

    From one block and its plain rows alone, the planes of M follow up to their common scale.
    """
    config = CloakConfig(block_tokens=16, head_dim=64, kv_heads=1, limit=4.0)
    plain = rows(config)
    stored = Cloak(KEY, config, fused=False).obfuscate(0, Part.KEYS, b"b", plain)
    assert isinstance(stored, np.ndarray)
    null = np.linalg.svd(stored[0])[2][16:].T
    half = config.head_dim // 2
    k_low, k_high = plain[0, :, :half], plain[0, :, half:]
    real = np.einsum("ni,ij->nji", k_low, null[:half]) + np.einsum(
        "ni,ij->nji", k_high, null[half:]
    )
    imag = np.einsum("ni,ij->nji", k_low, null[half:]) - np.einsum(
        "ni,ij->nji", k_high, null[:half]
    )
    systems = np.concatenate([real, imag], axis=2)
    grams = np.einsum("nji,njk->nik", systems, systems)
    # One row carries the beacon: leave out each in turn, and keep the best fit.
    fits = [np.linalg.eigh(grams.sum(0) - gram) for gram in grams]
    best = min(fits, key=lambda fit: fit[0][0] / fit[0][1])
    assert best[0][0] / best[0][1] < 1e-9
    found = best[1][:half, 0] + 1j * best[1][half:, 0]
    found /= abs(found)
    feature = draw_feature(KEY, config, 0, Part.KEYS)[0][0]
    true = np.diagonal(feature[:half, :half]) + 1j * np.diagonal(feature[:half, half:])
    assert min(abs(found - true).max(), abs(found + true).max()) < 1e-6


def test_swapped_blocks_raise_no_alarm() -> None:
    """No integrity: the vault has it, this has not."""
    cloak = Cloak(KEY, CONFIG, fused=False)
    stored = cloak.obfuscate(0, Part.KEYS, b"one", rows())
    other: Any = cloak.deobfuscate(0, Part.KEYS, b"two", stored)
    assert np.isfinite(other).all()
    assert abs(other - rows()).max() > 0.1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: replace(CONFIG, head_dim=7), "even"),
        (lambda: replace(CONFIG, block_tokens=0), "1 or more"),
        (lambda: replace(CONFIG, limit=float("nan")), "positive"),
        (lambda: replace(CONFIG, condition=0.5), "use 1 to"),
        (lambda: CloakKey(1, b"short"), ""),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert told in caught.value.hint


def test_key_files(tmp_path: Path) -> None:
    file = CloakKeyFile(tmp_path / "cloak.json")
    with pytest.raises(ConfigError, match="no cloak key"):
        file.key()
    first = file.create()
    assert file.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists"):
        file.create()
    second = file.rotate()
    assert (file.key(), file.key(1), second.version) == (second, first, 2)
    with pytest.raises(ConfigError, match="version 9"):
        file.key(9)
    told = f"{first!r} {file!r} {Cloak(first, CONFIG, fused=True)!r} {first.stream('x', 0)!r}"
    assert first.secret.hex() not in told
    assert repr(first.secret) not in told
    file.path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it"):
        file.key()
    file.path.chmod(0o600)
    file.path.write_text("{}")
    with pytest.raises(ConfigError, match="damaged"):
        file.key()
