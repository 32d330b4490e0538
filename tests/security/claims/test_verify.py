"""`safekv verify` holds on this code, and would not on code that leaks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from safekv.audit import collusion, threshold, two_world
from safekv.audit.claims import CLAIMS, as_markdown
from safekv.audit.runner import Audit, AuditPlan, run
from safekv.audit.threshold import ThresholdPlan
from safekv.cache import CacheConfig, Lease
from safekv.cache.node import Node
from safekv.cache.quota import Ledger
from safekv.safeguard.budget import ReadBudgets
from safekv.types import TenantId
from safekv.warden import ContributionLedger, Evidence, Quarantine, SecretThreshold, Warden
from safekv.warden.guard import Guard
from safekv.warden.policy import PromotionPolicy

ROOT = Path(__file__).parents[3]
SMALL = AuditPlan(programs=40, plays=120, accounts=(1, 2), served=3)


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(scope="module")
def audit() -> Audit:
    return run(SMALL, quiet)


@pytest.mark.parametrize("claim", [one.id for one in CLAIMS])
def test_every_claim_holds(audit: Audit, claim: str) -> None:
    (checked,) = [one for one in audit.checked if one.claim.id == claim]
    assert checked.outcome.holds, checked.outcome.evidence


def test_the_result_has_the_published_keys(audit: Audit) -> None:
    data = audit.to_json()
    assert set(data) == {"claims", "two_world", "scheduler", "skipped", "threshold"}
    assert data["skipped"] == []
    assert isinstance(data["claims"], list)
    for claim in data["claims"]:
        assert set(claim) == {"id", "sentence", "holds", "evidence", "limits"}
    assert isinstance(data["two_world"], dict)
    assert isinstance(data["scheduler"], dict)
    for row in (*data["two_world"].values(), *data["scheduler"].values()):
        assert set(row) == {"programs", "observations", "differences"}
    assert isinstance(data["threshold"], dict)
    assert set(data["threshold"]) == {"advantage", "ci_low", "ci_high", "bound"}


def visible_to_all(self: Node, tenant: TenantId) -> bool:
    return True


def differences(mode: str, programs: int = 25) -> int:
    return two_world.compare(two_world.SETTINGS[mode], programs, 1, lambda: None).differences


def test_a_tree_that_shows_everything_is_found_in_every_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Node, "visible_to", visible_to_all)
    for mode in two_world.SETTINGS:
        # Masked, not even that shows in times: what a tenant finds is not what it is told.
        assert bool(differences(mode)) == (mode != "masked-paper"), mode


def tell_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Warden, "visible_blocks", lambda self, lease: lease.hit_blocks)


def charge_the_pool_alone(patch: pytest.MonkeyPatch) -> None:
    """Then what a tenant keeps tells whether what it read was shared."""
    charged = Ledger.__init__

    def free(self: Ledger, config: CacheConfig, *, holders_pay: bool = False) -> None:
        charged(self, config, holders_pay=False)

    patch.setattr(Ledger, "__init__", free)


@pytest.mark.parametrize("broken", [tell_all, charge_the_pool_alone])
def test_a_mask_with_a_hole_is_found(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    broken(monkeypatch)
    assert two_world.as_isolated(60, 1, lambda: None).differences
    assert differences("masked-paper", 60)


def test_renewal_by_readers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If every use counted in a later window, the accounts' own reads would make a crowd."""
    monkeypatch.setattr(ContributionLedger, "renew", ContributionLedger.add)
    assert not probe("readers")


def test_promotion_without_a_verdict_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the policy took every block for cleared."""
    setting = two_world.SETTINGS["vetoed-paper"]
    lying = two_world.Setting(setting.config, two_world.everything_clean, setting.others)
    assert two_world.compare(lying, 60, 1, lambda: None).differences


def test_a_fixed_threshold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code's fixed number of creators is an oracle: advantage 1."""
    monkeypatch.setattr(SecretThreshold, "of", lambda self, block, window: self.low)
    found = threshold.advantage(ThresholdPlan(accounts=8, plays=50), lambda: None)
    assert found.measured.value == 1.0
    assert not found.holds


