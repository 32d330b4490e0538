"""The demo's results as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from safekv.demo.figure import attack_figure, first_turn_figure
from safekv.demo.findings import findings
from safekv.demo.play import Performance
from safekv.demo.report import COLUMNS, row
from safekv.demo.svg import STYLE

PAGE_STYLE: Final = """\
:root { color-scheme: light dark; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p, li { max-width: 46rem; } .lead { color: var(--soft); margin-top: 0; }
ul.findings { list-style: none; padding: 0; }
ul.findings li { padding: .25rem 0 .25rem 1.7rem; position: relative; }
ul.findings li::before { content: "✓"; position: absolute; left: .2rem; font-weight: 700; }
ul.findings li.not::before { content: "✗"; } ul.findings li.not { font-weight: 650; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .93rem; width: 100%; }
th, td { padding: .42rem .55rem; text-align: right; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:first-child { font-weight: 650; } td { white-space: nowrap; }
.facts td { white-space: normal; font-weight: 400; }
.facts th, .facts td { text-align: left; font-weight: 400; } .facts th { width: 9rem; }
svg { max-width: 100%; height: auto; display: block; margin: 1.4rem 0; }
pre { overflow-x: auto; font-size: .78rem; background: var(--panel); padding: .8rem; }
"""

STORY: Final = (
    "<b>Honest tenants</b> talk to a shop's support assistant. All their requests begin with the"
    " same long system prompt; none of them holds a secret.",
    "<b>A victim</b> sends form letters in which a made-up card number, or a made-up project name,"
    " is filled in. Everybody knows the form.",
    "<b>An attacker</b>, a tenant with a key of its own, sends the same letters with guesses filled"
    " in and looks at nothing but the time to the first token.",
)

READING: Final = (
    "<b>Hit rate</b>: prompt tokens of honest tenants found in the cache, of all they sent,"
    " follow-ups included.",
    "<b>Median first-turn TTFT</b>: over the first requests of all honest tenants. The very first"
    " one is cold in every mode and is counted; with this many tenants it does not move the median."
    " <b>p95 TTFT</b> is over all their requests, so with so few it is close to the slowest.",
    "<b>AUC</b>: the chance that a letter nobody sent took longer than one the victim sent. 0.5 is"
    " a coin toss, 1.0 is certainty. In brackets a 95 % bootstrap interval; where the two groups"
    " do not overlap at all it shrinks to a point, which is no proof for larger samples.",
    "As a control, the attacker must be able to tell its own repeated prompts (hits) from its own"
    " new ones (misses) in every mode; otherwise the machine was too busy to see anything.",
    "<b>Secret recovered</b>: whether the attacker named the victim's card number out of the"
    " candidates. It drew its line between hit and miss from its own traffic, asked each candidate"
    " once, and confirmed a claim with words further behind the guess and with a control letter."
    " The known digits, the form and the list of candidates are given to it.",
)

LIMITS: Final = (
    "Everything here was measured in one run on one machine, one request at a time;"
    " load would hide part of the signal, a larger model would make it stronger. The secrets are of"
    " the kind the first detection stage knows. A secret that no rule knows is not protected by"
    " <code>selective</code>, only by <code>isolated</code>."
)


def page(performance: Performance) -> str:
    """The whole page. Holds no link, no script, and nothing that is loaded from elsewhere."""
    results = performance.results
    parts = [
        "<h1>What sharing a prefix cache saves, and what it leaks</h1>",
        f'<p class="lead">{_lead(performance.environment)}</p>',
        _findings(performance),
        _table(COLUMNS, [row(result) for result in results.values()]),
        "<h2>The story</h2>",
        _list(STORY),
        attack_figure(results).render(standalone=False),
        first_turn_figure(results).render(standalone=False),
        "<h2>How to read it</h2>",
        _list(READING),
        f"<p>{LIMITS}</p>",
        "<h2>Where it was measured</h2>",
        _facts(performance.environment),
        "<h2>All numbers</h2>",
        f"<details><summary>JSON</summary><pre>{_numbers(performance)}</pre></details>",
    ]
    return _document("\n".join(parts))


def _document(body: str) -> str:
    # The theme's variables sit on elements of class skv; the page's body is one of them.
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>safekv demo</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n"
        f'<body class="skv">\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _lead(environment: Mapping[str, object]) -> str:
    facts = (environment.get(name) for name in ("model", "cpu", "cores", "utc"))
    model, cpu, cores, utc = (escape(str(fact)) for fact in facts)
    return f"safekv demo · {model} · {cpu}, {cores} cores · {utc}"


def _findings(performance: Performance) -> str:
    items = "".join(
        f'<li class="{"yes" if found.expected else "not"}">{escape(found.sentence)}</li>'
        for found in findings(performance.results)
    )
    return f'<ul class="findings">{items}</ul>'


def _list(items: Iterable[str]) -> str:
    """A list of trusted HTML."""
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _facts(environment: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(_plain(value))}</td></tr>"
        for name, value in environment.items()
    )
    return f'<div class="wide"><table class="facts">{rows}</table></div>'


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "unknown" if value is None else str(value)


def _numbers(performance: Performance) -> str:
    return escape(json.dumps(performance.to_json(), indent=1))
