"""Several processes give what one gives."""

from __future__ import annotations

import pytest
import torch

from gatv2_pyg import backends
from tests.pipelines import tasks

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [[40, 40], [25, 60], [33, 7]]


def assert_same_bits(found: dict, expected: dict, names=None) -> None:
    for name in names or expected:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize(
    "settings",
    [{}, {"static_graph": True}, {"find_unused_parameters": True}, {"bucket_cap_mb": 0.001}],
    ids=str,
)
def test_data_parallel_gives_the_gradients_of_one_process(two_ranks, settings):
    expected = tasks.train_alone(SIZES)
    for found in two_ranks.run(tasks.train_data_parallel, SIZES, settings):
        assert len(found) == len(SIZES)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("settings", [{}, {"static_graph": True}], ids=str)
def test_a_rank_with_an_empty_batch(two_ranks, settings):
    sizes = [[30, 0], [0, 20], [0, 0], [10, 10]]
    expected = tasks.train_alone(sizes)
    for found in two_ranks.run(tasks.train_data_parallel, sizes, settings):
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_bits(ours, theirs)
    assert all(float(grad.abs().sum()) == 0 for grad in expected[2].values())
    assert float(expected[1]["conv1.att"].abs().sum()) > 0


def test_fully_sharded_parameters(two_ranks):
    expected = tasks.train_alone(SIZES)
    for found in two_ranks.run(tasks.train_fully_sharded, SIZES):
        for ours, theirs in zip(found, expected, strict=True):
            for name, grad in theirs.items():
                torch.testing.assert_close(ours[name], grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_sharded_destinations(two_ranks, dropout):
    expected = tasks.attend_alone(dropout, 11)
    for found in two_ranks.run(tasks.attend_in_row_shards, dropout, 11):
        if backends.refusal("fused", torch.device("cpu"), torch.float32) is None:
            assert_same_bits(found, expected, ("out", "x_dst"))
        for name, value in expected.items():
            error = (found[name] - value).abs().max() / value.abs().max()
            assert float(error) < 1e-6, name
    if dropout:
        other = tasks.attend_alone(dropout, 12)
        assert float((other["out"] - expected["out"]).abs().max()) > 0.1


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_sharded_heads(two_ranks, dropout):
    parts = [
        tasks.attend_alone(dropout, 11, slice(0, 2)),
        tasks.attend_alone(dropout, 12, slice(2, 4)),
    ]
    expected = {
        "out": torch.cat([part["out"] for part in parts], dim=1),
        "x_src": torch.cat([part["x_src"] for part in parts], dim=1),
        "x_dst": torch.cat([part["x_dst"] for part in parts], dim=1),
        "att": torch.cat([part["att"] for part in parts]),
        "edge_weight": torch.cat([part["edge_weight"] for part in parts]),
        "edge_attr": parts[0]["edge_attr"] + parts[1]["edge_attr"],
    }
    for found in two_ranks.run(tasks.attend_in_head_shards, dropout, 11):
        assert_same_bits(found, expected)
    if dropout == 0:
        for name, value in tasks.attend_alone(0.0, 11).items():
            torch.testing.assert_close(expected[name], value, rtol=1e-5, atol=1e-5)


def test_a_dtensor_gets_one_clear_error(two_ranks):
    for found in two_ranks.run(tasks.errors_of_dtensors):
        for name in (*tasks.NAMES, "layer x", "layer edge_index", "layer edge_attr", "layer att"):
            kind, message = found[name]
            assert kind == "TypeError"
            assert message.startswith(f"Expected '{name.removeprefix('layer ')}' to be a plain")
            assert "got a DTensor" in message
            assert "local_map" in message