def test_a_ledger_that_counts_requests_instead_of_tenants_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then one tenant passes for a crowd, and promotes its neighbour's text by itself."""
    counted: dict[bytes, list[TenantId]] = {}

    def add(self: ContributionLedger, tenant: TenantId, block: bytes) -> bool:
        counted.setdefault(block, []).append(tenant)
        return True

    monkeypatch.setattr(ContributionLedger, "add", add)
    monkeypatch.setattr(
        ContributionLedger, "contributors", lambda self, block: counted.get(block, [])
    )
    assert differences("anonymous-below-threshold")


def probe(claim: str) -> bool:
    """Whether a claim that needs no measurements holds."""
    (one,) = [one for one in CLAIMS if one.id == claim]
    return one.check(None).holds  # type: ignore[arg-type]


Break = Callable[[pytest.MonkeyPatch], None]


def count_readers(patch: pytest.MonkeyPatch) -> None:
    """D4: who reads counts as if it had computed."""
    add = PromotionPolicy.add

    def all_computed(self: PromotionPolicy, evidence: Evidence) -> None:
        add(self, replace(evidence, computed_from=0))

    patch.setattr(PromotionPolicy, "add", all_computed)


def lift_quarantine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quarantine, "reach", lambda self, names: len(names))


def share_budgets(patch: pytest.MonkeyPatch) -> None:
    """D5: one budget for all."""
    spend = ReadBudgets.spend
    patch.setattr(
        ReadBudgets,
        "spend",
        lambda self, tenant, node, answer: spend(self, TenantId("all"), node, answer),
    )


def allow_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Guard, "allows", lambda self, lease: True)


def no_quota(patch: pytest.MonkeyPatch) -> None:
    start = ContributionLedger.__init__
    patch.setattr(
        ContributionLedger, "__init__", lambda self, quota, limit=10**6: start(self, 10**6, limit)
    )


def tell_everything(patch: pytest.MonkeyPatch) -> None:
    """`cached_tokens` from the whole hit."""
    patch.setattr(Lease, "own_blocks", property(lambda self: self.hit_blocks, lambda self, n: None))


def forget_nothing(patch: pytest.MonkeyPatch) -> None:
    """A stricter mode that leaves shared runs as they are."""
    patch.setattr("safekv.warden.warden.demote_below", lambda tree, tokens: 0)


def drop_evidence(patch: pytest.MonkeyPatch) -> None:
    """L14: evidence that goes with the blocks."""
    evict = Warden.evict

    def evicting(self: Warden, n_blocks: int, tenant: TenantId | None = None) -> object:
        self._policy._ledger.clear()
        return evict(self, n_blocks, tenant)

    patch.setattr(Warden, "evict", evicting)


@pytest.mark.parametrize(
    ("claim", "broken"),
    [
        ("readers", count_readers),
        ("quarantine", lift_quarantine),
        ("budgets", share_budgets),
        ("budgets", allow_everything),
        ("quota", no_quota),
        ("usage", tell_everything),
        ("stricter", forget_nothing),
        ("eviction", drop_evidence),
    ],
)
def test_a_claim_fails_where_the_code_is_broken(
    claim: str, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe(claim)
    broken(monkeypatch)
    assert not probe(claim)


def test_a_safeguard_that_never_stops_anybody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_everything(monkeypatch)
    monkeypatch.setattr("safekv.warden.guard.demote_below", lambda tree, tokens: 0)
    rows = collusion.run((2,), lambda: None)
    assert any(row.answers > row.bound for row in rows)


def test_the_claims_document_is_in_step() -> None:
    assert (ROOT / "docs/claims.md").read_text() == as_markdown()


def test_every_claim_is_in_the_threat_model_and_names_tests_that_exist() -> None:
    model = (ROOT / "docs/threat-model.md").read_text()
    for claim in CLAIMS:
        assert f"`{claim.id}`" in model, claim.id
        for name in re.split(", ", claim.test):
            assert (ROOT / name).exists(), name
