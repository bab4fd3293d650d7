"""The pictures of the attention study: heat maps, measures of all heads, one neighbourhood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from torch import Tensor

from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from benchmarks.harness.reporting.result import Picture
from benchmarks.layers.contestants import Contestant

CLASS_COLORS = (SKY, ORANGE, GREEN, GREY, VERMILION, PURPLE, BLUE)

# White to dark: light is little attention, and black text stays readable below one half.
WEIGHTS = LinearSegmentedColormap.from_list(
    "weights", colormaps["Blues"]([0.0, 0.15, 0.4, 0.65, 0.85, 1.0])
)
# Less than uniform attention, uniform, more.
RELATIVE = LinearSegmentedColormap.from_list("relative", [ORANGE, "#B4B4B4", BLUE])
SMALLEST_RANGE = 0.2
# Where all heads are above, the axis starts near the lowest.
CUT_FROM = 0.8

Case = tuple[str, Mapping[Contestant, Sequence[Mapping[str, Any]]]]


def heat_maps(matrices: Mapping[Contestant, Tensor]) -> Picture:
    """Attention [queries, keys] of each contestant side by side, as in the paper's Figure 1."""
    with plots.style():
        figure, panels = plots.panels(len(matrices), size=(5.4, 5.2))
        for axes, (contestant, matrix) in zip(panels, matrices.items(), strict=True):
            image = _heat_map(axes, matrix)
            axes.set_title(f"{contestant.label}\n{_preferred(matrix)}", fontsize=11)
        figure.colorbar(image, ax=panels, label="attention weight α", shrink=0.8)
    names = " and ".join(contestant.label for contestant in matrices)
    return Picture(
        figure,
        f"Attention of {names}, one head, trained on DictionaryLookup, on one test graph (seed 0); "
        "rows sum to 1. The frame marks the key that a query attends to most. Compare Figure 1 of "
        "Brody et al. (2022).",
        f"Heat maps of the attention of ten queries to ten keys, {names}",
    )


def _heat_map(axes: Axes, matrix: Tensor) -> Any:
    queries, keys = matrix.shape
    image = axes.imshow(matrix.numpy(), cmap=WEIGHTS, vmin=0, vmax=1)
    axes.set_xticks(range(keys), [f"k{key}" for key in range(keys)])
    axes.set_yticks(range(queries), [f"q{query}" for query in range(queries)])
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.grid(visible=False)
    for query in range(queries):
        best = int(matrix[query].argmax())
        frame = Rectangle((best - 0.5, query - 0.5), 1, 1, fill=False, edgecolor=VERMILION, lw=2)
        axes.add_patch(frame)
        for key in range(keys if max(queries, keys) <= 12 else 0):
            value = float(matrix[query, key])
            if value >= 0.005:
                color = "white" if value > 0.5 else BLACK
                text = f"{value:.2f}".removeprefix("0")
                axes.text(key, query, text, ha="center", va="center", fontsize=8, color=color)
    return image


def _preferred(matrix: Tensor) -> str:
    count = matrix.argmax(dim=1).unique().numel()
    if count == 1:
        return "all queries prefer one key"
    return f"{matrix.size(0)} queries prefer {count} different keys"


def heads(cases: Sequence[Case], seeds: int) -> Picture:
    """Rank agreement and normalised entropy of every head, by layer and contestant.

    Cases whose names begin alike share a row.
    """
    measures = (
        ("tau", "Kendall τ between queries", "1: the same ranking for every query"),
        ("normalized_entropy", "entropy / ln(keys)", "0: one key, 1: uniform"),
    )
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case[0].split(", ")[0], []).append(case)
    with plots.style():
        figure, panels = plots.panels(2, len(groups), size=(5.4, 0.9 + 1.7 * len(cases) / 4))
        for row, group in enumerate(groups.values()):
            for column, (measure, label, hint) in enumerate(measures):
                axes = panels[2 * row + column]
                _measure(axes, group, measure)
                axes.set_xlabel(f"{label}\n({hint})" if row == len(groups) - 1 else label)
                axes.tick_params(labelleft=column == 0)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2)
    count = f"{seeds} seeds" if seeds > 1 else "seed 0"
    return Picture(
        figure,
        f"Every dot is one head of a trained layer ({count}); the bar is their mean. Left: how "
        "alike two queries rank the keys they share; right: how evenly a query spreads its "
        "attention. Axes without a 0 are cut.",
        "Dots for the rank agreement and the entropy of each head of GAT and GATv2",
        suffix="heads",
    )


def _measure(axes: Axes, cases: Sequence[Case], measure: str) -> None:
    """A measure of all heads of the cases, one below the other; a cut axis where all are high."""
    every = []
    for place, (_, by_contestant) in enumerate(cases):
        for index, (contestant, layers) in enumerate(by_contestant.items()):
            centre = place + 0.36 * (index - (len(by_contestant) - 1) / 2)
            values = [value for layer in layers for value in layer[measure]]
            _strip(axes, values, centre, contestant, label=place == 0)
            every += values
    low = min(every) if min(every) > CUT_FROM else min(0.0, *every)
    pad = 0.06 * (1 - low) or 0.06
    axes.set_xlim(low - pad, 1 + pad)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_yticks(range(len(cases)), [name.replace(", ", "\n") for name, _ in cases])
    axes.grid(axis="y", visible=False)


