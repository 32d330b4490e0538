"""Packages that offer detector stages, laid out on disk as an installer leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def lay_out_package(folder: Path, distribution: str, module: str, points: Mapping[str, str]) -> str:
    """The directory to put on the path: `module` as code, `points` as its entry points."""
    site = folder / distribution
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{distribution}.py").write_text(module)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[safekv.detectors]", *lines, ""]))
    return str(site)
