"""Solubility of molecules (ESOL): errors with and without bond features, and time by layer.

Four attention layers of 4 heads of 16 channels over the atoms of 1,128 molecules, batches of 128,
fused Adam with warm-up and cosine, random splits (80, 10, 10 %; seed i gives split i to every
model), checkpoint chosen on validation: GATv2 and GAT, each with and without the 3 bond features.

A training epoch is timed for the layers with bond features in turn: gatv2_pyg's GATv2Conv, PyG's
and PyG's GATConv, over batches collated before, whose graphs are new to the layers in every step;
so is the attention alone, the outputs of the linear maps given. Before that the GATv2 layers get
the same weights and must agree in float64. PyG reads the molecules with rdkit.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.datasets.data import load_molecules
from benchmarks.harness import options
from benchmarks.harness.measuring import timing
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import OURS, PYG_GATV2, Contestant
from benchmarks.studies.molecules import batches, report
from benchmarks.studies.molecules.report import TIMED, TOLERANCE, VARIANTS
from benchmarks.studies.training import Batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_training(parser, seeds="10, quick 2", epochs="60, quick 10")
    parser.add_argument(
        "--no-training", action="store_true", help="time the layers only, and train none"
    )
    parser.add_argument(
        "--rounds",
        type=options.whole(),
        metavar="N",
        help="timed training epochs of each layer, in turn (default: 20, quick 5)",
    )
    options.add_common(parser, quick="2 seeds, 10 epochs, 5 timed epochs")


def _reference(device: str) -> batches.MoleculeGAT:
    torch.manual_seed(0)
    return batches.make_model(PYG_GATV2, "auto", edges=True).to(device).double()


Steps = dict[str, Callable[[], None]]


def _times(
    make: Callable[..., Callable[[], None]],
    who: Sequence[Contestant],
    epoch: Sequence[Batch],
    rounds: int,
    **common: Any,
) -> dict[str, list[float]]:
    steps: Steps = {c.key: make(c, epoch, **common) for c in who}
    return timing.alternate(steps, rounds=rounds, warmup=2, device=common["device"])


def run(session: Session, args: argparse.Namespace) -> Result:
    seeds = 0 if args.no_training else session.choose(args.seeds, full=10, quick=2)
    epochs = session.choose(args.epochs, full=60, quick=10)
    rounds = session.choose(args.rounds, full=20, quick=5)
    molecules = load_molecules(args.data)
    backend = resolve_backend(args.backend, session.device)
    common: dict[str, Any] = {"device": session.device, "backend": backend}
    store = session.store()
    epoch = batches.MoleculeTask(molecules, 0, session.device).batches()
    graph = {
        "molecules": len(molecules),
        "atoms": sum(molecule.num_nodes for molecule in molecules),
        "edges": sum(molecule.num_edges for molecule in molecules),
        "batches": len(epoch),
    }
    data: dict[str, Any] = {"graph": graph, "seconds": {}, "training": []}
    kinds = {"epoch": batches.epoch, "attention": batches.attention_epoch}
    with session.progress("molecules", 1 + len(kinds) + seeds * len(VARIANTS)) as bar:
        bar.say(f"checking {OURS.label}")
        data["agreement_float64"] = store.unit(
            {"what": "agreement", "backend": backend},
            lambda: batches.disagreement(OURS, _reference(session.device), epoch[0], **common),
        )
        agrees = data["agreement_float64"] <= TOLERANCE
        who = [c for c in TIMED if c is not OURS or agrees]
        bar.advance()
        for what, make in kinds.items():
            bar.say(f"timing in turn: {what}")
            data["seconds"][what] = store.unit(
                {"what": what, "models": [c.key for c in who], "rounds": rounds} | common,
                functools.partial(_times, make, who, epoch, rounds, **common),
            )
            bar.advance()
        found: dict[str, list[dict[str, Any]]] = {variant.key: [] for variant in VARIANTS}
        for seed in range(seeds):
            for variant in VARIANTS:
                bar.say(f"training {variant.label}, seed {seed}")
                settings = {"edges": variant.edges, "seed": seed, "epochs": epochs}
                work = functools.partial(
                    batches.train, variant.contestant, molecules, **settings, **common
                )
                key = settings | {"model": variant.contestant.key, "backend": backend}
                found[variant.key].append(store.unit(key, work))
                bar.advance()
    data["training"] = [{"model": key, "seeds": units} for key, units in found.items()]
    settings = {
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "batch": batches.BATCH,
        "learning rate": batches.LEARNING_RATE,
        "timed epochs": rounds,
        "backend": backend,
        "device": session.device,
    }
    return report.result(data, settings)
