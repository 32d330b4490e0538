"""Each sentence that safekv promises: its limits, its test, and how `safekv verify` checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from safekv.audit import probes
from safekv.audit.collusion import Collusion
from safekv.audit.probes import Outcome
from safekv.audit.threshold import Advantage
from safekv.audit.two_world import CONTROL, Comparison


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured once and serves several claims."""

    two_world: Mapping[str, Comparison]
    crowd: Advantage
    few: Advantage
    collusion: tuple[Collusion, ...]
    renewed: Advantage
    alike: Comparison
    served: Mapping[str, Comparison] | None


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise. `test` names the tests that would fail if it were false."""

    id: str
    sentence: str
    limits: str
    test: str
    check: Callable[[Findings], Outcome | None] = field(repr=False)


def _same(*modes: str) -> Callable[[Findings], Outcome]:
    def check(found: Findings) -> Outcome:
        rows = [found.two_world[mode] for mode in modes]
        shares = all(row.promotions for row in rows) or modes in (("isolated",), BELOW)
        seen, programs = sum(r.observations for r in rows), sum(r.programs for r in rows)
        differ = sum(r.differences for r in rows)
        evidence = f"{differ} differences in {seen} observations of {programs} programs"
        return Outcome(not differ and seen > 0 and shares, evidence)

    return check


def _masked(found: Findings) -> Outcome:
    alike = found.alike
    same = _same("masked-paper")(found)
    evidence = f"{same.evidence}; {alike.differences} of {alike.programs} unlike `isolated`"
    return Outcome(same.holds and not alike.differences and alike.promotions > 0, evidence)


def _served(found: Findings) -> Outcome | None:
    if found.served is None:
        return None
    control = found.served[CONTROL]
    others = {name: row for name, row in found.served.items() if name != CONTROL}
    shares = all(row.promotions for name, row in others.items() if name != "isolated")
    differ, seen = (sum(getattr(r, n) for r in others.values()) for n in COUNTED)
    evidence = (
        f"{differ} differences in {seen} requests of {control.programs} programs a mode;"
        f" {CONTROL}: {control.differences} programs differ"
    )
    return Outcome(not differ and seen > 0 and shares and control.differences > 0, evidence)


def _control(found: Findings) -> Outcome:
    row = found.two_world[CONTROL]
    return Outcome(row.differences > 0, f"{row.differences} of {row.programs} programs differ")


def _advantage(found: Advantage) -> Outcome:
    one = found.measured
    interval = f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
    return Outcome(
        found.holds, f"advantage {interval}, bound {found.bound:.3f}, {found.plays} plays"
    )


def _collusion(found: Findings) -> Outcome:
    inside = all(
        row.answers <= row.bound and (row.demoted or not row.answers) for row in found.collusion
    )
    rows = [row for row in found.collusion if row.profile == "paper" and row.ticks]
    shown = ", ".join(f"{row.accounts}: {row.answers}" for row in rows)
    return Outcome(inside and bool(rows), f"answers by accounts, with ticks: {shown}")


def _probe(probe: Callable[[], Outcome]) -> Callable[[Findings], Outcome]:
    return lambda found: probe()


BELOW: Final = ("anonymous-below-threshold",)
COUNTED: Final = ("differences", "observations")
SERVED: Final = "tests/security/claims/test_served_worlds.py"
MASKED: Final = "tests/unit/warden/test_masked.py"
FUZZ: Final = "tests/security/claims/test_verify.py"
WORLDS: Final = "tests/security/claims/test_two_worlds.py"
POLICY: Final = "tests/unit/warden/test_policy.py"
MONITOR: Final = "tests/unit/safeguard/test_monitor.py"
TREE: Final = "tests/unit/cache/test_published_defects.py"
LOGICAL: Final = (
    "On a clock that counts tokens; what load and hardware do to times is not compared."
)

CLAIMS: Final = (
    Claim(
        "isolated",
        "In `isolated`, nothing a tenant observes depends on what another tenant sent,"
        " even with a detector that clears everything.",
        LOGICAL + " Without overcommit, tenants opened at the start.",
        f"{FUZZ}, {WORLDS}, tests/property/test_virtual_caches.py",
        _same("isolated"),
    ),
    Claim(
        "declared",
        "In `declared`, nothing a tenant observes depends on what another tenant sent behind"
        " what an operator declared, even with a detector that clears everything.",
        LOGICAL + " That somebody sent a declared text, an epoch ago or longer, can be told.",
        FUZZ,
        _same("declared"),
    ),
    Claim(
        "vetoed",
        "In `selective`, text that the detector vetoes changes nothing that another tenant"
        " observes, under either profile.",
        LOGICAL + " A tenant whose own cache is full contributes less clean text the more it"
        " sends; a detector's queue that one tenant fills delays others' promotions.",
        f"{FUZZ}, {WORLDS}",
        _same("vetoed-paper", "vetoed-anonymous"),
    ),
    Claim(
        "threshold",
        "Under `anonymous`, even with a detector that clears everything, whether one tenant sent"
        " a block changes what others observe by at most 1/W in total variation, per block and"
        " window.",
        "m blocks and E windows: at most m*E/W. Tenants must be hard to multiply, and one person's"
        " text must not come from several. What L tenants sent is disclosed as popular.",
        FUZZ,
        lambda found: _advantage(found.crowd),
    ),
    Claim(
        "renewal",
        "Under `anonymous`, tenants that computed a block in an earlier window contribute again by"
        " using it, and one of them still changes what others observe by at most 1/W per window.",
        "Who only read it never does. What a tenant computed is remembered in bounded memory.",
        f"{POLICY}, {FUZZ}",
        lambda found: _advantage(found.renewed),
    ),
    Claim(
        "masked",
        "With masked release, even with a detector that clears everything, a tenant observes what"
        " it would in `isolated`.",
        LOGICAL + " On a real clock the tail of misses that take longer than the schedule shows"
        " (`safekv bench masked` measures it), and so does load: several accounts together can"
        " feel how much others compute. Declared texts excepted. Not with tiers.",
        f"{FUZZ}, {MASKED}, tests/integration/hf/test_masked.py",
        _masked,
    ),
    Claim(
        "scheduler",
        "Served order, places in the batch, steps to each token and set-backs of the embedded"
        " engine's own scheduler do not depend on what a victim wrote that is not shared, nor, with"
        " masked release, does when answers go out.",
        "The forward pass is a stub. The victim sends as much in both worlds: more would be felt as"
        " load. Checked where torch and transformers are installed.",
        SERVED,
        _served,
    ),
    Claim(
        "below-threshold",
        "Under `anonymous`, while fewer than L tenants sent a block, it changes nothing that"
        " anybody else observes.",
        LOGICAL,
        FUZZ,
        lambda found: _both(_same(*BELOW)(found), _advantage(found.few)),
    ),
    Claim(
        "control",
        "The same comparison finds the leak of `unsafe-global`, so it can fail.",
        "It finds what its programs reach.",
        f"{FUZZ}, {WORLDS}",
        _control,
    ),
    Claim(
        "ticks",
        "Nothing becomes shared between epoch ticks.",
        "The epoch in which a text became shared can be told.",
        POLICY,
        _probe(probes.only_at_ticks),
    ),
    Claim(
        "detector-failure",
        "A detector that is dead, slow, unsure or short of answers leaves text private.",
        "A detector that lies is caught by `anonymous` alone.",
        "tests/unit/warden/test_promotion.py, tests/unit/warden/test_faults.py",
        _probe(probes.failing_detectors),
    ),
    Claim(
        "readers",
        "Who only read a shared block is no contributor to it.",
        "Contributors are tenants; several tenants of one organisation count as several.",
        POLICY,
        _probe(probes.readers_do_not_count),
    ),
    Claim(
        "eviction",
        "Forcing evictions resets neither evidence nor thresholds.",
        "A full ledger drops the oldest evidence of whoever has the most.",
        f"{POLICY}, tests/unit/warden/test_ledger.py",
        _probe(probes.eviction_resets_nothing),
    ),
    Claim(
        "quota",
        "Beyond its quota of contributions per window a tenant is no contributor.",
        "The default quota of 4096 blocks is generous.",
        POLICY,
        _probe(probes.quota_of_contributions),
    ),
    Claim(
        "quarantine",
        "What was demoted on suspicion is not shared again, whoever sends it and whatever the"
        " detector says.",
        "Until the process ends. An attacker can have shared text demoted: it costs speed.",
        MONITOR,
        _probe(probes.quarantine_is_sticky),
    ),
    Claim(
        "budgets",
        "How much a tenant may read of what others sent depends on its own reads alone.",
        "A demotion is felt by all, and depends on all reads of the shared text in question.",
        MONITOR,
        _probe(probes.budgets_are_ones_own),
    ),
    Claim(
        "collusion",
        "Where the detector was wrong under `paper`, colluding accounts get a number of answers"
        " per window that grows with the number of accounts and is bounded.",
        "Never 0: about 1/low_diversity answers per account with a tick after each, and"
        " reads_per_node each in one epoch. Several accounts that are low_diversity of all tenants"
        " or more get reads_per_node each. Slower probing than armed_reads per window goes"
        " unnoticed.",
        f"{MONITOR}, tests/unit/audit/test_audit.py",
        _collusion,
    ),
    Claim(
        "usage",
        "`cached_tokens` counts a tenant's own and declared blocks alone.",
        "In `unsafe-global` all tenants have one cache, so there it tells. Blocks that a tenant"
        " read count as its own from then on.",
        "tests/e2e/test_server.py",
        _probe(probes.usage_shows_own_blocks),
    ),
    Claim(
        "stricter",
        "A stricter mode set at run time takes effect at once, and what it would not have shared"
        " is private again.",
        "The next start reads the settings again. A server with masked release keeps its masks"
        " while it is `selective`.",
        POLICY,
        _probe(probes.stricter_at_once),
    ),
    Claim(
        "equality",
        "Blocks are reused only if all tokens are equal.",
        "Equal tokens computed in another batch can differ in the last bits of a float.",
        f"{TREE}, tests/property/test_tree.py",
        _probe(probes.tokens_are_compared),
    ),
    Claim(
        "nobody",
        "A request without a tenant is refused, never taken for everyone.",
        "Who the tenant is, is the gateway's to say.",
        f"{TREE}, tests/unit/gateway",
        _probe(probes.nobody_is_nobody),
    ),
    Claim(
        "no-text",
        "Alarms and other events name tenants and counts, and hold no text, tokens or keys.",
        "Tenants' names are shown to the operator.",
        MONITOR,
        _probe(probes.alarms_hold_no_text),
    ),
)


def _both(first: Outcome, second: Outcome) -> Outcome:
    return Outcome(first.holds and second.holds, f"{first.evidence}; {second.evidence}")


def as_markdown() -> str:
    """`docs/claims.md`: every claim with its limits and tests, and no number of any run."""
    head = (
        "# Claims\n\n"
        "Written by `safekv verify --markdown`; a test keeps this file in step. `safekv verify`\n"
        "checks each sentence on the machine it runs on, against the real warden and prefix tree,\n"
        "and exits with 1 if one does not hold.\n\n"
        "| id | sentence | limits | tests |\n|---|---|---|---|\n"
    )
    rows = (
        f"| `{one.id}` | {one.sentence} | {one.limits} | {_tests(one.test)} |\n" for one in CLAIMS
    )
    return head + "".join(rows)


def _tests(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))
