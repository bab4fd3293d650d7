"""Contestants in turn, and what their times come to."""

from __future__ import annotations

import time

import pytest

from benchmarks.harness.measuring import race, timing


@pytest.fixture
def told_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes the seconds that it returns."""
    monkeypatch.setattr(timing, "stopwatch", lambda device: lambda call: call())


def test_race_calls_short_contestants_more_often(told_times: None) -> None:
    calls = {"slow": lambda: 0.02, "fast": lambda: 0.0005, "middle": lambda: 0.002}
    raced = race.race(calls, device="cpu", budget=0.1, min_rounds=1)
    assert raced.repeats == {"slow": 1, "fast": race.MAX_REPEATS, "middle": 2}
    # A round takes 20 + 5 * 0.5 + 2 * 2 ms.
    assert {name: len(raced.per_round(name)) for name in calls} == dict.fromkeys(calls, 3)
    assert len(raced.seconds["fast"]) == 3 * race.MAX_REPEATS
    summary = raced.summary("fast")
    assert summary["rounds"] == 3
    assert race.ratio(summary, "slow", "fast") == 40
    assert race.seconds(summary, "slow") == 0.02
    same = race.race(calls, device="cpu", budget=0.1, min_rounds=7, same_repeats=True)
    assert set(same.repeats.values()) == {race.MAX_REPEATS}
    assert len(same.per_round("slow")) == 7
    assert race.race({}, device="cpu", budget=1).summary("fast")["ratios"] == {}


def test_the_clock_tells_seconds() -> None:
    measured = timing.stopwatch("cpu")(lambda: time.sleep(0.02))
    assert 0.02 <= measured < 2


def test_ratios_are_taken_within_rounds() -> None:
    raced = race.Raced(
        {"a": [2.0, 9.0, 40.0], "b": [1.0, 1.0, 8.0, 3.0, 3.0, 3.0, 0.1, 4.0, 50.0]},
        {"a": 1, "b": 3},
    )
    assert raced.per_round("b") == [1.0, 3.0, 4.0]
    assert raced.ratios("a", "b") == [2.0, 3.0, 10.0]
    assert raced.divided(2).seconds["a"] == [1.0, 4.5, 20.0]
    summary = raced.beside("c", [4.0, 6.0, 8.0]).summary("b")
    assert summary == {
        "rounds": 3,
        "seconds": {"a": [3.4, 9.0, 33.8], "b": [0.82, 3.0, 16.4], "c": [4.4, 6.0, 7.6]},
        "over": "b",
        "ratios": {"a": [2.2, 3.0, 8.6], "c": [2.0, 2.0, 3.6]},
    }


def test_a_ratio_is_not_read_upside_down() -> None:
    raced = race.Raced({"a": [2.0], "b": [1.0], "c": [8.0]}, dict.fromkeys("abc", 1))
    summary = raced.summary("b")
    assert race.ratio(summary, "a", "b") == 2
    assert race.ratio(summary, "b", "c") == 1 / 8
    assert race.ratio(summary, "a", "absent") is None
    assert race.ratio(None, "a", "b") is None
    with pytest.raises(ValueError, match="over b, not c"):
        race.ratio(summary, "a", "c")


def test_contestants_alternate() -> None:
    calls: list[str] = []
    seconds = timing.alternate(
        {name: lambda n=name: calls.append(n) for name in "abc"}, rounds=3, warmup=1
    )
    assert calls == [*"abc", *"abc", *"bca", *"cab"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
