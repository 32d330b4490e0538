"""The reuse-diversity monitor, and the defects of the published one."""

from __future__ import annotations

from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.events import Event, Suspected
from safekv.safeguard import Monitor, SafeguardConfig, Suspicion
from safekv.safeguard.budget import ReadBudgets
from safekv.safeguard.diversity import Diversity
from safekv.types import TenantId, pack_tokens
from safekv.warden import Keys, WardenConfig

VICTIM, PROBER = TenantId("victim"), TenantId("prober")
HONEST = [TenantId(f"h{n}") for n in range(20)]
TEMPLATE: Prompt = tuple(range(BLOCK_TOKENS))


def letter(n: int) -> Prompt:
    """A prompt below the common template: one block of its own, and a token to compute."""
    return (*TEMPLATE, *(1000 + n for _ in range(BLOCK_TOKENS)), 7)


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def suspicions(self) -> list[Suspected]:
        return [event for event in self.events if isinstance(event, Suspected)]


def shared_letters(n: int, **options: object) -> World:
    """A world in which a lying detector let `n` letters of the victim be shared."""
    at = World(WardenConfig(), [VICTIM, PROBER, *HONEST], **options)  # type: ignore[arg-type]
    for one in range(n):
        at.send(VICTIM, letter(one))
    at.tick()
    return at


def answers(at: World, tenant: TenantId, letters: range, every: int = 1) -> int:
    """How many letters the tenant confirms, with a tick after every so many probes."""
    found = 0
    for n in letters:
        found += len(letter(n)) - at.send(tenant, letter(n)).waited_tokens == 2 * BLOCK_TOKENS
        if (n + 1) % every == 0:
            at.tick()
    return found


def test_one_prober_is_cut_off_and_what_it_read_stays_private_for_good() -> None:
    heard = Heard()
    at = shared_letters(60, events=heard)
    assert answers(at, PROBER, range(60)) == 10
    (said,) = heard.suspicions
    assert said == Suspected((PROBER,), 10, 60, surge=False)
    # Sent and cleared again by others: the quarantine holds.
    for tenant in HONEST:
        at.send(tenant, letter(50))
    at.tick()
    assert answers(at, TenantId("h0"), range(10)) == 0
    assert at.send(PROBER, (*TEMPLATE, 5)).cached_tokens == BLOCK_TOKENS, "the template stays"
    at.warden.check()


def test_between_ticks_a_prober_gets_its_budget_and_no_more() -> None:
    at = shared_letters(60)
    assert answers(at, PROBER, range(60), every=100) == 16


def test_honest_readers_of_the_template_do_not_hide_a_prober() -> None:
    """Reads that end at the template say nothing of who reads what lies below."""
    at = shared_letters(60)
    for tenant in HONEST:
        at.send(tenant, (*TEMPLATE, 8))
    assert answers(at, PROBER, range(60)) == 10


def test_many_tenants_that_read_a_little_each_are_no_suspicion() -> None:
    heard = Heard()
    at = shared_letters(20, events=heard)
    for n, tenant in enumerate(HONEST):
        at.send(tenant, letter(n))
    at.tick()
    assert not [said for said in heard.suspicions if not said.surge]


def test_all_of_a_few_tenants_are_no_suspicion_however_much_they_read() -> None:
    seen = Diversity()
    for n in range(1000):
        seen.add(HONEST[n % 10])
    assert not seen.low(armed_reads=10, low_diversity=0.2, n_tenants=10)
    assert not seen.low(armed_reads=10, low_diversity=0.2, n_tenants=50)
    assert seen.low(armed_reads=10, low_diversity=0.2, n_tenants=51)


def test_one_tenant_alone_is_suspicious_however_few_there_are() -> None:
    seen = Diversity()
    for _ in range(10):
        seen.add(PROBER)
    assert seen.low(armed_reads=10, low_diversity=0.2, n_tenants=2)


def test_d9_a_block_nobody_read_before_is_watched_from_its_first_window() -> None:
    """D9: the published monitor fires only if the window before had hits."""
    now = Diversity()
    for _ in range(10):
        now.add(PROBER)
    assert now.low(armed_reads=10, low_diversity=0.2, n_tenants=100)
    assert now.surges(None, armed_reads=10, factor=10)
    assert not now.surges(now, armed_reads=10, factor=10)


def test_d5_a_budget_is_spent_by_its_own_tenant_alone() -> None:
    """D5: in the published code the victim's reads use up the attacker's budget, which it feels."""
    for victim_reads in (0, 40):
        budgets = ReadBudgets(per_node=3, per_tenant=5)
        for n in range(victim_reads):
            budgets.spend(VICTIM, b"node", bytes([n]))
        got = [budgets.spend(PROBER, b"node", bytes([n])) for n in range(5)]
        assert got == [True, True, True, False, False]
        assert [budgets.spend(PROBER, b"other", bytes([n])) for n in range(3)] == [
            True,
            True,
            False,
        ], "the tenant's whole allowance"


def test_asking_again_is_free_and_a_new_window_begins_anew() -> None:
    budgets = ReadBudgets(per_node=1, per_tenant=1)
    assert [budgets.spend(PROBER, b"n", b"x") for _ in range(3)] == [True] * 3
    assert not budgets.spend(PROBER, b"n", b"y")
    budgets.clear()
    assert budgets.spend(PROBER, b"n", b"y")


def test_a_surge_of_many_tenants_is_an_alarm_and_demotes_nothing() -> None:
    heard = Heard()
    at = shared_letters(1, events=heard)
    for tenant in HONEST:
        at.send(tenant, letter(0))
    at.tick()
    (said,) = heard.suspicions
    assert said.surge
    assert said.demoted_blocks == 0
    assert set(said.tenants) == set(HONEST)
    assert len(letter(0)) - at.send(PROBER, letter(0)).waited_tokens == 2 * BLOCK_TOKENS


def test_alarms_name_tenants_and_counts_and_no_text() -> None:
    monitor = Monitor(SafeguardConfig(), block_tokens=1, key=Keys().names)
    for n in range(12):
        monitor.note(PROBER, pack_tokens([11, 12, 4000 + n]), own_blocks=0, hit_blocks=3)
    found = [one for one in monitor.end_epoch(100) if not one.surge]
    assert [(one.keep_blocks, one.tenants, one.reads) for one in found] == [(2, (PROBER,), 12)]
    assert isinstance(found[0], Suspicion)
    assert "tokens" not in repr(found)
    assert "name" not in repr(found)
    assert monitor.end_epoch(100) == [], "each finding once in a window"


def test_slow_probing_below_the_arming_threshold_is_not_noticed() -> None:
    """The limit that the documentation names: a window forgets."""
    at = shared_letters(40, safeguard=SafeguardConfig(window_epochs=5))
    assert answers(at, PROBER, range(40), every=1) == 40


def test_declared_texts_are_never_suspicious() -> None:
    heard = Heard()
    at = World(
        WardenConfig(),
        [VICTIM, PROBER],
        declared=[letter(n)[: 2 * BLOCK_TOKENS] for n in range(40)],
        events=heard,
    )
    for n in range(40):
        at.send(VICTIM, letter(n))
    at.tick()
    assert answers(at, PROBER, range(40)) == 40
    assert heard.suspicions == []
