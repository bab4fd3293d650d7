"""What a requirement's row shows."""

from __future__ import annotations

import pytest

from benchmarks.layers.requirements import Target


@pytest.mark.parametrize(
    ("limit", "measured", "options", "shown"),
    [
        (2.3, 2.55, {"at_least": True}, ["≥ 2.30×", "2.55×", "met"]),
        (2.3, 2.2972, {"at_least": True}, ["≥ 2.30×", "2.297×", "not met"]),
        (2.3, 2.29999, {"at_least": True}, ["≥ 2.30×", "2.29999×", "not met"]),
        (22, 21.96, {"at_least": True}, ["≥ 22.0×", "21.96×", "not met"]),
        (3.5, 3.5, {}, ["≤ 3.50×", "3.50×", "met"]),
        (3.5, 3.5004, {}, ["≤ 3.50×", "3.5004×", "not met"]),
        (3.5, 3.4996, {}, ["≤ 3.50×", "3.50×", "met"]),
        (10, 9.996, {"at_least": True, "goal": True}, ["≥ 10.0×", "9.996×", "goal not met"]),
        (2, 3, {"at_least": True, "runs": True}, ["≥ 2", "3", "met"]),
        (2, None, {}, ["≤ 2.00×", "–", "not measured"]),
    ],
)
def test_digits_tell_the_verdict(limit, measured, options, shown) -> None:
    assert Target("what", "where", limit, measured, **options).row() == ["what", "where", *shown]
