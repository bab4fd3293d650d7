"""Where data sets come from, and what is generated in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.datasets import data, standin


def test_stand_in_has_the_size_of_cora() -> None:
    graph = standin.citation_graph()
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (2708, 10556, 1433)
    assert graph.is_undirected()
    assert not graph.has_self_loops()
    assert int(graph.y.max()) == 6
    masks = [graph.train_mask, graph.val_mask, graph.test_mask]
    assert [int(mask.sum()) for mask in masks] == [140, 500, 1000]
    assert not (masks[0] & masks[1] | masks[1] & masks[2] | masks[0] & masks[2]).any()
    assert torch.equal(graph.y[graph.train_mask].bincount(), torch.full((7,), 20))
    same = graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]
    assert 0.75 < float(same.float().mean()) < 0.9
    assert torch.equal(graph.x, standin.citation_graph().x)


def test_read_only_data_is_linked_and_never_written_to(nowhere: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    raw = tmp_path / "shared" / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    masks = numpy.ones((10, 4), dtype=bool)
    numpy.savez(
        raw / "minesweeper.npz",
        node_features=numpy.ones((4, 7), dtype=numpy.float32),
        node_labels=numpy.array([0, 1, 0, 1]),
        edges=numpy.array([[0, 1], [1, 2]]),
        train_masks=masks,
        val_masks=masks,
        test_masks=masks,
    )
    dataset = data.load("Minesweeper", tmp_path / "shared")
    assert (dataset.data.num_nodes, dataset.num_classes) == (4, 2)
    written = {path.name for path in (tmp_path / "shared").rglob("*")}
    assert written == {"minesweeper", "raw", "minesweeper.npz"}
    assert list(nowhere.rglob("processed/data.pt"))
