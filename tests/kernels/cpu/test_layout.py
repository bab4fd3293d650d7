"""How heads lie in vectors: parts of several in one, whole vectors, a partial last one."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.kernels.cases import run
from tests.kernels.cpu.test_degrees import DTYPES, problem_of
from tests.kernels.cpu.test_passes import assert_right, assert_same, needs_library

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

pytestmark = needs_library
every_isa = pytest.mark.usefixtures("isa")

# One to nine vectors, and eleven, of 2, 4, 8 and 16 lanes, some with a partial last one.
VECTORS = tuple(
    sorted(
        {
            lanes * n - less
            for lanes in (2, 4, 8, 16)
            for n in (*range(1, 10), 11)
            for less in (0, 1)
        }
    )
)
# 3, 5 and 6 quarters of a vector of 8 lanes (float32 with AVX2, float64 with AVX-512) and of 16.
QUARTERS = (6, 10, 12, 20, 24)
# Whole units of four heads, what remains of one, and a head by itself; more heads than lanes.
HEADS = (2, 3, 4, 5, 6, 7, 8, 9, 17)
# Narrow heads whose rows are up to five vectors of 16 lanes: as many heads as lanes of their
# scores or fewer, rows that end with a vector or within one.
NARROW = (
    *((3, 5), (5, 3), (9, 1), (16, 1)),
    *((3, 9), (3, 10), (5, 5), (5, 6), (6, 5), (13, 2), (10, 3)),
    *((2, 17), (2, 23), (3, 13), (4, 9), (4, 11), (5, 9), (6, 6), (7, 5), (7, 6), (8, 5), (8, 6)),
    *((11, 4), (13, 3), (15, 3), (16, 3)),
    *((3, 18), (3, 21), (5, 12), (6, 9), (7, 9), (10, 6), (12, 5), (13, 4), (15, 4)),
    *((2, 35), (2, 40), (3, 26), (5, 15), (7, 11), (8, 9), (8, 10), (13, 6), (16, 5)),
)
# Tiles of short rows that end with any number of edges, whole rows, and one that is cut.
DEGREES = [1, 2, 3, 0, 5, 17, 1, 64, 4, 65, 7, 530, 2, 16, 31, 1, 1, 9]


@every_isa
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", QUARTERS)
@pytest.mark.parametrize("heads", HEADS)
def test_every_number_of_heads(heads, channels, dtype):
    options = {"edge_dim": 3, "grad_alpha": True} if heads % 2 else {"bias": "head"}
    problem = problem_of(DEGREES, (heads, channels), dtype, dropout=0.3, **options)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@every_isa
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", NARROW, ids=str)
def test_narrow_heads(shape, dtype):
    options = {"edge_dim": 3, "grad_alpha": True} if sum(shape) % 2 else {"bias": "head"}
    problem = problem_of(DEGREES, shape, dtype, dropout=0.3, blocks=2, **options)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@every_isa
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        *((7, 12), (6, 20), (6, 10), (7, 6), (3, 24), (15, 12)),
        # Heads that share vectors, padded ones, and several segments.
        *((3, 2), (3, 4), (7, 3), (5, 5), (11, 2), (3, 7), (7, 9), (5, 17), (3, 130)),
        *((3, 5), (9, 1), (6, 5), (4, 9), (7, 6), (11, 4)),
    ],
    ids=str,
)
def test_lanes_of_no_head_reach_no_gradient_of_edge_features(shape, dtype):
    """Short rows and whole ones in turn: lanes past the heads are scratch of those before."""
    problem = problem_of([20, 70] * 4, shape, dtype, edge_dim=2)
    for _ in range(3):
        got = run(cpu, problem)
        assert all(value.isfinite().all() for value in got.values())
    assert_right(problem, got, factor=4.0, scale=1.0, beside_autograd=True)


@every_isa
@pytest.mark.parametrize("num_edges", [1, 2, 3, 18])
@pytest.mark.parametrize("shape", [(5, 20), (5, 24), (9, 12), (5, 10), (9, 6)], ids=str)
def test_a_head_by_itself(shape, num_edges):
    """It has fewer edges than are scored at once."""
    for degrees in ([num_edges], [num_edges] * 3):
        problem = problem_of(degrees, shape, torch.float32)
        assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@every_isa
@pytest.mark.parametrize("what", ["nan", "inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 12), (3, 20), (5, 24), (7, 10), (4, 6), *NARROW], ids=str)
def test_what_is_not_finite_stays_in_its_head(shape, dtype, what):
    """Heads that share a vector with one of NaN or infinite features don't see them."""
    heads = shape[0]
    problem = problem_of([2, 3, 1, 4, 0, 5, 70], shape, dtype)
    want = run(cpu, problem)
    for head in range(heads):
        for name, row in (("x_src", 1), ("x_dst", 6), ("grad_out", 3)):
            value = getattr(problem, name).clone()
            value[row, head] = float(what)
            got = run(cpu, problem._replace(**{name: value}))
            others = [h for h in range(heads) if h != head]
            for key in ("out", "lse", "grad x_src", "grad x_dst", "grad att"):
                mine, its = (
                    v[others] if key == "grad att" else v[:, others] for v in (got[key], want[key])
                )
                torch.testing.assert_close(mine, its, msg=key)
                # In the longest row a head that needs a new maximum rescales its neighbours.
                if key in ("out", "lse", "grad x_dst"):
                    assert torch.equal(mine[:6], its[:6]), key
            key = "grad x_src" if name == "grad_out" else "out"
            assert not got[key][:, head].isfinite().all()


@every_isa
@pytest.mark.parametrize(
    "shape", [(3, 20), (6, 24), (8, 12), (5, 6), (7, 10), (8, 5), (6, 5), (3, 9)], ids=str
)
def test_bits_do_not_depend_on_threads(shape, threads):
    degrees = [(7 * k) % 41 for k in range(300)]
    problem = problem_of(degrees, shape, torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(run(cpu, problem))
    for other in results[1:]:
        assert_same(other, results[0])


@every_isa
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", VECTORS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_number_of_vectors(heads, channels, dtype):
    options = {"edge_dim": 3, "grad_alpha": True} if channels % 2 else {"bias": "head"}
    problem = problem_of(DEGREES, (heads, channels), dtype, dropout=0.3, blocks=2, **options)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@every_isa
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [6, 11, 12, 21, 24, 40, 47, 48])
@pytest.mark.parametrize("heads", [2, 4, 5, 8, 17, 35])
def test_heads_of_three_vectors(heads, channels, dtype):
    """Two of them together, what remains by itself; more heads than lanes."""
    problem = problem_of(DEGREES, (heads, channels), dtype, dropout=0.3)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@pytest.mark.parametrize(
    ("shape", "same"), [((6, 24), True), ((2, 24), True), ((1, 24), False), ((6, 16), False)]
)
def test_several_heads_of_24_floats_take_avx2(shape, same, take_isa):
    """They are whole vectors of it, and one and a half of AVX-512."""
    problem = problem_of(DEGREES, shape, torch.float32)
    results = []
    for isa in ("avx2", "avx512"):
        take_isa(isa)
        results.append(run(cpu, problem))
    equal = all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert equal is same
