"""Requirements on a benchmark's figures, and the table of their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.reporting.result import REQUIREMENTS, Table
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2


@dataclass(frozen=True)
class Target:
    """One requirement. ``measured`` is None where it could not be measured."""

    what: str
    where: str
    limit: float
    measured: float | None
    at_least: bool = False
    goal: bool = False
    runs: bool = False

    @property
    def met(self) -> bool | None:
        return None if self.measured is None else self._is_met_by(self.measured)

    def _is_met_by(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def row(self) -> list[str]:
        verdict = {True: "met", False: "not met", None: "not measured"}[self.met]
        return [
            self.what,
            self.where,
            f"{'≥' if self.at_least else '≤'} {self._shown(self.limit)}",
            "–" if self.measured is None else self._shown(self.measured),
            f"goal {verdict}" if self.goal else verdict,
        ]

    def _shown(self, value: float) -> str:
        """With the digits that tell the verdict."""
        digits = 0 if self.runs else 1 if value >= 10 else 2
        while self._is_met_by(round(value, digits)) != self._is_met_by(value):
            digits += 1
        return f"{value:.{digits}f}" + ("" if self.runs else "×")


def over_peers(
    what: str, where: str, limits: Sequence[float], measured: Sequence[float | None]
) -> Iterator[Target]:
    """That PyG's GATv2Conv and GATConv, in this order, take so many times as long."""
    for name, limit, found in zip(("GATv2Conv", "GATConv"), limits, measured, strict=True):
        yield Target(f"{what}, PyG {name}", where, limit, found, True)


def over_ours(seconds: Mapping[str, float]) -> list[float | None]:
    """PyG's GATv2Conv and GATConv over this layer; None where one was not timed."""
    ours = seconds.get(OURS.key)
    taken = (seconds.get(peer.key) for peer in (PYG_GATV2, GAT))
    return [value / ours if value and ours else None for value in taken]


def table(
    found: Sequence[Target], note: str = "Ratios within rounds of one run, their median."
) -> Table:
    """The requirements with what was measured and the verdict."""
    return Table(
        REQUIREMENTS,
        ["requirement", "case", "limit", "measured", ""],
        [target.row() for target in found],
        note=note,
    )


def summary(found: Sequence[Target]) -> str:
    """How many of the requirements (goals not counted) are met."""
    required = [target for target in found if not target.goal]
    met = sum(bool(target.met) for target in required)
    return f"{met} of {len(required)} requirements met"
