"""Heads of any number of vectors, whole or with a partial last one, on every instruction set."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.kernels.cases import run
from tests.kernels.cpu.test_degrees import DTYPES, problem_of
from tests.kernels.cpu.test_flat import DEGREES
from tests.kernels.cpu.test_passes import assert_right, needs_library

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

pytestmark = needs_library

# One to nine vectors, and eleven, of 2, 4, 8 and 16 lanes, some with a partial last one.
CHANNELS = tuple(
    sorted(
        {lanes * n - less for lanes in (4, 8, 16) for n in (*range(1, 10), 11) for less in (0, 1)}
    )
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_number_of_vectors(heads, channels, dtype):
    options = {"edge_dim": 3, "grad_alpha": True} if channels % 2 else {"bias": "head"}
    problem = problem_of(DEGREES, (heads, channels), dtype, dropout=0.3, blocks=2, **options)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@pytest.mark.usefixtures("isa")
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
