"""Timing of contestants against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def synchronizer(device: str) -> Callable[[], None]:
    """Waits for the device (nothing to wait for on the CPU)."""
    if device.startswith("cuda"):
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def stopwatch(device: str) -> Callable[[Callable[[], Any]], float]:
    """Takes the seconds of a call: by CUDA events on a GPU, by the clock on the CPU."""
    if device.startswith("cuda"):
        import torch

        def by_events(call: Callable[[], Any]) -> float:
            with torch.cuda.device(device):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                start.record()
                call()
                end.record()
                torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3

        return by_events

    def by_clock(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return by_clock


def alternate(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 2,
    device: str = "cpu",
    repeats: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one call of each per round.

    Alternating spreads what disturbs the machine over all of them; the order turns by one place
    each round, so none always runs after the same neighbour. ``repeats`` gives short contestants
    several calls in a row each round; their times stand round by round.
    """
    measure = stopwatch(device)
    names = list(contestants)
    for name in names:
        for _ in range(warmup):
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for _ in range((repeats or {}).get(name, 1)):
                seconds[name].append(measure(contestants[name]))
    return seconds
