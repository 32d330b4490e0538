"""All pictures and records as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from safekv.bench.figures import costs, serving
from safekv.bench.figures.style import rendered
from safekv.bench.records import Record, of, where

STYLE: Final = """\
body { margin: 0; background: #fff; color: #1b1f24;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; }
p { max-width: 48rem; } .soft { color: #59636e; font-size: .9rem; }
img { max-width: 100%; height: auto; display: block; margin: .8rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #d5dae0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: its file name, which benchmark it shows, how to draw it, and its caveat."""

    name: str
    benchmark: str
    draw: Callable[[list[Record]], Any | None]
    caption: str


PICTURES: Final = (
    Picture(
        "serve-latency",
        "serve",
        serving.latency,
        "Open-loop load over HTTP; the clock starts when a request was due, not when it was sent."
        " A tenant of its own sent what is common before, in every mode. In isolated, requests"
        " that wait behind others' cold prompts count that wait.",
    ),
    Picture(
        "serve-hits",
        "serve",
        serving.hit_rate,
        "Full blocks of 32 tokens. Which requests come before others' blocks are shared depends on"
        " the load; else this depends on the prompts alone, and not on the model.",
    ),
    Picture(
        "serve-throughput",
        "serve",
        serving.throughput,
        "All requests of a run are sent at once; tokens of prompts and answers, over the time to"
        " the last answer. What isolation costs here is a property of the workload.",
    ),
    Picture(
        "serve-cpu",
        "serve",
        serving.own_cpu,
        "A sampler in the server's process charges each thread's CPU time to the code it is in;"
        " torch's own threads count in the whole. The detector's process is counted as a whole."
        " The gateway (HTTP, JSON) is ours too and needed in every mode.",
    ),
    Picture(
        "serve-detector",
        "serve",
        serving.detector,
        "off clears everything unseen, so beside selective it shows what looking costs. When the"
        " detector is drowned or dead nothing new is shared: slower, and as safe.",
    ),
    Picture(
        "replay",
        "replay",
        costs.replay,
        "Traces through the real warden, no model. How much sharing finds, and how much of it"
        " isolation loses, depends on the trace and on how conversations are told apart.",
    ),
    Picture(
        "engine",
        "engine",
        costs.engine,
        "One model object, two loops, paired turn by turn. Records of one machine whose speed"
        " changes by a factor of up to four between rounds.",
    ),
    Picture(
        "tick",
        "tick",
        costs.tick,
        "The end of an epoch runs in a thread of its own; the tree is locked for part of it.",
    ),
    Picture(
        "gpu",
        "gpu",
        serving.gpu,
        "Random weights: times are those of the architecture, answers mean nothing.",
    ),
)


def pictures(records: list[Record]) -> dict[str, tuple[bytes, bytes]]:
    """SVG and PNG of each picture that the records have data for, by name."""
    found = {}
    for picture in PICTURES:
        figure = picture.draw(records)
        if figure is not None:
            found[picture.name] = rendered(figure)
    return found


def page(records: list[Record], drawn: dict[str, tuple[bytes, bytes]]) -> str:
    """The whole page. Holds no link, no script, and nothing that is loaded from elsewhere."""
    parts = ["<h1>safekv: what was measured</h1>", _lead(records)]
    parts += [
        _section(picture, drawn[picture.name][0], records)
        for picture in PICTURES
        if picture.name in drawn
    ]
    parts += ["<h2>Aims and what was reached</h2>", _bars(records)]
    parts += ["<h2>All records</h2>", _list(records)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>safekv bench</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _lead(records: Sequence[Record]) -> str:
    counted = Counter(record["benchmark"] for record in records)
    names = ", ".join(f"{name} ({n})" for name, n in sorted(counted.items()))
    return f'<p class="soft">{len(records)} stored records: {escape(names)}</p>'


def _section(picture: Picture, svg: bytes, records: list[Record]) -> str:
    used = of(records, picture.benchmark)
    source = f"Latest record: {where(used[-1])}" if used else ""
    data = base64.b64encode(svg).decode()
    return (
        f'<h2 id="{picture.name}">{escape(picture.name)}</h2>\n'
        f'<img alt="{escape(picture.caption)}" src="data:image/svg+xml;base64,{data}">\n'
        f'<p>{escape(picture.caption)}</p>\n<p class="soft">{escape(source)}</p>'
    )


def _bars(records: list[Record]) -> str:
    latest: dict[str, tuple[dict[str, Any], Record]] = {}
    for record in of(records, "serve"):
        if record["model_name"] == serving.TOY:
            continue
        latest.update({bar["bar"]: (bar, record) for bar in record["bars"]})
    if not latest:
        return "<p>No record of bench serve.</p>"
    rows = []
    for name, (bar, record) in latest.items():
        aim = f"at most {bar['most']}" if "most" in bar else f"at least {bar['least']}"
        spread = f" [{bar['low']:.3f}, {bar['high']:.3f}]" if "low" in bar else ""
        cells = (name, aim, f"{bar['value']:.3f}{spread}", bar["verdict"], where(record))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("what", "aim", "measured", "", "record"))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _list(records: Sequence[Record]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(record['benchmark']))}</td>"
        f"<td>{'cut short' if record.get('partial') else ''}</td>"
        f"<td>{escape(where(record))}</td></tr>"
        for record in records
    )
    return (
        '<div class="wide"><table><tr><th>benchmark</th><th></th><th>commit, machine, time</th>'
        f"</tr>{rows}</table></div>"
    )
