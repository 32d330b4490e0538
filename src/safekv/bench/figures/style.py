"""How all pictures look: readable in grey, and the same bytes for the same records."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Look:
    """Told apart by lightness, hatching and mark, so that no colour is needed."""

    label: str
    fill: str
    hatch: str
    mark: str


LOOKS: Final = {
    "stock": Look("stock (transformers' own)", "#ffffff", "", "o"),
    "global": Look("global (unsafe)", "#d9d9d9", "\\\\\\\\", "s"),
    "isolated": Look("isolated", "#8c8c8c", "", "^"),
    "selective": Look("selective (safekv)", "#1f4e79", "", "D"),
    "selective:off": Look("detector off (clears unseen)", "#ffffff", "////", "v"),
    "selective:saturated": Look("detector saturated", "#d9d9d9", "xxxx", "P"),
    "selective:dead": Look("detector dead", "#404040", "", "X"),
}
PLAIN: Final = Look("", "#bfbfbf", "", "o")
INK: Final = "#1b1f24"


def pyplot() -> Any:
    """Matplotlib's pyplot, set up. Raises `ConfigError` when it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "the python package 'matplotlib' is not installed", "pip install 'safekv[bench]'"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "svg.hashsalt": "safekv",
            "svg.fonttype": "path",
            "font.size": 10,
            "font.family": "DejaVu Sans",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
            "hatch.linewidth": 0.6,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )
    return plt


def rendered(figure: Any) -> tuple[bytes, bytes]:
    """The figure as SVG and PNG, without a date. It is closed."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    pyplot().close(figure)
    return svg.getvalue(), png.getvalue()


def grouped_bars(
    axes: Any, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> None:
    """One bar per group and series, in the looks of `LOOKS`. From zero: never on a log axis."""
    for name, _, x, value, width in _places(groups, series):
        look = LOOKS.get(name, PLAIN)
        axes.bar(x, value, width * 0.92, color=look.fill, hatch=look.hatch, edgecolor=INK,
                 linewidth=0.8, label=look.label or name)  # fmt: skip
    axes.set_xticks(range(len(groups)), groups)


def grouped_dots(
    axes: Any,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    tops: Mapping[str, Sequence[float | None]],
) -> None:
    """One mark per group and series, with a whisker up to `tops`; the axis is logarithmic."""
    for name, place, x, value, _ in _places(groups, series):
        look = LOOKS.get(name, PLAIN)
        top = tops[name][place]
        if top is not None and top > value:
            axes.plot([x, x], [value, top], color=INK, linewidth=1.1, zorder=1)
            axes.plot([x], [top], marker="_", color=INK, markersize=7)
        axes.plot([x], [value], marker=look.mark, markersize=8, markerfacecolor=look.fill,
                  markeredgecolor=INK, linestyle="", label=look.label or name)  # fmt: skip
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    log_axis(axes.yaxis, axes.set_yscale)


def _places(
    groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> Iterator[tuple[str, int, float, float, float]]:
    width = 0.8 / max(1, len(series))
    for n, (name, values) in enumerate(series.items()):
        for place, value in zip(range(len(groups)), values, strict=True):
            if value is not None:
                yield name, place, place + (n - (len(series) - 1) / 2) * width, value, width


def log_axis(axis: Any, set_scale: Any, base: int = 10) -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log", base=base)
    subs = (1.0, 2.0, 5.0) if base == 10 else (1.0,)
    axis.set_major_locator(LogLocator(base=base, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def finish(figure: Any, title: str, columns: int = 4) -> Any:
    """Title above, and below one legend in which each label stands once; returns the figure."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    unique: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        unique |= dict(zip(labels, handles, strict=True))
    if unique:
        figure.legend(
            unique.values(), unique.keys(), loc="outside lower left",
            ncols=min(columns, len(unique)), fontsize=9, columnspacing=1.4, handlelength=1.6,
        )  # fmt: skip
    return figure
