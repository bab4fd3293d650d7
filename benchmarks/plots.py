"""The pictures' common style: light, colour-blind-safe (Okabe and Ito), units on every axis."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

MARKERS = {BLUE: "o", VERMILION: "s", ORANGE: "^", GREEN: "D", PURPLE: "v", SKY: "P", GREY: "X"}

_STYLE: dict[str, Any] = {
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


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    *,
    colors: Sequence[str],
    texts: Sequence[str],
    errors: Sequence[float] | None = None,
    unit: str,
) -> None:
    """Horizontal bars from top to bottom, each with its value written at its end."""
    axes.set_xlabel(unit)
    if not names:
        return
    places = list(range(len(names)))[::-1]
    axes.barh(places, values, color=colors, height=0.62, xerr=errors, ecolor="#333333", capsize=3)
    axes.set_yticks(places, names)
    axes.grid(axis="y", visible=False)
    tips = [
        value + error for value, error in zip(values, errors or [0.0] * len(values), strict=True)
    ]
    for place, tip, text in zip(places, tips, texts, strict=True):
        axes.annotate(
            text, (tip, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10
        )
    if axes.get_xscale() == "log":
        axes.set_xlim(min(values) / 2.5, max(tips) * 6)
    else:
        axes.set_xlim(0, max(tips) * 1.28)


def render(figure: Figure, *, stand_in: str | None = None) -> bytes:
    """The figure as PNG; data that are not the real ones are named on the picture itself."""
    if stand_in:
        figure.supxlabel(f"Not the real data: {stand_in}", fontsize=9, color=VERMILION)
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
