"""Attacks that adapt open the matrices, and nothing opens the stream or the vault."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch

from safekv.attack import channels, chosen, template
from safekv.attack.capture import Captured, capture
from safekv.attack.collision import SearchPlan, nearest
from safekv.attack.errors import AttackError, MismatchError
from safekv.attack.fused import feature_of
from safekv.attack.membership import membership
from safekv.attack.public import PublicModel
from safekv.audit.stolen.protections import (
    PROTECTIONS,
    Cloaked,
    Protection,
    Sealed,
    limits_of,
    protect,
)
from safekv.audit.stolen.storage import Stored, pack
from safekv.cloak.fusion import fuse_model
from safekv.errors import ConfigError
from support.tiny_models import VOCABULARY, text, tiny

model = lru_cache(maxsize=None)(tiny)
TEMPLATE = text(20, seed=5)
VICTIM = TEMPLATE + text(50, seed=6)
OWN = TEMPLATE + text(60, seed=8)


def cloaked(public: PublicModel, *others: list[int]) -> Cloaked:
    shapes = public.shapes
    plain = [capture(public, ids) for ids in (VICTIM, OWN, *others)]
    found = protect("cloak", shapes.kv_heads, shapes.head_dim, limits_of(plain))
    assert isinstance(found, Cloaked)
    return found


def hidden(
    public: PublicModel, protection: Protection, ids: list[int], kind: Stored, n: int = 0
) -> Captured:
    return protection.hide(capture(public, ids), kind, n)


def share(found: tuple[int | None, ...], true: list[int]) -> float:
    pairs = zip(found, true, strict=False)
    return sum(a == b for a, b in pairs) / len(true)


@pytest.mark.parametrize("kind", ["llama", "grouped", "llama3"])
def test_the_template_opens_the_cloak_and_nothing_else_does(kind: str) -> None:
    public = model(kind)
    stolen = hidden(public, cloaked(public), VICTIM, Stored.FP32)
    assert share(nearest(public, stolen).tokens, VICTIM) < 0.1
    secrets = template.secrets_of(public, stolen, 0, TEMPLATE)
    assert secrets.ratio < 1e-6
    assert secrets.fit < 1e-4
    assert share(template.read(public, stolen, 0, TEMPLATE).tokens, VICTIM) == 1.0


def test_16_bits_are_opened_too_because_what_was_read_refines_the_rest() -> None:
    public = model("llama")
    stolen = hidden(public, cloaked(public), VICTIM, Stored.BF16)
    assert share(template.read(public, stolen, 0, TEMPLATE).tokens, VICTIM) >= 0.95


def test_deeper_layers_are_opened_and_searched() -> None:
    public = model("llama")
    stolen = hidden(public, cloaked(public), VICTIM, Stored.FP32)
    plan = SearchPlan(budget=VOCABULARY, patience=2)
    found = template.read(public, stolen, 1, TEMPLATE, plan=plan, until=40)
    assert (found.start, list(found.tokens)) == (20, VICTIM[20:40])


def test_wrong_guesses_of_the_template_and_other_instances_secrets_give_nothing() -> None:
    public = model("llama")
    stolen = hidden(public, cloaked(public), VICTIM, Stored.FP32)
    wrong = template.secrets_of(public, stolen, 0, text(20, seed=99))
    assert wrong.ratio > 1e-3
    assert wrong.fit > 0.1
    elsewhere = hidden(public, cloaked(public), VICTIM, Stored.FP32)
    secrets = template.secrets_of(public, stolen, 0, TEMPLATE)
    found = template.read(public, elsewhere, 0, TEMPLATE, secrets=secrets)
    assert share(found.tokens, VICTIM) < 0.1


def test_own_requests_are_as_good_as_a_template() -> None:
    public = model("llama")
    protection = cloaked(public)
    own = hidden(public, protection, OWN, Stored.BF16, 1)
    stolen = hidden(public, protection, VICTIM, Stored.BF16)
    secrets = chosen.learn(public, [(OWN, own)], 0)
    found = template.read(public, stolen, 0, TEMPLATE, secrets=secrets)
    assert share(found.tokens, VICTIM) >= 0.95


def test_membership_needs_m_alone_and_fused_weights_give_it() -> None:
    public = model("llama")
    protection = cloaked(public)
    stolen = hidden(public, protection, VICTIM, Stored.FP32)
    secrets = template.secrets_of(public, stolen, 0, TEMPLATE)
    whole = membership(public, stolen, secrets.feature, axis=secrets.axis)
    assert share(whole.tokens, VICTIM) == 1.0
    fused = copy.deepcopy(public.model)
    fuse_model(fused, protection.key, 1.0, lambda done, total: None)
    feature = feature_of(public, PublicModel(fused), 0)
    torch.testing.assert_close(feature.abs(), torch.ones_like(feature.abs()), atol=1e-5, rtol=0)
    assert abs((feature / secrets.feature).mean(1).abs() - 1).max() < 1e-4
    # The beacon hides one row of 16.
    assert share(membership(public, stolen, feature).tokens, VICTIM) >= 0.85
    with pytest.raises(MismatchError):
        feature_of(public, model("grouped"), 0)


def test_blocks_as_large_as_a_head_have_no_row_space_and_short_templates_no_block() -> None:
    public = model("llama")
    stolen = capture(public, text(70))
    with pytest.raises(AttackError, match="no row space"):
        template.secrets_of(public, stolen, 0, text(64), block_tokens=64)
    with pytest.raises(AttackError, match="template has 5 tokens"):
        template.secrets_of(public, stolen, 0, TEMPLATE[:5])
    with pytest.raises(AttackError, match="no whole block"):
        template.secrets_of(public, capture(public, TEMPLATE[:9]), 0, TEMPLATE)


@pytest.mark.parametrize("kind", [Stored.FP32, Stored.INT8])
def test_secret_channel_orders_fall_to_the_template(kind: Stored) -> None:
    public = model("grouped")
    protection = protect("permute", 1, 64, {})
    stolen = hidden(public, protection, VICTIM, kind)
    assert share(nearest(public, stolen).tokens, VICTIM) < 0.1
    opened = channels.orders(capture(public, TEMPLATE), stolen).undo(stolen)
    assert share(nearest(public, opened).tokens, VICTIM) == 1.0


@pytest.mark.parametrize("kind", Stored)
def test_what_is_stored_plainly_is_read_whatever_the_dtype(kind: Stored) -> None:
    public = model("llama")
    stolen = hidden(public, protect("none", 2, 64, {}), VICTIM, kind)
    assert share(nearest(public, stolen).tokens, VICTIM) == 1.0


@pytest.mark.parametrize("kind", [Stored.FP32, Stored.BF16, Stored.INT8])
@pytest.mark.parametrize("name", ["stream", "vault"])
def test_the_stream_and_the_vault_leave_nothing(name: str, kind: Stored) -> None:
    public = model("llama")
    protection = protect(name, 2, 64, {})
    stolen = hidden(public, protection, VICTIM, kind)
    assert share(nearest(public, stolen).tokens, VICTIM) < 0.1
    assert share(template.read(public, stolen, 0, TEMPLATE).tokens, VICTIM) < 0.1
    again = hidden(public, protection, VICTIM, kind)
    assert not torch.equal(again.keys[0], stolen.keys[0])
    assert stolen.layer(0)[0].isfinite().all()


def test_hiding_leaves_the_plain_cache_alone() -> None:
    public = model("llama")
    plain = capture(public, VICTIM)
    before = plain.keys[0].clone()
    for name in PROTECTIONS:
        protect(name, 2, 64, limits_of([plain])).hide(plain, Stored.FP32, 0)
    assert torch.equal(plain.keys[0], before)
    with pytest.raises(ConfigError, match="'rot13'"):
        protect("rot13", 2, 64, {})


def test_only_the_vault_refuses_exchanged_blocks() -> None:
    for name in PROTECTIONS:
        plain = limits_of([capture(model("llama"), VICTIM)])
        assert protect(name, 2, 64, plain).accepts_swap() is (name != "vault")


def test_a_sealed_block_opens_in_its_own_place() -> None:
    """Else the test above would pass with a vault that opens nothing."""
    vault = Sealed()
    assert vault.opens(vault.seal(b"x" * 64))
    assert not vault.opens((vault.seal(b"x" * 64)[0], 1))


@pytest.mark.parametrize(
    ("kind", "most"),
    [(Stored.FP32, 0.0), (Stored.BF16, 0.004), (Stored.INT8, 0.02), (Stored.INT4, 0.2)],
)
def test_stored_numbers_are_as_exact_as_their_dtype(kind: Stored, most: float) -> None:
    states = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    packed = pack(states, kind)
    assert float((packed.unpack() - states).norm() / states.norm()) <= most
    changed = packed.with_bits(lambda bits: bits.zero_())
    assert float(changed.unpack().abs().max()) == 0.0
    assert float(packed.unpack().abs().max()) > 1.0