def _strip(
    axes: Axes, values: Sequence[float], centre: float, contestant: Contestant, *, label: bool
) -> None:
    """Dots spread evenly over a thin band in the order of their values, and their mean."""
    count = len(values)
    offsets = [0.2 * ((7 * i) % count / max(count - 1, 1) - 0.5) for i in range(count)]
    axes.plot(
        sorted(values),
        [centre + (offset if count > 1 else 0) for offset in offsets],
        linestyle="none",
        marker=plots.MARKERS[contestant.color],
        markersize=5,
        alpha=0.65,
        markeredgewidth=0,
        color=contestant.color,
        label=contestant.label if label else None,
    )
    mean = quantities.mean(values)
    axes.plot([mean, mean], [centre - 0.16, centre + 0.16], color=contestant.color, linewidth=2.5)


def neighbourhood(
    paper: int,
    classes: Sequence[int],
    topics: Sequence[str] | None,
    links: Sequence[tuple[int, int]],
    attention: Mapping[Contestant, Sequence[Mapping[str, Any]]],
) -> Picture:
    """A paper, its neighbours and the attention between them: contestants by layers.

    Args:
        paper: number of the paper.
        classes: of all papers.
        topics: names of the classes (numbered if None).
        links: between neighbours.
        attention: for each layer `from` (papers) and `mean_alpha` (over heads).
    """
    relative = _to_uniform(attention)
    largest = max(
        abs(r - 1) for layer in relative for found in layer.values() for r in found.values()
    )
    reach = max(SMALLEST_RANGE, math.ceil(10 * largest) / 10)
    scale = Normalize(1 - reach, 1 + reach)
    neighbours = sorted({j for rows in attention.values() for row in rows for j in row["from"]})
    neighbours = sorted((j for j in neighbours if j != paper), key=lambda j: (classes[j], j))
    place = _circle(neighbours)

    with plots.style():
        figure, panels = plots.panels(len(attention), len(relative), size=(5.0, 4.9))
        for row, by_contestant in enumerate(relative):
            for column, (contestant, weights) in enumerate(by_contestant.items()):
                axes = panels[row * len(attention) + column]
                axes.set_title(f"{contestant.label}, layer {row + 1}", fontsize=11)
                _draw_neighbourhood(axes, paper, classes, links, place, weights, scale)
        figure.colorbar(
            ScalarMappable(scale, RELATIVE),
            ax=panels,
            label="attention weight, relative to uniform attention",
            shrink=0.6,
            aspect=30,
            extend="max" if reach > 1 else "neither",
        )
        present = sorted({classes[j] for j in (paper, *neighbours)})
        marks = [
            Line2D([], [], marker="o", ls="none", ms=9, color=_color(c), label=_name(c, topics))
            for c in present
        ]
        columns = min(4, len(marks))
        figure.legend(
            handles=marks, loc="outside lower center", ncols=columns, title="topic of the paper"
        )
    return Picture(
        figure,
        f"Paper {paper} of Cora (centre) and the papers it is linked to, with the attention it "
        "pays to each and, inside it, to itself (the self-loop): layer 1 as the mean over its 8 "
        "heads, layer 2 with its one head; seed 0. Arrows run from the paper attended to, as "
        "messages do. Colour and width of an arrow, and the number, are its weight divided by that "
        "of uniform attention, one over the number of keys"
        f"{'; thin grey lines are links between the neighbours' if links else ''}. The paper was "
        "chosen by the graph alone: of the test papers with 8 to 12 neighbours, the first of those "
        "whose neighbours have the most topics.",
        "The neighbourhood of one paper with attention weights as arrows, GAT and GATv2",
        suffix="paper",
    )


def _to_uniform(
    attention: Mapping[Contestant, Sequence[Mapping[str, Any]]],
) -> list[dict[Contestant, dict[int, float]]]:
    """Of each layer and contestant, the weights by paper, divided by uniform attention."""
    return [
        {
            c: {
                j: a * len(row["from"]) for j, a in zip(row["from"], row["mean_alpha"], strict=True)
            }
            for c, row in zip(attention, rows, strict=True)
        }
        for rows in zip(*attention.values(), strict=True)
    ]


def _draw_neighbourhood(
    axes: Axes,
    paper: int,
    classes: Sequence[int],
    links: Sequence[tuple[int, int]],
    place: Mapping[int, tuple[float, float]],
    weights: Mapping[int, float],
    scale: Normalize,
) -> None:
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.35, 1.35)
    axes.set_ylim(-1.3, 1.3)
    for a, b in links:
        axes.plot(*zip(place[a], place[b], strict=True), color="#BBBBBB", linewidth=0.8, zorder=1)
    for node, (x, y) in place.items():
        weight = weights[node]
        arrow = FancyArrowPatch(
            (x, y),
            (0, 0),
            arrowstyle="-|>",
            mutation_scale=8 + 6 * weight,
            shrinkA=11,
            shrinkB=19,
            color=RELATIVE(scale(weight)),
            linewidth=3 * weight,
            zorder=2,
        )
        axes.add_patch(arrow)
        axes.add_patch(Circle((x, y), 0.09, facecolor=_color(classes[node]), zorder=3))
        axes.text(1.24 * x, 1.2 * y, f"{weight:.2f}", ha="center", va="center", fontsize=10)
    middle = Circle(
        (0, 0), 0.16, facecolor=_color(classes[paper]), edgecolor=BLACK, lw=1.5, zorder=3
    )
    axes.add_patch(middle)
    if paper in weights:
        axes.text(0, 0, f"{weights[paper]:.2f}", ha="center", va="center", fontsize=10, zorder=4)


def _circle(nodes: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Places on the unit circle, from the top, clockwise."""
    step = 2 * math.pi / max(len(nodes), 1)
    return {node: (math.sin(i * step), math.cos(i * step)) for i, node in enumerate(nodes)}


def _color(label: int) -> str:
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def _name(label: int, topics: Sequence[str] | None) -> str:
    return f"class {label}" if topics is None else topics[label]
