"""Command-line options shared by the benchmarks, and the checks on their values.

Options whose default differs between the full and the ``--quick`` form default to None;
a benchmark resolves them with :meth:`benchmarks.harness.session.Session.choose`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.errors import UsageError

RESULTS = Path(__file__).parents[1] / "results"
# Apart from the committed results; git ignores it.
LOCAL = RESULTS / "local"
BACKENDS = ("auto", "fused", "scatter", "reference")


MOST_THREADS = 1024  # of some thousands OpenMP ends the process


def whole(minimum: int = 1, maximum: int | None = None) -> Callable[[str], int]:
    """Argument type: an integer of at least ``minimum``, and at most ``maximum`` if given."""
    most = "" if maximum is None else f" and at most {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}{most}, got {text!r}"
            )
        return value

    return parse


def real(minimum: float = 0.0, maximum: float = float("inf")) -> Callable[[str], float]:
    """Argument type: a finite number in ``[minimum, maximum]``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (minimum <= value <= maximum) or value == float("inf"):
            raise argparse.ArgumentTypeError(
                f"expected a number from {minimum:g} to {maximum:g}, got {text!r}"
            )
        return value

    return parse


def names(known: tuple[str, ...], what: str) -> Callable[[str], list[str]]:
    """Argument type: comma-separated names out of ``known`` (upper and lower case alike)."""
    by_lower = {name.lower(): name for name in known}

    def parse(text: str) -> list[str]:
        chosen = []
        for part in text.split(","):
            if part.strip().lower() not in by_lower:
                raise argparse.ArgumentTypeError(
                    f"unknown {what} {part.strip()!r}: expected any of {', '.join(known)}"
                )
            chosen.append(by_lower[part.strip().lower()])
        return list(dict.fromkeys(chosen))

    return parse


def _device(text: str) -> str:
    if text not in ("auto", "cpu") and not text.startswith("cuda"):
        raise argparse.ArgumentTypeError(f"expected auto, cpu or cuda[:N], got {text!r}")
    return text


def existing_folder(text: str) -> Path:
    """Argument type: a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {text!r} does not exist")
    return Path(text)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got ''")
    return Path(text)


def add_run(parser: argparse.ArgumentParser) -> None:
    """``--out``, ``--fresh``, ``--device``, ``--threads``: every benchmark takes these."""
    default = LOCAL.relative_to(RESULTS.parent.parent)
    parser.add_argument(
        "--out",
        type=_folder,
        default=LOCAL,
        metavar="FOLDER",
        help=f"where the results are written (default: {default})",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="measure everything anew: drop what an interrupted run has kept",
    )
    parser.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)",
    )
    parser.add_argument(
        "--threads",
        type=whole(maximum=MOST_THREADS),
        metavar="N",
        help="CPU threads (default: what torch chooses)",
    )


def add_common(parser: argparse.ArgumentParser, *, quick: str, data: bool = True) -> None:
    """``--quick`` (``quick`` says what it does), and what the main benchmark takes too."""
    parser.add_argument("--quick", action="store_true", help=f"in two minutes: {quick}")
    add_run(parser)
    if data:
        add_data(parser)
    add_backend(parser)


def add_names(
    parser: argparse.ArgumentParser, flag: str, known: tuple[str, ...], what: str, default: str
) -> None:
    """An option of names out of ``known``; ``what`` one is, ``default`` in words."""
    parser.add_argument(
        flag,
        type=names(known, what),
        metavar="NAME,...",
        help=f"any of {', '.join(known)} (default: {default})",
    )


def add_rounds(parser: argparse.ArgumentParser, default: str) -> None:
    """``--rounds`` of timed training steps."""
    parser.add_argument(
        "--rounds",
        type=whole(),
        metavar="N",
        help=f"timed training steps of each layer, in turn (default: {default})",
    )


def add_scale(parser: argparse.ArgumentParser) -> None:
    """``--scale`` of generated graphs."""
    parser.add_argument(
        "--scale",
        type=real(0.001, 1),
        default=1.0,
        metavar="FACTOR",
        help="shrink the generated graphs (default: 1)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """``--data``: where data sets are looked for first."""
    parser.add_argument(
        "--data",
        type=_folder,
        default=os.environ.get("GATV2_PYG_DATA") or None,
        metavar="FOLDER",
        help="folder with data sets in PyG's layout (Cora/raw/..., tolokers/raw/...), may be "
        "read-only (default: $GATV2_PYG_DATA, then data/ in the project, then a download)",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """``--backend`` of this project's layer."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="backend of gatv2_pyg's layer (default: auto)",
    )


def add_training(parser: argparse.ArgumentParser, *, seeds: str, epochs: str) -> None:
    """``--seeds`` and ``--epochs``; the arguments word their defaults for ``--help``."""
    parser.add_argument(
        "--seeds",
        type=whole(),
        metavar="N",
        help=f"train with the seeds 0 ... N-1 (default: {seeds})",
    )
    parser.add_argument(
        "--epochs", type=whole(), metavar="N", help=f"training epochs (default: {epochs})"
    )


def resolve_device(text: str) -> str:
    """The device asked for, checked to be there."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if text.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UsageError(f"--device {text}: torch finds no CUDA device on this machine")
        try:
            index = torch.device(text).index or 0
        except RuntimeError:
            raise UsageError(f"--device: expected auto, cpu or cuda[:N], got {text!r}") from None
        if index >= torch.cuda.device_count():
            raise UsageError(
                f"--device {text}: this machine has {torch.cuda.device_count()} CUDA device(s)"
            )
    return text
