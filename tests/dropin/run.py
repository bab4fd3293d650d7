"""``python -m tests.dropin.run [WORD ...]``: runs the cases whose names hold a word."""

from __future__ import annotations

import argparse
import collections
import time

from . import cases  # noqa: F401
from .harness import CASES, PYG
from .pool import Pool


def main() -> int:
    """Runs cases and prints what became of them; returns the number that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.dropin.run", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of names; all cases if none")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--failed", action="store_true", help="print only what failed")
    parser.add_argument("--lines", type=int, default=3, help="lines of a reason that are shown")
    parser.add_argument("--path", choices=["auto", "reference"], help="only one of our paths")
    arguments = parser.parse_args()
    words = arguments.words
    chosen = [case for case in CASES.values() if not words or any(w in case.name for w in words)]
    items = [
        (case, path) for case in chosen for path in case.paths if arguments.path in (None, path)
    ]
    if arguments.list:
        for case in chosen:
            print(case.name, "(both)" if case.both else "(ours)", *case.paths)
        print(f"{len(chosen)} cases, {len(items)} tests")
        return 0
    start, pool, counts = time.monotonic(), Pool(arguments.jobs), collections.Counter()
    try:
        for case, path in items:
            if case.missing() is None:
                pool.start(case.name, path)
                if case.both:
                    pool.start(case.name, PYG)
        for case, path in items:
            verdict = pool.judge(case, path)
            counts[verdict.status] += 1
            if arguments.failed and verdict.status != "failed":
                continue
            print(f"{verdict.status:8}{verdict.seconds:6.1f} s  {case.name} [{path}]", flush=True)
            lines = verdict.text.splitlines()
            shown = lines[:1] + lines[1:][-arguments.lines :] if len(lines) > 1 else lines
            for line in shown:
                print("          ", line[:240], flush=True)
    finally:
        pool.close()
    print(dict(counts), f"{time.monotonic() - start:.0f} s")
    return counts["failed"]


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
