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


def alternate(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 2,
    device: str = "cpu",
    after_round: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one call of each per round.

    Alternating spreads what disturbs the machine over all of them; the order turns by one place
    each round, so none always runs after the same neighbour.
    """
    wait = synchronizer(device)
    names = list(contestants)
    for name in names:
        for _ in range(warmup):
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wait()
            start = time.perf_counter()
            contestants[name]()
            wait()
            seconds[name].append(time.perf_counter() - start)
        if after_round is not None:
            after_round(number)
    return seconds
