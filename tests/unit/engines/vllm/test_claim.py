"""A claim is believed if and only if it was signed with the key and is in force."""

from __future__ import annotations

import base64
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.engines.vllm.claim import (
    KEY_BYTES,
    KEY_VARIABLE,
    MAX_LIFETIME_S,
    MAX_TENANT_BYTES,
    SKEW_S,
    claim_key_file,
    load_claim_key,
    sign,
    verify,
)
from safekv.errors import ConfigError
from safekv.types import TenantId

KEY = bytes(range(KEY_BYTES))
NOW_S = 1_800_000_000.0
ACME = TenantId("acme")

NO_CLAIMS = [None, True, 1, 1.5, b"", [""], {"safekv": ""}, "", "skvc1.", "skvc1.é" + "A" * 90]
NO_CLAIMS += ["skvc1." + "A" * 200, "x" * 10_000_000, "\ud800" * 90]

DAMAGED = [b"", b"{}", b"[]", b"\xff", b'{"version": 1, "key": "00"}', b'{"version": 1, "key": 7}']
DAMAGED += [b'{"version": 2, "key": "' + b"ab" * 32 + b'"}', b"[" * 100_000]


def signed(tenant: str = "acme", *, key: bytes = KEY, now_s: float = NOW_S) -> str:
    return sign(key, TenantId(tenant), now_s=now_s, lifetime_s=60.0)


def raw(text: str) -> bytearray:
    coded = text.partition(".")[2]
    return bytearray(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))


def spelt(packed: bytes) -> str:
    return "skvc1." + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63))
def test_the_tenant_comes_out_as_it_went_in(name: str) -> None:
    assert verify(KEY, signed(name), now_s=NOW_S) == name


def test_the_longest_name_fits_and_is_believed() -> None:
    longest = "x" * MAX_TENANT_BYTES
    text = signed(longest)
    assert len(text) == 432
    assert verify(KEY, text, now_s=NOW_S) == longest


def test_no_two_claims_are_equal() -> None:
    assert len({signed() for _ in range(100)}) == 100


def test_a_claim_is_in_force_from_its_signing_until_it_expires() -> None:
    text = signed()
    for second, expected in (
        (-SKEW_S - 0.1, None),
        (-SKEW_S, ACME),
        (0.0, ACME),
        (59.9, ACME),
        (60.0, None),
        (1e9, None),
    ):
        assert verify(KEY, text, now_s=NOW_S + second) == expected, second


@pytest.mark.parametrize("now_s", [float("nan"), float("inf"), float("-inf")])
def test_a_clock_that_tells_no_time_believes_nothing(now_s: float) -> None:
    assert verify(KEY, signed(), now_s=now_s) is None


def test_every_flipped_bit_is_noticed() -> None:
    packed = raw(signed())
    for bit in range(len(packed) * 8):
        forged = bytearray(packed)
        forged[bit // 8] ^= 1 << bit % 8
        assert verify(KEY, spelt(forged), now_s=NOW_S) is None, bit


def test_a_claim_of_another_key_is_forged() -> None:
    assert verify(KEY, signed(key=bytes(KEY_BYTES)), now_s=NOW_S) is None


def test_cut_and_extended_claims_are_forged() -> None:
    packed = raw(signed())
    for n in range(len(packed)):
        assert verify(KEY, spelt(packed[:n]), now_s=NOW_S) is None
    assert verify(KEY, spelt(packed + b"x"), now_s=NOW_S) is None
    # The name moved by one byte against the MAC: framing, not only the MAC's value, is bound.
    assert verify(KEY, spelt(packed[:-32] + b"\x00" + packed[-32:]), now_s=NOW_S) is None


def test_a_claim_has_one_spelling() -> None:
    text = signed("acme1")
    assert verify(KEY, text, now_s=NOW_S) == "acme1"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [text[:-1] + letter for letter in alphabet if letter != text[-1]]
    others += [text + "=", text + "\n", " " + text, text.replace("skvc1", "skvc2"), text.upper()]
    assert [other for other in others if verify(KEY, other, now_s=NOW_S) is not None] == []


@pytest.mark.parametrize("text", NO_CLAIMS, ids=lambda text: type(text).__name__)
def test_what_is_no_claim_is_nobody(text: object) -> None:
    assert verify(KEY, text, now_s=NOW_S) is None


def test_bytes_of_a_true_claim_are_no_claim() -> None:
    assert verify(KEY, signed().encode(), now_s=NOW_S) is None
    assert verify(KEY, [signed()], now_s=NOW_S) is None


@given(st.one_of(st.text(), st.binary(), st.text(alphabet="skvc1.AB-_=")))
def test_nothing_raises_and_nothing_unsigned_is_believed(text: object) -> None:
    assert verify(KEY, text, now_s=NOW_S) is None


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, MAX_LIFETIME_S + 1, float("nan"), float("inf")])
def test_only_short_lifetimes_are_signed(lifetime_s: float) -> None:
    with pytest.raises(ValueError, match="lives for"):
        sign(KEY, ACME, now_s=NOW_S, lifetime_s=lifetime_s)


def test_a_lifetime_beyond_the_limit_is_not_believed_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("safekv.engines.vllm.claim.MAX_LIFETIME_S", 1e9)
    text = sign(KEY, ACME, now_s=NOW_S, lifetime_s=1e8)
    assert verify(KEY, text, now_s=NOW_S) == ACME
    monkeypatch.undo()
    assert verify(KEY, text, now_s=NOW_S) is None


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "\ud800"])
def test_a_name_that_is_empty_or_too_long_is_not_signed(name: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|encode"):
        signed(name)


@pytest.mark.parametrize("key", [b"", b"short", bytes(KEY_BYTES + 1)])
def test_a_short_key_signs_nothing_and_believes_nothing(key: bytes) -> None:
    with pytest.raises(ValueError, match="claim key"):
        signed(key=key)
    assert verify(key, signed(), now_s=NOW_S) is None


def test_the_key_file_is_made_once_private_and_found_again(tmp_path: Path) -> None:
    env = {"SAFEKV_HOME": str(tmp_path / "home")}
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_claim_key(env), range(16)))
    assert len(keys) == 1
    (key,) = keys
    assert len(key) == KEY_BYTES
    assert claim_key_file(env).stat().st_mode & 0o777 == 0o600
    assert load_claim_key(env) == key


def test_the_variable_names_another_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.key"
    env = {"SAFEKV_HOME": str(tmp_path / "home"), KEY_VARIABLE: str(path)}
    assert claim_key_file(env) == path
    assert load_claim_key(env) == load_claim_key({KEY_VARIABLE: str(path)})
    assert not (tmp_path / "home").exists()


def test_a_loose_key_file_is_refused(tmp_path: Path) -> None:
    env = {KEY_VARIABLE: str(tmp_path / "claim.key")}
    load_claim_key(env)
    (tmp_path / "claim.key").chmod(0o640)
    with pytest.raises(ConfigError, match="0640") as caught:
        load_claim_key(env)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_key_file_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "claim.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged") as caught:
        load_claim_key({KEY_VARIABLE: str(path)})
    assert "abab" not in f"{caught.value} {caught.value.hint}"
    assert path.read_bytes() == content


def test_importing_the_claim_needs_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, safekv.engines.vllm.claim;"
        "print([m for m in ('vllm', 'torch', 'fastapi', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
