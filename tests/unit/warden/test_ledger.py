"""Who contributed what: bounded evidence that no eviction resets."""

from __future__ import annotations

from safekv.types import TenantId
from safekv.warden import ContributionLedger, Keys, Quarantine, SecretThreshold

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")


def test_a_tenant_counts_once_for_a_block() -> None:
    ledger = ContributionLedger(quota=10)
    for tenant in (A, A, B, A):
        ledger.add(tenant, b"x")
    assert ledger.contributors(b"x") == {A, B}
    assert ledger.contributors(b"y") == set()
    assert len(ledger) == 2


def test_contributions_beyond_the_quota_do_not_count_until_the_next_window() -> None:
    ledger = ContributionLedger(quota=2)
    assert [ledger.add(A, block) for block in (b"x", b"y", b"z", b"x")] == [True, True, False, True]
    assert ledger.contributors(b"z") == set()
    ledger.clear()
    assert ledger.add(A, b"z")
    assert ledger.contributors(b"x") == set()


def test_a_full_ledger_drops_the_oldest_of_whoever_has_the_most() -> None:
    """So a flood costs the flooder its own evidence, and nobody else's."""
    ledger = ContributionLedger(quota=100, limit=4)
    ledger.add(B, b"honest")
    for n in range(20):
        ledger.add(A, bytes([n]))
    assert len(ledger) == 4
    assert ledger.contributors(b"honest") == {B}
    assert [n for n in range(20) if ledger.contributors(bytes([n]))] == [17, 18, 19]


def test_equal_texts_take_as_much_room_as_different_ones() -> None:
    """Otherwise the room left would tell that somebody else sent the same."""
    same, other = ContributionLedger(quota=9), ContributionLedger(quota=9)
    for ledger, block in ((same, b"x"), (other, b"y")):
        ledger.add(A, b"x")
        ledger.add(B, block)
    assert len(same) == len(other) == 2


def test_a_threshold_is_uniform_secret_and_never_drawn_again_within_a_window() -> None:
    threshold = SecretThreshold(8, 4, Keys().thresholds)
    draws = [threshold.of(n.to_bytes(2, "big"), 0) for n in range(2000)]
    assert set(draws) == {8, 9, 10, 11}
    assert min(draws.count(t) for t in set(draws)) > 400
    assert draws == [threshold.of(n.to_bytes(2, "big"), 0) for n in range(2000)]
    assert draws != [threshold.of(n.to_bytes(2, "big"), 1) for n in range(2000)]
    assert draws != [
        SecretThreshold(8, 4, Keys().thresholds).of(n.to_bytes(2, "big"), 0) for n in range(2000)
    ]
    assert repr(Keys()) == "Keys()"


def test_quarantine_lets_the_named_block_pass_and_nothing_below() -> None:
    quarantine = Quarantine()
    quarantine.add(b"2")
    assert quarantine.reach([b"1", b"2", b"3"]) == 2
    assert quarantine.reach([b"1", b"4", b"3"]) == 3


def test_a_full_quarantine_stops_all_promotion_and_drops_nothing() -> None:
    quarantine = Quarantine(limit=2)
    for name in (b"1", b"2", b"3"):
        quarantine.add(name)
    assert quarantine.full
    assert len(quarantine) == 2
    assert quarantine.reach([b"9"]) == 0


def test_who_computed_a_block_contributes_again_by_using_it_in_a_later_window() -> None:
    ledger = ContributionLedger(quota=10)
    ledger.add(A, b"x")
    ledger.clear()
    assert not ledger.contributors(b"x")
    assert ledger.renew(A, b"x")
    assert not ledger.renew(B, b"x"), "B never computed it"
    assert ledger.contributors(b"x") == {A}


def test_renewed_contributions_count_towards_the_quota() -> None:
    ledger = ContributionLedger(quota=2)
    for block in (b"x", b"y"):
        ledger.add(A, block)
    ledger.clear()
    ledger.add(A, b"z")
    assert [ledger.renew(A, block) for block in (b"x", b"y")] == [True, False]


def test_what_is_remembered_of_earlier_windows_is_bounded_and_the_flooders_own() -> None:
    ledger = ContributionLedger(quota=1000, limit=4)
    ledger.add(B, b"honest")
    for n in range(20):
        ledger.add(A, bytes([n]))
    ledger.clear()
    assert ledger.renew(B, b"honest")
    assert [n for n in range(20) if ledger.renew(A, bytes([n]))] == [17, 18, 19]
