"""``python -m tests.dropin.fuzz --examples 100000``: random arguments to the public doors.

Hypothesis draws a description of a call, often a wrong one; a process that may crash carries it
out and says what came of it: an error of an expected type that names the argument, or a result
equal to PyG's layer's or to attention written out edge by edge.
"""

from __future__ import annotations

import argparse
import collections
import time

from .draw import DOORS
from .search import Executor, execute, search


def main() -> int:
    """The long run: says how many calls ended how."""
    parser = argparse.ArgumentParser(prog="python -m tests.dropin.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=DOORS)
    parser.add_argument("--all", action="store_true", help="go on after a fault, list them all")
    parser.add_argument("--execute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.execute:
        execute()
        return 0
    executor, counts, start = Executor(), collections.Counter(), time.monotonic()
    faults = {} if arguments.all else None
    try:
        search(executor, arguments.examples, tuple(arguments.doors), counts, faults)
    finally:
        executor.close()
        for name, count in sorted(counts.items()):
            print(f"{count:8} {name}")
        print(f"{sum(counts.values()):8} calls in {time.monotonic() - start:.0f} s")
    for text, call in (faults or {}).items():
        print(text, call, sep="\n    ")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
