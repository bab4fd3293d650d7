"""Tables and pictures of ``molecules``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import ORANGE, SKY, VERMILION
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers import requirements
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2, Contestant

Data = Mapping[str, Any]
TOLERANCE = 1e-9
LIMITS = (3, 2.3)
"""How many times as long an epoch must take with PyG's GATv2Conv and GATConv."""
TIMED = (OURS, PYG_GATV2, GAT)
KINDS = {"epoch": "training epoch", "attention": "attention alone"}


@dataclass(frozen=True)
class Variant:
    """A layer with or without bond features, as the table of errors names it."""

    key: str
    label: str
    color: str
    contestant: Contestant
    edges: bool


VARIANTS = (
    Variant("gatv2-edges", "GATv2, bond features", OURS.color, OURS, True),
    Variant("gatv2", "GATv2, atoms alone", SKY, OURS, False),
    Variant("gat-edges", "GAT, bond features", ORANGE, GAT, True),
    Variant("gat", "GAT, atoms alone", VERMILION, GAT, False),
)


def _errors(data: Data) -> dict[str, list[float]]:
    """Test errors by variant, one a seed."""
    return {
        entry["model"]: [unit["test"] for unit in entry["seeds"]]
        for entry in data["training"]
        if entry["seeds"]
    }


def _mean(values: Sequence[float]) -> str:
    """A mean with the half of its 95 % interval."""
    found = quantities.interval(values)
    text = f"{quantities.mean(values):.3f}"
    return text if found is None else f"{text} ± {(found[1] - found[0]) / 2:.3f}"


def _less(first: Sequence[float], second: Sequence[float]) -> str:
    """By how much the second errs more, split by split."""
    pairs = [b - a for a, b in zip(first, second, strict=True)]
    text = f"{quantities.mean(pairs):+.3f}"
    found = quantities.interval(pairs)
    if found is None:
        return text
    seen = "" if found[0] > 0 or found[1] < 0 else ", no difference seen"
    return f"{text} (95 % interval {found[0]:+.3f} to {found[1]:+.3f}{seen})"


def _accuracy(errors: Mapping[str, list[float]]) -> Table:
    best = VARIANTS[0]
    rows = [
        [
            variant.label,
            _mean(errors[variant.key]),
            "" if variant is best else _less(errors[best.key], errors[variant.key]),
        ]
        for variant in VARIANTS
    ]
    return Table(
        "Test RMSE (log mol/L)",
        ["", "RMSE", f"less that of {best.label}"],
        rows,
        note=f"Mean over {quantities.count(len(errors[best.key]), 'random split')} and the half of "
        "its 95 % interval; differences split by split.",
        highlight=best.label,
    )


def _seconds(data: Data) -> dict[str, dict[str, float]]:
    return {
        what: {key: quantities.median(times) for key, times in data["seconds"][what].items()}
        for what in KINDS
    }


def _clock(data: Data, settings: Data) -> Table:
    seconds = _seconds(data)
    rows = []
    for contestant in TIMED:
        row = [contestant.label]
        for what in KINDS:
            taken, ours = (seconds[what].get(c.key) for c in (contestant, OURS))
            if taken is None:
                row += ["disagrees, not timed", "–"]
            else:
                row += [quantities.duration(taken), quantities.ratio(taken / ours) if ours else "–"]
        rows.append(row)
    graph = data["graph"]
    return Table(
        f"ESOL: {graph['molecules']:,} molecules, {graph['atoms'] / graph['molecules']:.1f} atoms "
        f"and {graph['edges'] / graph['atoms']:.2f} edges an atom",
        ["layer, 3 bond features", "training epoch", "to ours", "attention alone", "to ours"],
        rows,
        note=f"Medians of {quantities.count(settings['timed epochs'], 'epoch')} in batches of "
        f"{settings['batch']}, the layers in turn, the graph new in each step; collating the "
        "batches is not in it. With PyG's weights outputs and gradients differ from its by at most "
        f"{data['agreement_float64']:.0e} in float64.",
        highlight=OURS.label,
    )


