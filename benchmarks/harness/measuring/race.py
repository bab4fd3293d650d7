"""Contestants of very different speed against each other, in a given time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.measuring import timing

# A contestant may be called so often in a row that it takes this share of the slowest one's time.
REPEAT_SHARE, MAX_REPEATS = 0.25, 5
SLOW = 1.0

Raced = Mapping[str, Any]


def race(
    calls: Mapping[str, Callable[[], Any]],
    *,
    device: str,
    budget: float,
    compiled: tuple[str, ...] = (),
    min_rounds: int = 3,
    max_rounds: int = 40,
    same_repeats: bool = False,
) -> dict[str, Any]:
    """Times contestants in turn, in as many rounds as ``budget`` seconds allow.

    The first call of each warms it up (for those ``compiled``, and on a GPU, it may be a
    compilation); the next one tells how many calls a round may hold. On the CPU a call that takes
    long is not made twice for that.

    What another contestant has left in the caches and the allocator slows the first call of a turn.
    With ``same_repeats`` every contestant is called :data:`MAX_REPEATS` times in a turn, the longer
    ones too.

    Returns:
        ``{"seconds": {name: [...]}, "repeats": {name: calls per round}}``.
    """
    measure = timing.stopwatch(device)
    expected = {}
    for name, call in calls.items():
        expected[name] = measure(call)
        if expected[name] < SLOW or name in compiled or device != "cpu":
            expected[name] = measure(call)
    allowed = REPEAT_SHARE * max(expected.values())
    repeats = {
        name: MAX_REPEATS
        if same_repeats
        else max(1, min(MAX_REPEATS, int(allowed / max(seconds, 1e-9))))
        for name, seconds in expected.items()
    }
    a_round = sum(repeats[name] * seconds for name, seconds in expected.items())
    rounds = max(min_rounds, min(max_rounds, int(budget / max(a_round, 1e-9))))
    seconds = timing.alternate(calls, rounds=rounds, warmup=0, device=device, repeats=repeats)
    return {"seconds": seconds, "repeats": repeats}


def per_round(raced: Raced, name: str) -> list[float]:
    """A contestant's median time in each round."""
    seconds, repeats = raced["seconds"][name], raced["repeats"][name]
    return [
        quantities.median(seconds[start : start + repeats])
        for start in range(0, len(seconds), repeats)
    ]


def ratios(raced: Raced, name: str, over: str) -> list[float]:
    """How many times as long ``name`` takes as ``over``, round by round."""
    pairs = zip(per_round(raced, name), per_round(raced, over), strict=True)
    return [slow / fast for slow, fast in pairs]


def ratio(raced: Raced | None, name: str, over: str) -> float | None:
    """The median of :func:`ratios`; None where one of the two was not timed."""
    if raced is None or name not in raced["seconds"] or over not in raced["seconds"]:
        return None
    return quantities.median(ratios(raced, name, over))
