"""The pictures' common style: light, colour-blind-safe (Okabe and Ito), units on every axis."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.harness.reporting.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

MARKERS = {BLUE: "o", VERMILION: "s", ORANGE: "^", GREEN: "D", PURPLE: "v", SKY: "P", GREY: "X"}

# From this ratio of the largest to the smallest, bars give way to points on a logarithmic axis.
LOG_FROM = 30.0

_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.labelcolor": "#222222",
    "text.color": "#222222",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The common style while a figure is made."""
    with matplotlib.rc_context(_STYLE):
        yield


def panels(
    columns: int = 1, rows: int = 1, *, size: tuple[float, float] = (5.2, 3.8), **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` × ``columns`` axes, each of ``size`` inches; axes row by row."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.flat)


def band(
    axes: Axes,
    x: Sequence[float],
    centre: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    color: str,
    label: str,
    **line: Any,
) -> None:
    """A line with markers and a shaded band from ``low`` to ``high``."""
    axes.plot(x, centre, color=color, label=label, marker=MARKERS.get(color, "o"), **line)
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def plain_log_ticks(axis: Any) -> None:
    """Labels 1, 10, 100, 1,000 on a logarithmic axis, with 2 and 5 between them if it is short."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if high / low < 60 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def wide(values: Sequence[float]) -> bool:
    """Whether bars from zero would hide the smallest value beside the largest."""
    return bool(values) and max(values) > LOG_FROM * min(values) > 0


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    *,
    colors: Sequence[str],
    texts: Sequence[str],
    unit: str,
    log: bool | None = None,
) -> None:
    """Values from top to bottom, each written beside its end.

    Bars from zero, or with ``log`` points on a logarithmic axis (a bar has no base there), which
    the axis label then says; by default as :func:`wide` finds the values.
    """
    axes.grid(axis="y", visible=False)
    if not names:
        axes.set_xlabel(unit)
        return
    places = list(range(len(names)))[::-1]
    log = wide(values) if log is None else log
    if log:
        axes.set_xscale("log")
        axes.hlines(places, min(values) / 2, values, colors=colors, linewidth=1.5, linestyles=":")
        axes.scatter(values, places, color=colors, s=90, zorder=3)
    else:
        axes.barh(places, values, color=colors, height=0.62)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(
            text,
            (value, place),
            xytext=(9 if log else 5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"{unit}, log scale" if log else unit)
    if log:
        axes.set_xlim(min(values) / 2, max(values) * (2 * max(values) / min(values)) ** 0.45)
        plain_log_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, max(values) * 1.3)


def render(figure: Figure, *, stand_in: str | None = None) -> bytes:
    """The figure as PNG; data that are not the real ones are named on the picture itself."""
    if stand_in:
        figure.supxlabel(f"Not the real data: {stand_in}", fontsize=9, color=VERMILION)
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
