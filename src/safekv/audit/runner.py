"""Measures everything the claims rest on, and checks each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from safekv.audit import collusion, scheduling, threshold, two_world
from safekv.audit.claims import CLAIMS, Claim, Findings
from safekv.audit.probes import Outcome
from safekv.audit.threshold import ThresholdPlan
from safekv.audit.two_world import Comparison

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """`programs` per mode, `plays` of the threshold attack, `accounts` that collude, and
    `served` programs per mode against the engine's own scheduler."""

    programs: int = 150
    served: int = 12
    plays: int = 1200
    accounts: tuple[int, ...] = (1, 2, 10)
    seed: int = 1

    @property
    def steps(self) -> int:
        """How many steps a run reports."""
        programs = (len(two_world.SETTINGS) + 1) * self.programs
        if scheduling.available():
            programs += (len(scheduling.MODES) + 1) * self.served
        return programs + 3 * self.plays + len(self.accounts) * 4 + len(CLAIMS)


@dataclass(frozen=True, slots=True)
class Checked:
    """One claim and what became of it."""

    claim: Claim
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Audit:
    """A whole run."""

    findings: Findings
    checked: tuple[Checked, ...]
    skipped: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every claim held, the positive control included."""
        return all(one.outcome.holds for one in self.checked)

    def to_json(self) -> dict[str, object]:
        """The result as JSON types; see `safekv verify --help` for the keys."""
        crowd = self.findings.crowd
        return {
            "claims": [
                {
                    "id": one.claim.id,
                    "sentence": one.claim.sentence,
                    "holds": one.outcome.holds,
                    "evidence": one.outcome.evidence,
                    "limits": one.claim.limits,
                }
                for one in self.checked
            ],
            "two_world": _rows(self.findings.two_world),
            "scheduler": _rows(self.findings.served or {}),
            "skipped": list(self.skipped),
            "threshold": {
                "advantage": crowd.measured.value,
                "ci_low": crowd.measured.low,
                "ci_high": crowd.measured.high,
                "bound": crowd.bound,
            },
        }


def _rows(found: Mapping[str, Comparison]) -> dict[str, dict[str, int]]:
    return {
        mode: {
            "programs": row.programs,
            "observations": row.observations,
            "differences": row.differences,
        }
        for mode, row in found.items()
    }


def run(plan: AuditPlan, report: Report) -> Audit:
    """Check every claim. About 20 s for the default plan on one quiet core."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(done, plan.steps)

    findings = Findings(
        {
            name: two_world.compare(setting, plan.programs, plan.seed, step)
            for name, setting in two_world.SETTINGS.items()
        },
        threshold.advantage(ThresholdPlan(accounts=100, plays=plan.plays), step),
        threshold.advantage(ThresholdPlan(accounts=7, plays=plan.plays), step),
        tuple(collusion.run(plan.accounts, step)),
        threshold.renewal(ThresholdPlan(accounts=8, plays=plan.plays), step),
        two_world.as_isolated(plan.programs, plan.seed, step),
        scheduling.run(plan.served, plan.seed, step),
    )
    checked, skipped = list[Checked](), list[str]()
    for claim in CLAIMS:
        outcome = claim.check(findings)
        if outcome is None:
            skipped.append(claim.id)
        else:
            checked.append(Checked(claim, outcome))
        step()
    return Audit(findings, tuple(checked), tuple(skipped))
