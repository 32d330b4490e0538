"""When a cleared block becomes shared: by profile, by declaration, and never otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.errors import ConfigError
from safekv.events import Demoted, Event
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, TenantId, Verdict
from safekv.warden import WardenConfig

A, B, READER = TenantId("a"), TenantId("b"), TenantId("reader")
CROWD = [TenantId(f"t{n}") for n in range(12)]
TEXT: Prompt = tuple(range(100, 112))
OTHER: Prompt = tuple(range(200, 212))
FULL = 2 * BLOCK_TOKENS
"""What a reader can find of `TEXT`: one token is always computed."""


def anonymous(**settings: int) -> WardenConfig:
    fields = {"threshold_low": 3, "threshold_width": 2, **settings}
    return WardenConfig(mode=Mode.SELECTIVE, profile=Profile.ANONYMOUS, **fields)


def world(config: WardenConfig, **options: object) -> World:
    return World(config, [A, B, READER, *CROWD], **options)  # type: ignore[arg-type]


def found(at: World, prompt: Prompt = TEXT, tenant: TenantId = READER) -> int:
    """How many tokens of `prompt` `tenant` finds. Leaves nothing behind but a mark of use."""
    running, seen = at.start(tenant, prompt)
    at.warden.release(running.lease)
    return len(prompt) - seen.waited_tokens


def test_paper_asks_for_a_clean_verdict_and_a_tick() -> None:
    at = world(WardenConfig())
    at.send(A, TEXT)
    assert found(at) == 0
    at.tick()
    assert found(at) == FULL


def test_anonymous_asks_for_as_many_tenants_as_the_secret_threshold_says() -> None:
    at = world(anonymous())
    first = []
    for n, tenant in enumerate(CROWD, start=1):
        at.send(tenant, TEXT)
        at.tick()
        if found(at):
            first.append(n)
    assert first[0] in (3, 4), "the secret threshold of the first block"
    assert found(at) == FULL


def test_nothing_is_promoted_between_ticks() -> None:
    at = world(anonymous())
    for tenant in CROWD:
        at.send(tenant, TEXT)
    assert found(at) == 0
    assert at.tick() == 3
    assert found(at) == FULL


def test_one_tenant_that_repeats_itself_is_one_contributor() -> None:
    at = world(anonymous())
    for _ in range(20):
        at.send(A, TEXT)
        at.tick()
        at.evict(A, 3)
    assert found(at) == 0


def test_d4_a_reader_is_no_contributor() -> None:
    """D4: those who read a shared run do not count when it has to be promoted again."""
    at = world(anonymous())
    for tenant in CROWD[:5]:
        at.send(tenant, TEXT)
    at.tick()
    for tenant in CROWD[5:]:
        at.send(tenant, TEXT)
    at.warden.set_mode(Mode.SELECTIVE)  # everything is private again, and no evidence left
    for tenant in CROWD[5:]:
        at.send(tenant, TEXT)  # found in the tenant's own cache since it was read
    at.tick()
    assert found(at) == 0


def test_evidence_and_threshold_survive_eviction() -> None:
    """L14: forcing an eviction resets neither."""
    counts = []
    at = world(anonymous(threshold_low=4, threshold_width=8))
    for n, tenant in enumerate(CROWD, start=1):
        at.send(tenant, TEXT)
        at.tick()
        if found(at) == FULL:
            counts.append(n)
            break
        at.evict(tenant, 3)
    assert counts
    assert counts[0] >= 4


def test_evidence_ends_with_its_window() -> None:
    at = world(anonymous(window_epochs=1))
    for tenant in CROWD:
        at.send(tenant, TEXT)
        at.tick()
    assert found(at) == 0


def test_beyond_its_quota_a_tenant_contributes_nothing() -> None:
    at = world(anonymous(contributions_per_window=3))
    for tenant in CROWD:
        at.send(tenant, OTHER)
        at.send(tenant, TEXT)
    at.tick()
    assert found(at, OTHER) == FULL
    assert found(at) == 0


def test_a_contributor_whose_copy_is_gone_does_not_stand_in_the_way() -> None:
    """The run is promoted if any contributor still holds it."""
    at = world(anonymous())
    for tenant in CROWD:
        at.send(tenant, TEXT)
    for tenant in CROWD[1:]:
        at.evict(tenant, 3)
    at.tick()
    assert found(at) == FULL


def test_a_vetoed_block_is_not_shared_however_many_send_it() -> None:
    def judge(block: Sequence[int]) -> Verdict:
        return Verdict.PRIVATE if 104 in block else Verdict.SHAREABLE

    for config in (anonymous(), WardenConfig()):
        at = world(config, judge=judge)
        for tenant in CROWD:
            at.send(tenant, TEXT)
        at.tick()
        assert found(at) == BLOCK_TOKENS


# -- declared ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.DECLARED, Mode.SELECTIVE])
def test_a_declared_prefix_is_shared_at_the_next_tick_whatever_the_detector_says(
    mode: Mode,
) -> None:
    at = world(WardenConfig(mode=mode), declared=[TEXT], judge=lambda block: Verdict.PRIVATE)
    at.send(A, TEXT)
    at.send(A, OTHER)
    assert found(at) == 0
    at.tick()
    assert found(at) == FULL
    assert found(at, OTHER) == 0


def test_in_declared_mode_nothing_else_is_shared_or_judged() -> None:
    at = world(WardenConfig(mode=Mode.DECLARED))
    for tenant in CROWD:
        at.send(tenant, TEXT)
    at.tick()
    assert found(at) == 0


def test_a_revoked_prefix_is_private_after_the_tick() -> None:
    at = world(WardenConfig(mode=Mode.DECLARED), declared=[TEXT])
    at.send(A, TEXT)
    at.tick()
    at.warden.declare([])
    at.tick()
    assert found(at) == 0
    assert found(at, tenant=A) == FULL, "who holds it keeps it"


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.UNSAFE_GLOBAL])
def test_declarations_do_nothing_in_modes_without_them(mode: Mode) -> None:
    at = world(WardenConfig(mode=mode), declared=[TEXT])
    at.send(A, TEXT)
    assert at.tick() == 0


# -- the mode changes at run time ----------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [(Mode.ISOLATED, None), (Mode.DECLARED, None), (Mode.SELECTIVE, Profile.ANONYMOUS)],
)
def test_a_stricter_mode_takes_effect_at_once(mode: Mode, profile: Profile | None) -> None:
    heard = Heard()
    at = world(WardenConfig(), events=heard)
    at.send(A, TEXT)
    at.tick()
    at.send(A, OTHER)
    assert at.warden.set_mode(mode, profile) == 3
    assert Demoted(3) in heard.events
    assert found(at) == 0
    at.tick()
    assert found(at, OTHER) == 0, "what was cleared under the old rules is void"
    assert found(at, tenant=A) == FULL
    at.warden.check()


def test_from_unsafe_global_nothing_of_the_common_cache_stays_visible() -> None:
    at = world(WardenConfig(mode=Mode.UNSAFE_GLOBAL))
    at.send(A, TEXT)
    assert found(at) == FULL
    at.warden.set_mode(Mode.ISOLATED)
    assert found(at) == found(at, tenant=A) == 0
    assert len(at.warden.take_freed()) == 3
    assert at.warden.stored_blocks() == 0


@pytest.mark.parametrize(
    ("now", "wanted", "profile"),
    [
        (WardenConfig(mode=Mode.ISOLATED), Mode.SELECTIVE, None),
        (WardenConfig(mode=Mode.ISOLATED), Mode.DECLARED, None),
        (WardenConfig(mode=Mode.DECLARED), Mode.SELECTIVE, Profile.ANONYMOUS),
        (WardenConfig(), Mode.UNSAFE_GLOBAL, None),
        (anonymous(), Mode.SELECTIVE, Profile.PAPER),
    ],
)
def test_a_running_server_never_begins_to_share_more(
    now: WardenConfig, wanted: Mode, profile: Profile | None
) -> None:
    at = world(now)
    with pytest.raises(ConfigError, match="shares more"):
        at.warden.set_mode(wanted, profile)
    assert at.warden.config == now


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold_low", 1),
        ("threshold_width", 1),
        ("window_epochs", 0),
        ("contributions_per_window", 0),
    ],
)
def test_settings_that_protect_nobody_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        WardenConfig(**{name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_epochs": 0},
        {"armed_reads": 0},
        {"low_diversity": 1.5},
        {"surge_factor": 1.0},
        {"reads_per_node": 5},
        {"reads_per_tenant": 10},
    ],
)
def test_a_safeguard_that_guards_nothing_is_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        SafeguardConfig(**wrong)  # type: ignore[arg-type]


def test_a_text_that_everybody_keeps_is_shared_in_a_later_window() -> None:
    """Few computed it in each window, and nobody computes it again: use of it counts too."""
    at = world(anonymous(threshold_low=5, window_epochs=2))
    for tenant in CROWD[:4]:
        at.send(tenant, TEXT)
    at.tick(), at.tick()
    for tenant in CROWD[4:8]:
        at.send(tenant, TEXT)
    at.tick()
    assert found(at) == 0, "four in this window"
    for tenant in CROWD[:4]:
        at.send(tenant, TEXT)
    at.tick()
    assert found(at) == FULL


def test_d4_a_reader_does_not_contribute_by_using_it_in_a_later_window() -> None:
    at = world(anonymous(threshold_low=5, window_epochs=2))
    for tenant in CROWD[:8]:
        at.send(tenant, TEXT)
    at.tick()
    for tenant in CROWD[8:]:
        at.send(tenant, TEXT)  # reads
    at.warden.set_mode(Mode.SELECTIVE)
    at.tick()
    for tenant in (*CROWD[8:], *CROWD[:2]):
        at.send(tenant, TEXT)
    at.tick()
    assert found(at) == 0, "four readers and two contributors"
