"""What addresses the Triton kernels use, seen in the interpreter: only those of their tensors, and
right ones where offsets need 64 bits."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch import Tensor

from gatv2_pyg.kernels import triton as kernels
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.ops.dropout import dropout_scale
from tests.kernels.cases import Case, build, cast, run

REASON = kernels.unavailable()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.skipif(torch.cuda.is_available(), reason="needs Triton's interpreter"),
]

SHIFT = 2**30
"""Added to a row or an edge id; times 3 it leaves 32 bits."""

SMALL = Case(heads=3, channels=5, num_src=32, num_dst=20, num_edges=70, edge_dim=3, grad_alpha=True)
HUB = dataclasses.replace(SMALL, hub=560)


class Memory:
    """Stands between the interpreter and memory.

    Raises for an address outside the tensors that a kernel was given.  With ``shift``, a tensor may
    also be used as if its index along one axis were larger by that.
    """

    def __init__(self, monkeypatch, shift: int = 0) -> None:
        from triton.runtime import interpreter

        from gatv2_pyg.kernels.triton import launch

        self._shift = shift
        self._extents: list[tuple[int, int, int]] = []
        self._launch, self._real = launch._launch, interpreter._interpreter
        self.launches: list[tuple] = []
        guarded = types.SimpleNamespace(**vars(self._real))
        guarded.load, guarded.store = self._load, self._store
        monkeypatch.setattr(interpreter, "_interpreter", guarded)
        monkeypatch.setattr(launch, "_launch", self._enter)

    def _enter(self, kernel, grid, device, **args) -> None:
        self.launches.append((kernel, grid, device, args))
        self.launch_again(-1)

    def launch_again(self, index: int) -> None:
        """Repeats a launch, with the same arguments."""
        kernel, grid, device, args = self.launches[index]
        extents = set()
        for value in args.values():
            if isinstance(value, Tensor):
                size = value.numel() * value.element_size()
                for stride in {0, *(value.stride() if self._shift else ())}:
                    begin = value.data_ptr() + self._shift * stride * value.element_size()
                    extents.add((begin, begin + size, value.data_ptr()))
        self._extents = sorted(extents)
        self._launch(kernel, grid, device, **args)

    def _addresses(self, given: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
        real, known = given.copy(), np.logical_not(mask)
        for begin, end, base in self._extents:
            inside = (given >= begin) & (given + np.uint64(size) <= end)
            real = np.where(inside, given - np.uint64(begin) + np.uint64(base), real)
            known = known | inside
        assert known.all(), "an access outside all tensors"
        return real.astype(np.uint64)

    def _load(self, addresses, mask, other, dtype):
        real = self._addresses(addresses, mask, np.dtype(dtype).itemsize)
        return self._real.load(real, mask, other, dtype)

    def _store(self, addresses, value, mask):
        real = self._addresses(addresses, mask, value.dtype.itemsize)
        return self._real.store(real, value, mask)


@pytest.mark.parametrize(
    "case",
    [
        dataclasses.replace(SMALL, dropout=0.3, self_loops=True),
        dataclasses.replace(HUB, dropout=0.3, index_dtype=torch.int64),
        dataclasses.replace(HUB, edge_dim=None, grad_alpha=False, heads=9, blocks=2),
        dataclasses.replace(HUB, batch=2, bias="head", self_loops=True),
        dataclasses.replace(SMALL, batch=3, bias="edge", dropout=0.3, self_loops=True),
    ],
    ids=str,
)
def test_no_access_outside_the_tensors(case, monkeypatch):
    memory = Memory(monkeypatch)
    run(kernels, cast(build(case), torch.float32))
    assert len(memory.launches) >= 4


def test_offsets_beyond_32_bits(monkeypatch):
    """Sources, destinations and edges as if so many more stood before them."""
    problem = cast(build(HUB), torch.float32)
    want = run(kernels, problem)

    def shifted(rows: Rows, edge: int) -> Rows:
        tables = [table.clone() for table in (rows.pieces, rows.cuts)]
        for table in tables:
            table[table[:, 0] >= 0, 0] += SHIFT
        return Rows(rows.ptr, rows.idx + SHIFT, rows.edge + edge, *tables)

    far = problem._replace(by_dst=shifted(problem.by_dst, SHIFT), by_src=shifted(problem.by_src, 0))
    memory = Memory(monkeypatch, SHIFT)
    for name, value in run(kernels, far).items():
        assert torch.equal(value, want[name]), name
    assert len(memory.launches) == 9


# The seed of the dropout


def test_a_seed_in_memory_is_read_by_every_kernel(monkeypatch):
    """What a replay of a CUDA graph does: the same launches, with another seed in the tensor."""
    case = dataclasses.replace(HUB, dropout=0.5, heads=5)
    problem = cast(build(case), torch.float32)
    seed = torch.tensor(problem.seed)
    want = {new: run(kernels, problem._replace(seed=new)) for new in (problem.seed, 7)}

    memory = Memory(monkeypatch)
    outputs = problem._replace(seed=seed).forward(kernels)
    captured = len(memory.launches)
    grads = problem._replace(seed=seed).backward(kernels, outputs)
    with_seed = [args["seed"] for *_, args in memory.launches if "seed" in args]
    assert len(with_seed) == 4
    assert all(value is seed for value in with_seed)
    first = want[problem.seed]
    for name, value in outputs._asdict().items():
        assert torch.equal(value, first[name]), name
    for name, value in grads._asdict().items():
        assert value is None or torch.equal(value, first[f"grad {name}"]), name

    seed.fill_(7)
    for index in range(captured):
        memory.launch_again(index)
    for name, value in outputs._asdict().items():
        assert torch.equal(value, want[7][name]), name
    assert not torch.equal(want[7]["alpha"], first["alpha"])
    eid = problem.by_dst.edge.long()
    for new in want:
        keep = dropout_scale(eid, case.heads, 0.5, new, torch.float32)
        assert torch.equal(want[new]["alpha"][eid] > 0, keep > 0)


# The merge of long rows


@pytest.mark.parametrize("falling", [False, True])
def test_merge_of_many_pieces(falling):
    """Beyond the 128 pieces that are merged at once, with maxima that rise or fall by far."""
    from gatv2_pyg.kernels.triton import launch

    heads, channels, ends = 2, 40, (0, 3, 300, 429)
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(ends[-1], heads, channels, generator=rng)
    piece_lse = torch.randn(ends[-1], heads, generator=rng) + torch.arange(ends[-1])[:, None] * 0.3
    if falling:
        piece_lse = piece_lse.flip(0)
    cuts = torch.tensor([[4, 0, 3], [0, 3, 300], [2, 300, 429], [-1, 0, 0]], dtype=torch.int32)
    empty = torch.empty(0, dtype=torch.int32)
    merging = launch._Pass(Rows(empty, empty, empty, empty, cuts), None, {})
    out, lse = torch.full((5, heads, channels), 9.0), torch.full((5, heads), 9.0)
    total = torch.full((5, heads, channels), 9.0)
    merging.merge(values, out, piece_lse.contiguous(), lse)
    merging.merge(values, total)
    for row, begin, end in cuts[:3].tolist():
        part, weights = values[begin:end].double(), piece_lse[begin:end].double()
        want = (weights.softmax(0).unsqueeze(2) * part).sum(0)
        torch.testing.assert_close(out[row].double(), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lse[row].double(), weights.logsumexp(0), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(total[row].double(), part.sum(0), rtol=1e-4, atol=1e-4)
    for value in (out, lse, total):
        assert (value[[1, 3]] == 9.0).all()
