from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.errors import OverloadedError
from safekv.gateway.limits import Ticket, WaitingRoom
from safekv.types import TenantId

A, B = TenantId("a"), TenantId("b")


def test_a_tenant_meets_its_own_limit_first() -> None:
    room = WaitingRoom(total=3, per_tenant=2)
    first = room.enter(A)
    room.enter(A)
    with pytest.raises(OverloadedError):
        room.enter(A)
    room.enter(B)
    with pytest.raises(OverloadedError):
        room.enter(B)
    first.leave()
    room.enter(B)
    assert repr(room) == "<WaitingRoom [3 of 3 waiting]>"


def test_the_block_leaves_once_also_after_the_first_token_and_on_errors() -> None:
    room = WaitingRoom(total=2, per_tenant=2)
    room.enter(A)
    with room.enter(A) as ticket:
        ticket.leave()
        ticket.leave()
        assert room.waiting == 1
    assert room.waiting == 1
    with pytest.raises(KeyError), room.enter(B):
        raise KeyError
    assert room.waiting == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.booleans())))
def test_the_count_is_that_of_open_tickets(steps: list[tuple[TenantId, bool]]) -> None:
    room, open_tickets = WaitingRoom(total=3, per_tenant=2), list[tuple[TenantId, Ticket]]()
    for tenant, enters in steps:
        own = sum(one == tenant for one, _ in open_tickets)
        if enters and (own >= 2 or len(open_tickets) >= 3):
            with pytest.raises(OverloadedError):
                room.enter(tenant)
        elif enters:
            open_tickets.append((tenant, room.enter(tenant)))
        elif open_tickets:
            open_tickets.pop(0)[1].leave()
        assert room.waiting == len(open_tickets)