def _headline(data: Data, errors: Mapping[str, list[float]]) -> str:
    parts = []
    if errors:
        with_bonds, without, gat = (errors[key] for key in ("gatv2-edges", "gatv2", "gat-edges"))
        parts.append(
            f"ESOL, {quantities.count(len(with_bonds), 'split')}: RMSE {_mean(with_bonds)} log "
            f"mol/L with GATv2 and bond features, {_mean(without)} without them, {_mean(gat)} with "
            "GAT and bond features."
        )
    seconds = _seconds(data)["epoch"]
    if OURS.key in seconds:
        peers = (
            f"{name} {quantities.ratio(seconds[c.key] / seconds[OURS.key])} as long"
            for c, name in ((PYG_GATV2, "PyG's GATv2Conv"), (GAT, "GATConv"))
        )
        taken = quantities.duration(seconds[OURS.key])
        parts.append(f"A training epoch takes {taken}; {', '.join(peers)}.")
    return " ".join(parts) or "This layer disagrees with PyG's and was not timed."


def _picture(data: Data, errors: Mapping[str, list[float]]) -> Picture:
    seconds = _seconds(data)
    with plots.style():
        figure, axes = plots.panels(2 + bool(errors), size=(4.9, 2.7))
        if errors:
            _draw_errors(axes[0], errors)
        for panel, (what, title) in zip(axes[-2:], KINDS.items(), strict=True):
            shown = [c for c in TIMED if c.key in seconds[what]]
            plots.bars(
                panel,
                [c.label for c in shown],
                [1e3 * seconds[what][c.key] for c in shown],
                colors=[c.color for c in shown],
                texts=[quantities.duration(seconds[what][c.key]) for c in shown],
                unit="time (ms)",
            )
            panel.set_title(title[0].upper() + title[1:])
    trained = "test RMSE of each split (dots), mean and its 95 % interval; " if errors else ""
    return Picture(
        figure,
        f"ESOL: {trained}median time of a training epoch with bond features, and of its attention "
        "alone.",
        "Errors on ESOL of GATv2 and GAT, and the time of an epoch of each layer",
    )


def _draw_errors(axes: Any, errors: Mapping[str, list[float]]) -> None:
    places = range(len(VARIANTS))[::-1]
    for place, variant in zip(places, VARIANTS, strict=True):
        values = errors[variant.key]
        heights = [place + 0.1 + 0.05 * (i % 5) for i in range(len(values))]
        axes.plot(values, heights, "o", color=variant.color, markersize=4, alpha=0.55)
        mean = quantities.mean(values)
        low, high = quantities.interval(values) or (mean, mean)
        reach = [[mean - low], [high - mean]]
        axes.errorbar(mean, place, xerr=reach, fmt="D", color=variant.color, capsize=4, ms=7)
    axes.set_yticks(places, [variant.label for variant in VARIANTS])
    axes.set_ylim(-0.5, len(VARIANTS) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("test RMSE (log mol/L)")
    axes.set_title("Error")


def result(data: Data, settings: dict[str, Any]) -> Result:
    """The result of ``molecules`` from its raw data."""
    errors = _errors(data)
    ratios = requirements.over_ours(_seconds(data)["epoch"])
    found = list(requirements.over_peers("training epoch", "ESOL", LIMITS, ratios))
    return Result(
        title="Molecules: solubility with and without bond features",
        headline=_headline(data, errors),
        settings=settings,
        tables=[
            *([_accuracy(errors)] if errors else []),
            _clock(data, settings),
            requirements.table(found, "Ratios of the medians."),
        ],
        pictures=[_picture(data, errors)],
        data=dict(data),
        notes=["GAT is PyG's GATConv."],
        verdict=f"{requirements.summary(found).capitalize()}.",
    )
