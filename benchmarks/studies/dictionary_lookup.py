"""DictionaryLookup: the task only dynamic attention can solve (Brody et al., 2022, section 4.1).

A complete bipartite graph of k keys and k queries; every key node carries a key and a value,
every query node its key, and each query asks for its value. One attention layer of 128 channels
in all heads together, trained on 80 % of the permutations and tested on the rest: gatv2_pyg's
GATv2Conv, the original GAT (the function of PyG's GATConv, on the kernels here) and dot-product
attention (PyG's TransformerConv), drawn beside the values the paper reports. Uses one CPU thread
unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.harness import options, quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import BLACK, GREY
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import DOT_PRODUCT, FUSED_GAT, FUSED_GAT_NOTE, OURS, Contestant
from benchmarks.studies.lookup_task import (
    BATCH_SIZE,
    RECIPE,
    RECIPE_TEXT,
    TRAIN_SHARE,
    LookupModel,
    LookupTask,
)
from benchmarks.studies.training import fit

CONTESTANTS = (OURS, FUSED_GAT, DOT_PRODUCT)
ALL_SIZES = tuple(range(4, 21))
# A training ends after so many evaluations in a row without a wrong answer on training graphs.
SOLVED_EVALUATIONS = 3
PARTS = ("train", "test")
# Share of right answers from which the task counts as solved.
SOLVED = 0.99

# Accuracies the paper reports for one head (its figure 3), by contestant and part.
PAPER: dict[tuple[str, str], dict[int, float]] = {
    (OURS.key, "train"): dict.fromkeys(ALL_SIZES, 1.0),
    (OURS.key, "test"): dict.fromkeys(ALL_SIZES, 1.0),
    (FUSED_GAT.key, "train"): {4: 0.85, 20: 0.11},
}
PAPER_TEXT = (
    "Paper (Brody et al., 2022): GATv2 with one head reaches 100 % on train and test for every k; "
    "GAT with one head falls from about 85 % (k = 4) to about 11 % (k = 20) on train; GAT with 8 "
    "heads fits train but not test."
)


def _numbers(minimum: int, maximum: int) -> Any:
    def parse(text: str) -> list[int]:
        try:
            chosen = sorted({int(part) for part in text.split(",")})
        except ValueError:
            chosen = [minimum - 1]
        if chosen[0] < minimum or chosen[-1] > maximum:
            raise argparse.ArgumentTypeError(
                f"expected whole numbers from {minimum} to {maximum}, got {text!r}"
            )
        return chosen

    return parse


def _heads(text: str) -> list[int]:
    chosen: list[int] = _numbers(1, 128)(text)
    if any(128 % heads for heads in chosen):
        raise argparse.ArgumentTypeError(f"expected divisors of 128, got {text!r}")
    return chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--k",
        type=_numbers(2, 100),
        metavar="K,K,...",
        help="numbers of keys (default: 4 ... 20, quick 4,10)",
    )
    parser.add_argument(
        "--heads",
        type=_heads,
        metavar="H,H,...",
        help="numbers of heads, 128 / H channels each (default: 1,8, quick 1)",
    )
    parser.add_argument(
        "--graphs",
        type=options.whole(10),
        default=2000,
        metavar="N",
        help="graphs, 80 %% of them for training (default: 2000; k! if that is less)",
    )
    options.add_training(parser, seeds="3", epochs="60, quick 12, of 50 updates each")
    options.add_common(parser, quick="k 4 and 10, one head, 12 epochs", data=False)


def train(
    contestant: Contestant,
    k: int,
    heads: int,
    seed: int,
    *,
    epochs: int,
    graphs: int,
    device: str,
    backend: str,
) -> dict[str, Any]:
    """One training; ends early when every training query stays answered."""
    torch.manual_seed(seed)
    task = LookupTask(k, graphs=graphs, seed=seed, device=device)
    own = {"root_weight": False} if contestant is DOT_PRODUCT else {"share_weights": True}
    model = LookupModel(contestant, k, heads=heads, backend=backend, **own).to(device)
    solved = 0

    def stop(scores: dict[str, float]) -> bool:
        nonlocal solved
        solved = solved + 1 if scores["train"] == 1.0 else 0
        return solved == SOLVED_EVALUATIONS

    found = fit(
        model,
        task,
        epochs=epochs,
        evaluate_every=max(1, epochs // 30),
        stop=stop,
        **RECIPE,
    )
    scores = found.last if found.last["train"] >= found.best["train"] else found.best
    return {
        "train": scores["train"],
        "test": scores["test"],
        "epochs": len(found.epoch_seconds),
        "epoch_seconds": quantities.median(found.epoch_seconds),
    }


Scores = dict[tuple[int, str, int], list[dict[str, Any]]]


def run(session: Session, args: argparse.Namespace) -> Result:
    if args.threads is None:
        session.use_threads(1)  # Batches are too small to gain from more.
    sizes = session.choose(args.k, full=list(ALL_SIZES), quick=[4, 10])
    heads = session.choose(args.heads, full=[1, 8], quick=[1])
    seeds = session.choose(args.seeds, full=3, quick=3)
    epochs = session.choose(args.epochs, full=60, quick=12)
    backend = resolve_backend(args.backend, session.device)
    store = session.store()
    units = [
        (h, k, seed, c) for h in heads for k in sizes for seed in range(seeds) for c in CONTESTANTS
    ]
    found: Scores = {}
    with session.progress("dictionary-lookup", len(units)) as bar:
        for h, k, seed, contestant in units:
            bar.say(f"k = {k}, {quantities.count(h, 'head')}, seed {seed}: {contestant.label}")
            work = functools.partial(
                train,
                contestant,
                k,
                h,
                seed,
                epochs=epochs,
                graphs=args.graphs,
                device=session.device,
                backend=backend,
            )
            key = {
                "model": contestant.key,
                "k": k,
                "heads": h,
                "seed": seed,
                "epochs": epochs,
                "graphs": args.graphs,
                "backend": backend,
            }
            found.setdefault((h, contestant.key, k), []).append(store.unit(key, work))
            bar.advance()
    settings = {
        "k": sizes,
        "heads": heads,
        "seeds": list(range(seeds)),
        "epochs": f"{epochs} at most",
        "graphs": args.graphs,
        "batch": BATCH_SIZE,
        "GATv2 weights": "shared",
        "channels": 128,
        **RECIPE_TEXT,
        "backend": backend,
        "device": session.device,
    }
    return result(found, settings, epochs)


def _values(units: Sequence[dict[str, Any]], part: str) -> list[float]:
    return [unit[part] for unit in units]


def result(found: Scores, settings: dict[str, Any], epochs: int) -> Result:
    """The result of ``dictionary-lookup`` from its raw data, by heads, layer and k."""
    sizes, heads, seeds = settings["k"], settings["heads"], len(settings["seeds"])
    compared = {1, 8} & set(heads)
    return Result(
        title="DictionaryLookup: what only dynamic attention can do",
        headline=_headline(found, sizes, heads, seeds),
        settings=settings,
        tables=[_table(found, sizes, h, seeds) for h in heads],
        pictures=[_picture(found, sizes, heads, seeds)],
        data=[
            {"heads": h, "model": model, "k": k, "seeds": units}
            for (h, model, k), units in found.items()
        ],
        notes=[
            PAPER_TEXT,
            *(
                [_beside_the_paper(found, sizes, heads, epochs, settings["graphs"])]
                if compared
                else []
            ),
            FUSED_GAT_NOTE,
            "GATv2 shares its two weight matrices here, so it has as many parameters as GAT. "
            "All layers are trained alike; a training ends when every training query stays "
            "answered. The scores are those of the last epoch with the highest training accuracy.",
        ],
    )


def _table(found: Scores, sizes: list[int], heads: int, seeds: int) -> Table:
    rows = []
    for k in sizes:
        row = [str(k)]
        for contestant in CONTESTANTS:
            units = found[heads, contestant.key, k]
            row += [quantities.percent(_values(units, part)) for part in PARTS]
        rows.append(row)
    columns = ["k", *(f"{c.short}, {part} (%)" for c in CONTESTANTS for part in PARTS)]
    return Table(
        f"Accuracy with {quantities.count(heads, 'head')}",
        columns,
        rows,
        note=f"Mean ± standard deviation over {quantities.count(seeds, 'seed')}. "
        "Guessing gives 100 / k %.",
    )


def _headline(found: Scores, sizes: list[int], heads: list[int], seeds: int) -> str:
    k = 10 if 10 in sizes else sizes[-1]
    h = heads[0]

    def worst(contestant: Contestant, choose: Any) -> str:
        units = found[h, contestant.key, k]
        return ", ".join(f"{100 * choose(_values(units, part)):.0f} % on {part}" for part in PARTS)

    return (
        f"With k = {k} and {quantities.count(h, 'head')}, GATv2 answers at least "
        f"{worst(OURS, min)}, the original GAT at most {worst(FUSED_GAT, max)}, "
        f"over {quantities.count(seeds, 'seed')}. {_solved_text(found, sizes, h)}"
    )


def _solved(found: Scores, sizes: list[int], heads: int) -> list[int]:
    """The k for which GATv2 answers nearly all queries, train and test, with every seed."""
    return [
        k
        for k in sizes
        if all(unit[part] >= SOLVED for unit in found[heads, OURS.key, k] for part in PARTS)
    ]


def _solved_text(found: Scores, sizes: list[int], heads: int) -> str:
    solved = _solved(found, sizes, heads)
    rest = [k for k in sizes if k not in solved]
    where = f"k = {_listed(solved)}" if solved else "no k"
    return (
        f"GATv2 with {quantities.count(heads, 'head')} reaches {100 * SOLVED:.0f} % on train and "
        f"test with every seed for {where}{f', not for k = {_listed(rest)}' if rest else ''}."
    )


def _listed(numbers: list[int]) -> str:
    whole = len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} ... {numbers[-1]}" if whole else ", ".join(map(str, numbers))


def _beside_the_paper(
    found: Scores, sizes: list[int], heads: list[int], epochs: int, graphs: int
) -> str:
    """How these figures differ from those of :data:`PAPER_TEXT`, and what is done otherwise."""
    parts = []
    if 1 in heads:
        short = [k for k in sizes if k not in _solved(found, sizes, 1)]
        if short:
            low = min(unit[part] for k in short for unit in found[1, OURS.key, k] for part in PARTS)
            parts.append(
                f"GATv2 with one head stays below {100 * SOLVED:.0f} % with some seed for k = "
                f"{_listed(short)} (lowest: {100 * low:.0f} %)"
            )
        else:
            parts.append(
                f"GATv2 with one head reaches {100 * SOLVED:.0f} % with every seed for every k"
            )
        gat = [quantities.mean(_values(found[1, FUSED_GAT.key, k], "train")) for k in sizes]
        parts.append(
            f"GAT with one head goes from {100 * gat[0]:.0f} % (k = {sizes[0]}) to "
            f"{100 * gat[-1]:.0f} % (k = {sizes[-1]}) on train"
        )
    if 8 in heads:
        units = {k: found[8, FUSED_GAT.key, k] for k in sizes}
        mean = {p: {k: quantities.mean(_values(units[k], p)) for k in sizes} for p in PARTS}
        gap = max(sizes, key=lambda k: mean["train"][k] - mean["test"][k])
        worst = min(sizes, key=lambda k: mean["train"][k])
        parts.append(
            f"GAT with 8 heads is at most {100 * (mean['train'][gap] - mean['test'][gap]):.1f} "
            f"points worse on test than on train (k = {gap}), and on train at least "
            f"{100 * mean['train'][worst]:.0f} % (k = {worst})"
        )
    return (
        f"Here {'; '.join(parts)}. A training ends here after at most "
        f"{quantities.count(epochs, 'epoch')} on {round(TRAIN_SHARE * graphs):,} graphs (fewer "
        "where k! is less), and the permutations are split at random; the authors' code draws up "
        "to 32,000 permutations, and tests on those with a pair of key and value that no training "
        "graph has."
    )


def _picture(found: Scores, sizes: list[int], heads: list[int], seeds: int) -> Picture:
    with plots.style():
        figure, panels = plots.panels(len(heads), 2, size=(5.4, 3.2), sharex=True, sharey=True)
        for place, axes in enumerate(panels):
            part, h = PARTS[place // len(heads)], heads[place % len(heads)]
            axes.set_title(f"{part}, {quantities.count(h, 'head')}")
            _draw(axes, found, sizes, h, part)
            if place % len(heads) == 0:
                axes.set_ylabel("accuracy (%)")
            if place >= len(heads):
                axes.set_xlabel("number of keys k")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return Picture(
        figure,
        f"Accuracy on DictionaryLookup: mean over {quantities.count(seeds, 'seed')}, bands from "
        "the lowest to the highest seed. Dotted: guessing, 1/k. Hollow grey: values the paper "
        "reports for one head (Brody et al., 2022).",
        "Accuracy against the number of keys for GATv2, GAT and dot-product attention",
    )


def _draw(axes: Any, found: Scores, sizes: list[int], heads: int, part: str) -> None:
    for contestant in CONTESTANTS:
        values = [_values(found[heads, contestant.key, k], part) for k in sizes]
        plots.band(
            axes,
            sizes,
            [100 * quantities.mean(v) for v in values],
            [100 * min(v) for v in values],
            [100 * max(v) for v in values],
            color=contestant.color,
            label=contestant.label,
            linewidth=4.5 if contestant is OURS else 1.8,
            markersize=10 if contestant is OURS else 5,
        )
    axes.plot(sizes, [100 / k for k in sizes], ":", color=BLACK, linewidth=1.2, label="guessing")
    if heads == 1:
        _draw_paper(axes, sizes, part)
    axes.set_ylim(-3, 108)
    axes.set_xticks(sizes if len(sizes) <= 9 else sizes[::2])


def _draw_paper(axes: Any, sizes: list[int], part: str) -> None:
    hollow = {"mfc": "none", "mec": GREY, "mew": 1.4, "ms": 14, "ls": "none"}
    for contestant, marker, name in ((OURS, "o", "GATv2"), (FUSED_GAT, "^", "GAT")):
        values = PAPER.get((contestant.key, part), {})
        shown = [k for k in values if sizes[0] <= k <= sizes[-1]]
        if part == "train" or shown:
            axes.plot(
                shown,
                [100 * values[k] for k in shown],
                marker=marker,
                label=f"paper: {name}, one head",
                **hollow,
            )
