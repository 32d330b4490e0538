"""An audit's result as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from safekv.audit.endpoint.advice import advice
from safekv.audit.endpoint.drawing import distributions, roc_curve
from safekv.audit.endpoint.judge import Finding, Verdict
from safekv.audit.endpoint.observation import CONTROL_SCOPES, Channel, Scope
from safekv.audit.endpoint.session import Outcome

STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --rule: #d5dae0;
  --paper: #fff; --primed: #0072b2; --fresh: #c04d00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebef; --soft: #a3adb8; --rule: #39424d;
  --paper: #12161b; --primed: #56b4e9; --fresh: #f0a030; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .55rem; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: top; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } td:last-child { white-space: normal; min-width: 12rem; }
p { max-width: 46rem; } tr.leak td { font-weight: 650; }
figure { margin: 1.2rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
figcaption { flex-basis: 100%; } svg text { font-size: 12px; fill: var(--soft); }
.primed { fill: var(--primed); fill-opacity: .75; }
.fresh { fill: var(--fresh); fill-opacity: .75; }
.middle { stroke: var(--ink); stroke-width: 2; } .frame { fill: none; stroke: var(--rule); }
.guess { stroke: var(--soft); stroke-dasharray: 4 3; }
.roc { fill: none; stroke: var(--primed); stroke-width: 2; }
pre { overflow-x: auto; font-size: .75rem; }
"""

HEADLINES: Final = {
    Verdict.LEAK: "This endpoint leaks prompts",
    Verdict.NO_LEAK: "No leak was found",
    Verdict.INCONCLUSIVE: "Inconclusive: this is not a pass",
}

READING: Final = (
    "In every round somebody sends a made-up prompt (<b>primed</b>), and the auditor's key then"
    " sends that prompt and one that nobody has sent (<b>fresh</b>), in an order drawn at random."
    " If the two can be told apart, a tenant can confirm what another one wrote.",
    "<b>same-key</b> is the positive control: the auditor's own cache must show, or nothing can be"
    " concluded. <b>negative-control</b> compares two prompts that nobody sent: it must not show.",
    "<b>AUC</b>: the chance that a fresh prompt took longer than a primed one; 0.5 is a coin toss,"
    " 1.0 certainty. <b>TPR at FPR</b>: how many primed prompts are recognised when that share of"
    " fresh ones may be mistaken for one. <b>p</b> counts the random orders that would look at"
    " least as bad, and is corrected for all tests and looks. KS and MW are the classical"
    " two-sample tests, for comparison with the literature.",
    "<b>no-leak</b> means: none larger than the AUC named, in this channel, at this load. Noise"
    " from other traffic hides leaks.",
)

COLUMNS: Final = (
    *("scope", "content", "channel", "verdict", "AUC [95 %]", "TPR at 1 % / 0.1 % FPR"),
    *("p", "KS p", "MW p", "detectable AUC", "pairs", "why"),
)


def page(outcome: Outcome, record: Mapping[str, Any]) -> str:
    """The whole page. Holds no prompt, no key, no script, and loads nothing."""
    findings = outcome.findings
    own = [f for f in findings if f.scope not in CONTROL_SCOPES]
    controls = [f for f in findings if f.scope in CONTROL_SCOPES]
    todo = "".join(f"<li>{escape(line)}</li>" for line in advice(outcome))
    parts = [
        f"<h1>{HEADLINES[outcome.verdict]}</h1>",
        f"<p>{escape(outcome.reason)}</p>",
        f"<h2>What to do</h2><ul>{todo}</ul>" if todo else "",
        "<h2>Findings</h2>",
        _table(own),
        "<h2>Response times</h2>",
        *(_figure(found) for found in findings if _is_drawn(found)),
        "<h2>Controls</h2>",
        _table(controls),
        "<h2>How to read it</h2>",
        "".join(f"<p>{line}</p>" for line in READING),
        "<h2>All numbers</h2>",
        f"<details><summary>JSON</summary><pre>{_json(record)}</pre></details>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>safekv audit</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _json(record: Mapping[str, Any]) -> str:
    return escape(json.dumps(record, indent=1))


def _table(findings: Iterable[Finding]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        f'<tr class="{found.verdict.value}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(found))
        + "</tr>"
        for found in findings
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def verdict_of(found: Finding) -> str:
    """The cell's verdict; of a control, whether it was seen."""
    if found.scope in CONTROL_SCOPES:
        return "seen" if found.verdict is Verdict.LEAK else "not seen"
    return found.verdict.value


def _cells(found: Finding) -> list[str]:
    size = found.effect
    ci, rates = size.auc_ci, size.tpr_at_fpr
    return [
        *(found.scope.value, found.content.value, found.channel.value, verdict_of(found)),
        f"{size.auc:.2f} [{ci[0]:.2f}, {ci[1]:.2f}]" if ci else "-",
        " / ".join(f"{rate:.2f}" for rate in rates) if rates else "-",
        *(_number(value) for value in (found.p, size.ks_p, size.mw_p)),
        f"{found.minimal_detectable_auc:.2f}",
        str(found.samples),
        found.reason,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _is_drawn(found: Finding) -> bool:
    shown = found.scope is not Scope.NEGATIVE
    return shown and found.channel in (Channel.TTFT, Channel.TOTAL) and found.primed.size > 0


def _figure(found: Finding) -> str:
    name = f"{found.scope.value} · {found.content.value} · {found.channel.value}"
    return (
        f"<figure><figcaption>{escape(name)}: {verdict_of(found)}</figcaption>"
        f"{distributions(found.primed, found.control)}{roc_curve(found.primed, found.control)}"
        "</figure>"
    )
