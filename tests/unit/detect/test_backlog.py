"""Tenants take turns, none can fill the queue for others, and nothing is judged twice or lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.detect.backlog import Backlog
from safekv.types import TenantId

A, B, C = (TenantId(name) for name in "abc")


def drained(backlog: Backlog[str], limit: int = 1) -> list[str]:
    jobs: list[str] = []
    while taken := backlog.take(limit, 0.0):
        jobs += taken
    return jobs


def test_a_full_share_delays_nobody_else() -> None:
    backlog: Backlog[str] = Backlog(100, 10)
    assert [backlog.put(A, f"a{i}") for i in range(12)] == [True] * 10 + [False] * 2
    backlog.put(B, "b0")
    backlog.put(B, "b1")
    assert drained(backlog)[:4] == ["a0", "b0", "a1", "b1"]


def test_a_batch_is_one_tenants_and_its_next_waits_behind_others() -> None:
    backlog: Backlog[str] = Backlog(100, 10)
    for i in range(3):
        backlog.put(A, f"a{i}")
    backlog.put(B, "b0")
    assert backlog.take(2, 0.0) == ["a0", "a1"]
    assert backlog.take(2, 0.0) == ["b0"]
    assert backlog.take(2, 0.0) == ["a2"]
    assert backlog.take(2, 0.0) == []


def test_a_full_queue_makes_room_for_who_has_less() -> None:
    backlog: Backlog[str] = Backlog(4, 4)
    for i in range(4):
        backlog.put(A, f"a{i}")
    assert backlog.put(B, "b0") is False  # b0 is in; a3 gave way
    assert drained(backlog) == ["a0", "b0", "a1", "a2"]


def test_a_full_queue_of_equals_refuses() -> None:
    backlog: Backlog[str] = Backlog(2, 2)
    backlog.put(A, "a0")
    backlog.put(B, "b0")
    assert backlog.put(C, "c0") is False
    assert drained(backlog) == ["a0", "b0"]


@pytest.mark.parametrize("batch", [1, 3])
@given(st.lists(st.sampled_from([A, B, C]), max_size=40))
def test_every_job_is_taken_once_in_its_tenants_order(batch: int, sent: list[TenantId]) -> None:
    backlog: Backlog[str] = Backlog(1000, 1000)
    for number, tenant in enumerate(sent):
        assert backlog.put(tenant, f"{tenant}{number:03}")
    assert len(backlog) == len(sent)
    taken = drained(backlog, batch)
    assert Counter(taken) == Counter(f"{t}{n:03}" for n, t in enumerate(sent))
    for tenant in (A, B, C):
        own = [job for job in taken if job.startswith(tenant)]
        assert own == sorted(own)
    assert len(backlog) == 0


@given(st.lists(st.sampled_from([A, B, C]), max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_bounds_hold(sent: list[TenantId], limit: int, tenant_limit: int) -> None:
    backlog: Backlog[TenantId] = Backlog(limit, tenant_limit)
    for tenant in sent:
        backlog.put(tenant, tenant)
        assert len(backlog) <= limit
    taken: Counter[TenantId] = Counter()
    while jobs := backlog.take(1, 0.0):
        taken.update(jobs)
    assert all(n <= tenant_limit for n in taken.values())
    assert taken.total() <= limit
