"""Contestants of very different speed against each other, in a given time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.measuring import timing

# A contestant may be called so often in a row that it takes this share of the slowest one's time.
REPEAT_SHARE, MAX_REPEATS = 0.25, 5
SLOW = 1.0

# What :meth:`Raced.summary` gives, as JSON.
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Raced:
    """The seconds of every call, and how many calls of each contestant make a round."""

    seconds: Mapping[str, Sequence[float]]
    repeats: Mapping[str, int]

    def per_round(self, name: str) -> list[float]:
        """A contestant's median time in each round."""
        seconds, repeats = self.seconds[name], self.repeats[name]
        return [
            quantities.median(seconds[start : start + repeats])
            for start in range(0, len(seconds), repeats)
        ]

    def ratios(self, name: str, over: str) -> list[float]:
        """How many times as long ``name`` takes as ``over``, round by round."""
        pairs = zip(self.per_round(name), self.per_round(over), strict=True)
        return [slow / fast for slow, fast in pairs]

    def beside(self, name: str, rounds: Sequence[float]) -> Raced:
        """The same with a further contestant, of one call a round."""
        return Raced({**self.seconds, name: list(rounds)}, {**self.repeats, name: 1})

    def divided(self, calls: int) -> Raced:
        """The seconds of one call, where each that was timed held so many."""
        seconds = {name: [s / calls for s in times] for name, times in self.seconds.items()}
        return Raced(seconds, self.repeats)

    def summary(self, over: str) -> dict[str, Any]:
        """What tables and pictures need, as JSON.

        Returns:
            ``seconds`` of a call of each contestant; ``ratios``: how many times as long as ``over``
            each of the others takes, within rounds (empty where ``over`` was not timed); both as
            :func:`benchmarks.harness.quantities.spread`; the number of ``rounds``.
        """
        return {
            "rounds": len(self.per_round(next(iter(self.seconds)))) if self.seconds else 0,
            "seconds": {name: quantities.spread(times) for name, times in self.seconds.items()},
            "over": over,
            "ratios": {
                name: quantities.spread(self.ratios(name, over))
                for name in self.seconds
                if name != over and over in self.seconds
            },
        }


def race(
    calls: Mapping[str, Callable[[], Any]],
    *,
    device: str,
    budget: float,
    compiled: tuple[str, ...] = (),
    min_rounds: int = 3,
    max_rounds: int = 40,
    same_repeats: bool = False,
) -> Raced:
    """Times contestants in turn, in as many rounds as ``budget`` seconds allow.

    The first call of each warms it up (for those ``compiled``, and on a GPU, it may be a
    compilation); the next one tells how many calls a round may hold. On the CPU a call that takes
    long is not made twice for that.

    What another contestant has left in the caches and the allocator slows the first call of a turn.
    With ``same_repeats`` every contestant is called :data:`MAX_REPEATS` times in a turn, the longer
    ones too.
    """
    if not calls:
        return Raced({}, {})
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
    return Raced(seconds, repeats)


def seconds(raced: Summary, name: str) -> float:
    """A contestant's median time of a call."""
    return float(raced["seconds"][name][quantities.MEDIAN])


def ratio(raced: Summary | None, name: str, over: str) -> float | None:
    """How many times as long ``name`` takes as ``over``, the median of the rounds.

    None where one of the two was not timed; one of them is what the summary's ratios are over.
    """
    if raced is None or name not in raced["seconds"] or over not in raced["seconds"]:
        return None
    if over == raced["over"]:
        return float(raced["ratios"][name][quantities.MEDIAN])
    if name == raced["over"]:
        return 1 / float(raced["ratios"][over][quantities.MEDIAN])
    raise ValueError(f"these ratios are over {raced['over']}, not {over}")
