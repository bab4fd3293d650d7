"""Numbers as they are reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def std(values: Sequence[float]) -> float:
    """Sample standard deviation (divides by n - 1); 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0 <= q <= 1), linear between the neighbouring values."""
    return float(np.quantile(values, q))


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


# Where the median stands in :func:`spread`.
MEDIAN = 1


def spread(values: Sequence[float]) -> list[float]:
    """The 10 % quantile, the median and the 90 % quantile, as result files hold them."""
    return [rounded(float(q)) for q in np.quantile(values, (0.1, 0.5, 0.9))]


def rounded(value: float) -> float:
    """Six significant digits: more than any table shows."""
    return float(f"{value:.6g}")


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(second) - mean(first), by Welch; None without a spread to judge by."""
    if min(len(first), len(second)) < 2 or std(first) == std(second) == 0:
        return None
    interval = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None without a spread to judge by."""
    if len(values) < 2 or std(values) == 0:
        return None
    found = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def percent(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation of fractions, in percent."""
    text = f"{100 * mean(values):.{digits}f}"
    return f"{text} ± {100 * std(values):.{digits}f}" if len(values) > 1 else text


def duration(seconds: float) -> str:
    """A time with three significant digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            return f"{_significant(seconds * scale)} {unit}"
    raise AssertionError


def size(count: float) -> str:
    """A number of bytes in MiB or GiB."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{_significant(count / 2**20)} MiB"


def ratio(value: float) -> str:
    """A ratio with two significant digits or to the unit, e.g. ``0.85×``, ``8.1×``, ``23×``."""
    if value >= 10:
        return f"{value:.0f}×"
    return f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"


def count(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _significant(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
