"""The kernels as they are built for aarch64, run under QEMU, against the float64 reference."""

from __future__ import annotations

import os

import pytest
import torch

from tests.aarch64.emulated import COMMAND, Emulated
from tests.kernels.cases import Case, build, cast, run
from tests.kernels.cpu.test_degrees import problem_of
from tests.kernels.cpu.test_passes import assert_right, assert_same

pytestmark = pytest.mark.skipif(
    COMMAND not in os.environ, reason="needs QEMU and a cross compiler: make test-aarch64"
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# A vector holds four floats: heads of a part of one, of one, of several, and of several segments.
SHAPES = [
    *((heads, channels) for heads in (1, 2, 3, 4, 8) for channels in (1, 2, 3, 4, 5, 8, 16)),
    (2, 7),
    (4, 20),
    (4, 32),
    (1, 128),
    (2, 130),
    (17, 4),
    (33, 1),
]
# Of 0 to 40 edges in no order, then rows of several tiles.
DEGREES = [(29 * k + 7) % 41 for k in range(41)]
LONG = [600, 0, 64, 65, 1, 130, 40]


@pytest.fixture(scope="module")
def kernels():
    emulated = Emulated(os.environ[COMMAND])
    yield emulated
    emulated.close()


def test_degrees_are_those_they_should_be():
    assert sorted(DEGREES) == list(range(41))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "channels"), SHAPES)
def test_shapes(kernels, heads, channels, dtype):
    problem = problem_of(DEGREES, (heads, channels), dtype)
    assert_right(problem, run(kernels, problem), factor=4.0, scale=4.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(8, 16), (8, 2), (3, 20), (2, 5), (1, 128)], ids=str)
@pytest.mark.parametrize("degrees", [DEGREES, LONG], ids=["short", "long"])
def test_options(kernels, shape, dtype, degrees):
    """Edge features, dropout, gradients of coefficients, and ranges of destinations."""
    problem = problem_of(degrees, shape, dtype, edge_dim=5, dropout=0.4, grad_alpha=True, blocks=2)
    assert_right(problem, run(kernels, problem), factor=4.0, scale=4.0)


@pytest.mark.parametrize(
    "case",
    [
        Case(num_edges=0),
        Case(num_edges=0, num_src=0, num_dst=0),
        Case(negative_slope=-0.5),
        Case(dropout=1.0, grad_alpha=True),
        Case(index_dtype=torch.int64, self_loops=True),
        Case(scale=1e4),
    ],
    ids=str,
)
def test_corners(kernels, case):
    problem = cast(build(case), torch.float32)
    assert_right(problem, run(kernels, problem))


@pytest.mark.parametrize("shape", [(8, 16), (3, 5)], ids=str)
def test_threads_do_not_matter(kernels, shape):
    problem = problem_of(DEGREES * 4 + LONG, shape, torch.float32, grad_alpha=True)
    threaded = Emulated(os.environ[COMMAND], threads=3)
    assert_same(run(threaded, problem), run(kernels, problem))
    threaded.close()
