"""A report's files: JSON as promised, details, Markdown, the heat map, and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from safekv.audit.stolen.figure import STYLE, heat_map
from safekv.audit.stolen.findings import Finding, findings

Record = Mapping[str, Any]

PAGE_STYLE: Final = """\
:root { color-scheme: light dark; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.6rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead, .soft { color: var(--soft); } ul.findings { list-style: none; padding: 0; }
ul.findings li { padding: .2rem 0 .2rem 1.6rem; position: relative; }
ul.findings li::before { content: "✓"; position: absolute; left: 0; font-weight: 700; }
ul.findings li.not::before { content: "✗"; } ul.findings li.not { font-weight: 650; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { padding: .34rem .5rem; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; } td.text { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; display: block; }
"""

HEADINGS: Final = (
    *("attack", "protection", "layer", "dtype", "tokens [95 %]", "ROUGE-L", "PII"),
    *("random", "wrong key", "tokens/s"),
)

READING: Final = (
    "Tokens: the share of the victim's own tokens that came back at their place (for injection: in "
    "their order). In brackets a 95 % interval over prompts. Random: the same attack on random "
    "numbers with the cache's own moments. Wrong key: attacks that solve for secrets use those of "
    "another instance; for the others, what was read of one victim is scored against another. "
    "Deeper layers are attacked on the first tokens of each prompt only. For swap, the share of "
    "foreign tokens that the defence accepts. A dot: there is nothing to solve for."
)


def write(out: Path, records: Sequence[Record], environment: Mapping[str, object]) -> list[Finding]:
    """Write all files to the directory `out` and return what the report shows.

    `report.json` has the promised keys and no others; `details.json` has intervals, similarities
    and recovered texts beside them. All texts are of the attacked prompts.
    """
    rows = [record["row"] for record in records]
    found = findings(rows)
    told = {"rows": rows, "environment": dict(environment)}
    _write(out / "report.json", json.dumps(told, indent=1) + "\n")
    details = [
        {**record["row"], **record["details"], "texts": record["texts"]} for record in records
    ]
    _write(out / "details.json", json.dumps(details, indent=1, ensure_ascii=False) + "\n")
    _write(out / "report.md", markdown(rows, found, environment))
    _write(out / "heatmap.svg", heat_map(rows, standalone=True))
    _write(out / "report.html", page(records, found, environment))
    return found


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def markdown(
    rows: Sequence[Record], found: Sequence[Finding], environment: Mapping[str, object]
) -> str:
    """The findings and the table as Markdown."""
    lines = ["# What a stolen KV cache gives away", "", _where(environment), ""]
    lines += [
        f"- {'yes' if one.holds else '**no**'}: {one.sentence} ({one.evidence})." for one in found
    ]
    lines += ["", READING, "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _where(environment: Mapping[str, object]) -> str:
    named = (environment.get(name) for name in ("model", "cpu", "cores", "load_average", "utc"))
    model, cpu, cores, load, utc = (str(one) for one in named)
    return f"{model} · {cpu}, {cores} cores, load {load} · {utc}"


def _cells(row: Record) -> list[str]:
    low, high = row["token_recovery_ci"]
    pii = row["pii_recovered"]
    return [
        *(row[name] for name in ("attack", "protection", "layer", "dtype")),
        f"{row['token_recovery']:.3f} [{low:.3f}, {high:.3f}]",
        f"{row['rouge_l']:.3f}",
        "-" if pii is None else f"{pii:.3f}",
        f"{row['random_baseline']:.3f}",
        f"{row['wrong_key_control']:.3f}",
        f"{row['tokens_per_s']:.1f}",
    ]


def page(
    records: Sequence[Record], found: Sequence[Finding], environment: Mapping[str, object]
) -> str:
    """The whole page. Holds no link, no script, and nothing that is loaded from elsewhere."""
    rows = [record["row"] for record in records]
    items = "".join(
        f'<li class="{"yes" if one.holds else "not"}">{escape(one.sentence)}'
        f' <span class="soft">({escape(one.evidence)})</span></li>'
        for one in found
    )
    body = "\n".join(
        (
            "<h1>What a stolen KV cache gives away</h1>",
            f'<p class="lead">{escape(_where(environment))}</p>',
            f'<ul class="findings">{items}</ul>',
            f'<div class="wide">{heat_map(rows)}</div>',
            "<h2>What was read</h2>",
            _texts(records),
            "<h2>How to read it</h2>",
            f"<p>{escape(READING)}</p>",
            "<h2>All numbers</h2>",
            _table(HEADINGS, [_cells(row) for row in rows]),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>safekv attack report</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n"
        f'<body class="skv">\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _texts(records: Sequence[Record]) -> str:
    """The first victim's prompt beside what each attack read, first layer and first dtype."""
    shown = [
        record
        for record in records
        if record["texts"]
        and record["row"]["layer"] in ("first", "all")
        and record["row"]["dtype"] == records[0]["row"]["dtype"]
    ]
    if not shown:
        return "<p>No text was recovered.</p>"
    lines = [["the prompt itself", "", shown[0]["texts"][0][0]]]
    lines += [
        [record["row"]["protection"], record["row"]["attack"], record["texts"][0][1]]
        for record in sorted(shown, key=lambda one: str(one["row"]["protection"]))
    ]
    return _table(("protection", "attack", "text"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in cells) + "</tr>"
        for cells in lines
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
