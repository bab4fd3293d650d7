"""Runs the examples, each in processes of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Example(NamedTuple):
    """How an example is run."""

    script: str
    data: str
    """Its data set's folder under the root."""
    short: tuple[str, ...]
    """Arguments of a small form, some seconds long."""
    processes: int = 0
    """How many torchrun starts; 0 for plain Python."""
    full: tuple[str, ...] = ()
    """Arguments of the full form."""
    out: str | None = None
    """The name of what it writes, if it has an --out."""


HEADS = ("--shard", "heads")
EXAMPLES = {
    "cora": Example("cora", "Cora", ("--epochs", "20")),
    "neighbour_sampling": Example("neighbour_sampling", "tolokers", ("--epochs", "1")),
    "molecules": Example("molecules", "esol", ("--epochs", "3")),
    "heterogeneous": Example("heterogeneous", "Cora", ("--epochs", "10")),
    "lightning_module": Example("lightning_module", "Cora", ("--epochs", "10"), out="lightning"),
    "explain": Example("explain", "Cora", ("--epochs", "20"), out="attention.png"),
    "distributed_sampling": Example("distributed_sampling", "tolokers", ("--epochs", "2"), 2),
    "sharded_rows": Example("sharded_full_batch", "Cora", ("--epochs", "20"), 2),
    "sharded_heads": Example(
        "sharded_full_batch",
        "Cora",
        ("--epochs", "20", "--shard", "heads"),
        2,
        ("--shard", "heads"),
    ),
}


def command(name: str, root: Path, out: Path, full: bool = False) -> list[str]:
    """The command line of an example, its data under ``root``, what it writes under ``out``."""
    example = EXAMPLES[name]
    words = [sys.executable]
    if example.processes:
        words += ["-m", "torch.distributed.run", "--standalone"]
        words += ["--nproc_per_node", str(example.processes)]
    words += [str(HERE / f"{example.script}.py"), "--root", str(root)]
    words += example.full if full else example.short
    return words if example.out is None else [*words, "--out", str(out / example.out)]


def linked(root: Path, own: Path) -> Path:
    """``own`` with links to the raw files under ``root``, which may be read-only."""
    for raw in root.glob("*/raw"):
        place = own / raw.parent.name / "raw"
        place.mkdir(parents=True, exist_ok=True)
        for file in raw.iterdir():
            target = place / file.name
            if not target.exists():
                target.symlink_to(file.resolve())
    return own


def main() -> int:
    """Runs what was asked for; returns 1 if an example failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--full", action="store_true", help="with the defaults of each script")
    parser.add_argument("--out", default="build/examples", help="folder for what they write")
    parser.add_argument(
        "--root",
        default=os.environ.get("GATV2_PYG_DATA"),
        help="folder with raw files in PyG's layout (GATV2_PYG_DATA); others are downloaded",
    )
    args = parser.parse_args()
    unknown = set(args.names) - set(EXAMPLES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        root = linked(Path(args.root), Path(folder)) if args.root else out / "data"
        for name in args.names or EXAMPLES:
            print(f"== {name}", flush=True)
            start = time.monotonic()
            status = subprocess.run(command(name, root, out, args.full)).returncode
            print(f"== {name}: {time.monotonic() - start:.0f} s\n", flush=True)
            if status:
                failed.append(name)
    print(f"{len(args.names or EXAMPLES)} examples, failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
