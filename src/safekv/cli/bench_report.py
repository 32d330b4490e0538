"""`safekv bench report`: pictures of stored records, and a page of them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from safekv.cli.measuring import steps


@click.command()
@click.option(
    "--records",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("docs/records"),
    show_default=True,
    help="A folder or file of records.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("safekv-bench.html"),
    show_default=True,
    help="The page.",
)
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Write SVG and PNG files here as well."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def report(folder: Path, out: Path, figures: Path | None, as_json: bool) -> None:
    """Draw what stored records hold, as one HTML page that needs nothing else.

    Exit status: 0 written, 2 records that cannot be read, or Matplotlib is missing.
    """
    from safekv.bench.figures.page import page, pictures
    from safekv.bench.records import read

    records = read(folder)
    with steps("safekv bench report"):
        drawn = pictures(records)
        html = page(records, drawn)
    out.write_text(html, encoding="utf-8")
    written = [str(out)]
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        for name, (svg, png) in drawn.items():
            for suffix, data in ((".svg", svg), (".png", png)):
                path = figures / f"{name}{suffix}"
                path.write_bytes(data)
                written.append(str(path))
    if as_json:
        click.echo(json.dumps({"records": len(records), "written": written}))
    else:
        click.echo("\n".join(written))
