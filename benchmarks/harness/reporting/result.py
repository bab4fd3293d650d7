"""What a benchmark hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

REQUIREMENTS = "Must reach"
"""The title of the table of requirements, which only a result's own page shows."""


@dataclass
class Table:
    """A table as it is shown: cells are text, the numbers behind them are in ``Result.data``.

    The first column names the row; the others are set flush right. ``highlight`` is the text of
    the first cell of the rows to set in bold (this project's layer).
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    highlight: str | None = None


@dataclass
class Picture:
    """A matplotlib figure with its caption. ``suffix`` tells several of one result apart.

    The caption says what is drawn, over how many seeds or repetitions, and what bars or bands
    mean; ``alt`` is the picture in one sentence for readers who cannot see it.
    """

    figure: Any
    caption: str
    alt: str
    suffix: str = ""


@dataclass
class Result:
    """Everything a benchmark found.

    Args:
        title: heading in the report.
        headline: the finding in one or two sentences, with its figures, made from the data.
        verdict: how many requirements are met, for the page of this result alone.
        settings: what was run (JSON), seeds included.
        tables, pictures: shown in this order.
        data: the raw numbers (JSON).
        notes: facts a reader needs to judge the figures, a sentence each.
        stand_in: what generated data replaces a real data set, or None.
    """

    title: str
    headline: str
    settings: dict[str, Any]
    tables: list[Table]
    pictures: list[Picture] = field(default_factory=list)
    data: Any = None
    notes: list[str] = field(default_factory=list)
    stand_in: str | None = None
    verdict: str = ""
