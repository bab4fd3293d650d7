"""The CPU kernels on every mixture of short and long rows, by destination and by source."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatv2_pyg.ops import reference
from tests.kernels.cases import Case, build, by_autograd, cast, exact, rows_of, run
from tests.kernels.cpu.test_passes import assert_right, assert_same, needs_library
from tests.kernels.test_accuracy import pygs, results

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Whole vectors, shared by narrow heads, partial ones, flat rows, and heads of several segments.
SHAPES = [
    *((heads, channels) for heads in (1, 2, 3, 8) for channels in (1, 2, 5, 7, 8, 12, 16, 20)),
    (4, 32),
    (1, 128),
    (6, 24),
    (5, 20),
    (7, 24),
    (9, 12),
    (5, 3),
    (17, 4),
    (2, 130),
    (33, 1),
]
# A batch holds 64 edges; rows of more than 512 are cut.
DEGREES = st.integers(0, 40) | st.sampled_from([0, 1, 2, 63, 64, 65, 80, 130])


def problem_of(degrees: list[int], shape: tuple[int, int], dtype: torch.dtype, **options):
    """Destination ``i`` has ``degrees[i]`` edges; so has, in reverse, source ``i``."""
    num_rows = len(degrees)
    dst = torch.arange(num_rows).repeat_interleave(torch.tensor(degrees, dtype=torch.long))
    rng = torch.Generator().manual_seed(num_rows)
    src = dst.flip(0)[torch.randperm(dst.numel(), generator=rng)]
    case = Case(*shape, num_src=num_rows, num_dst=num_rows, num_edges=dst.numel(), **options)
    by_dst, by_src = rows_of(src, dst, case)
    return cast(build(case)._replace(by_dst=by_dst, by_src=by_src), dtype)


@needs_library
@settings(max_examples=150)
@given(
    degrees=st.lists(DEGREES, min_size=1, max_size=24),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    edge_dim=st.sampled_from([None, None, 1, 5]),
    dropout=st.sampled_from([0.0, 0.0, 0.4]),
    grad_alpha=st.booleans(),
    bias=st.sampled_from([None, "edge", "head"]),
    batch=st.sampled_from([None, None, None, 3]),
    blocks=st.integers(1, 3),
)
@example([64, 1, 0, 63, 1, 65, 0], (8, 8), torch.float32, 5, 0.4, True, None, None, 2)
@example([64, 1, 0, 63, 1, 65, 0], (8, 8), torch.float32, 5, 0.4, True, "head", 3, 2)
@example([0, 0, 0], (8, 5), torch.float32, None, 0.0, False, None, None, 1)
@example([65], (4, 32), torch.float32, 1, 0.0, False, None, None, 1)
@example([1] * 70, (3, 20), torch.bfloat16, 1, 0.0, True, "edge", None, 3)
@example([40] * 12, (6, 24), torch.float32, None, 0.4, False, "head", None, 2)
@example([600, 3, 64, 64, 1], (8, 7), torch.float32, None, 0.0, True, "edge", 3, 1)
@example([1100, 3, 64, 64, 1], (17, 4), torch.float32, None, 0.0, True, "head", None, 1)
def test_degrees(degrees, shape, dtype, edge_dim, dropout, grad_alpha, bias, batch, blocks):
    options = {"edge_dim": edge_dim, "dropout": dropout, "grad_alpha": grad_alpha}
    options |= {"bias": bias, "batch": batch}
    problem = problem_of(degrees, shape, dtype, blocks=blocks, **options)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@needs_library
@pytest.mark.parametrize(
    ("degrees", "shape", "edge_dim"),
    [([65], (4, 32), 1), ([130], (1, 128), 5), ([65, 65], (4, 32), 1), ([40] * 5, (8, 16), None)],
    ids=str,
)
def test_sums_that_cancel_err_about_as_pygs_layer(degrees, shape, edge_dim):
    """Sources are few, so ``ds`` is next to nothing; test_degrees' peer errs as that layer."""
    squares: dict[str, torch.Tensor] = {}
    for seed in range(20):
        problem = problem_of(degrees, shape, torch.float32, edge_dim=edge_dim, seed=seed)
        i, j, eid = reference.edge_list(problem.by_dst)
        index = torch.stack([j, i])[:, eid.argsort()]
        named = problem.inputs._asdict().items()
        values = {name: value for name, value in named if value is not None}
        theirs = results(pygs, index, values, problem.grad_out)
        truth, ours, peer = exact(problem), run(cpu, problem), by_autograd(problem)
        for name in values:
            key = f"grad {name}"
            errors = [value - truth[key] for value in (ours[key], peer[key], theirs[name])]
            found = torch.stack([error.square().sum() for error in errors])
            squares[key] = squares.get(key, 0) + found
    for key, sums in squares.items():
        mine, peers, pyg = sums.sqrt().tolist()
        # Which is smaller is chance, and another one with each instruction set. Edges of whole rows
        # get their gradients before what their ds add up to is known.
        assert mine <= (2.0 if "edge" in key else 1.25) * pyg, key
        assert pyg / 2 <= peers <= 2 * pyg, key


@needs_library
@pytest.mark.parametrize("shape", [(8, 16), (8, 8), (8, 5), (3, 20), (6, 24), (1, 7)], ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": "head"}, {"bias": "edge", "batch": 5}], ids=str)
def test_tiles_of_several_rows_depend_on_the_graph_alone(shape, options):
    degrees = [(7 * k) % 41 for k in range(400)]
    problem = problem_of(degrees, shape, torch.float32, **options)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(cpu, problem))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(other, results[0])


@needs_library
@pytest.mark.parametrize("shape", [(8, 16), (8, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_what_is_not_finite_stays_in_its_row(shape, what):
    """Rows that share a tile with a row of NaN or infinite scores don't see them."""
    degrees = [2, 3, 1, 4, 0, 5]
    problem = problem_of(degrees, shape, torch.float32)
    want = run(cpu, problem)
    x_dst = problem.x_dst.clone()
    x_dst[3] = float(what)
    got = run(cpu, problem._replace(x_dst=x_dst))
    others = [0, 1, 2, 4, 5]
    for name in ("out", "lse", "grad x_dst"):
        assert torch.equal(got[name][others], want[name][others]), name
    assert got["out"][3].isnan().all()


@needs_library
@pytest.mark.parametrize("shape", [(8, 16), (8, 8), (3, 20), (1, 7)], ids=str)
def test_scores_far_apart_between_rows_of_a_tile(shape):
    """Each row is shifted by its own maximum: none underflows for another's."""
    heads, channels = shape
    degrees = [2, 3, 1, 4, 5, 2]
    problem = problem_of(degrees, shape, torch.float64)
    level = torch.tensor([0.0, 1e4, -1e4, 300.0, -300.0, 5e3], dtype=torch.float64)
    att = torch.ones(heads, channels, dtype=torch.float64) / channels
    problem = problem._replace(x_dst=level.view(-1, 1, 1).expand_as(problem.x_dst), att=att)
    problem = cast(problem, torch.float32)
    got = run(cpu, problem)
    assert all(value.isfinite().all() for value in got.values())
    assert_right(problem, got)


def with_scores(problem, levels: list[float]):
    """The problem with scores of about ``levels``, one for each destination, up to the rounding."""
    channels = problem.att.shape[-1]
    x_dst = torch.tensor([level if level > 0 else level / 0.2 for level in levels])
    return problem._replace(
        x_dst=x_dst.to(problem.x_dst).view(-1, 1, 1).expand_as(problem.x_dst).contiguous(),
        att=torch.full_like(problem.att, 1 / channels),
    )


# Scores take one lane, 2, 4, 8, 16 or more an edge.
STRIDES = [(1, 7), (2, 9), (3, 20), (4, 16), (8, 5), (8, 16), (13, 4), (17, 4)]


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", STRIDES, ids=str)
@pytest.mark.parametrize("options", [{}, {"dropout": 0.4, "grad_alpha": True}], ids=str)
@pytest.mark.parametrize("far", [1e4, -1e4, 20.0, -20.0])
def test_rows_far_from_zero_leave_the_bits_of_others(shape, dtype, options, far):
    """Scores near 0 need no maximum; a tile with others looks for it, row by row."""
    degrees = [2, 3, 1, 17, 0, 5, 4, 16]
    problem = problem_of(degrees, shape, dtype, **options)
    # One row is about where scores begin to be far.
    levels = [0.0, 15.5, -15.5, 3.0, 0.0, -1.0, 8.0, 12.0]
    near = with_scores(problem, levels)
    want, others = run(cpu, near), [0, 1, 2, 3, 4, 5, 7]
    assert_right(near, want)
    levels[6] = far
    problem = with_scores(problem, levels)
    got = run(cpu, problem)
    for name in ("out", "lse", "grad x_dst"):
        assert torch.equal(got[name][others], want[name][others]), name
    # The edges are known by where they lie.
    begin = sum(degrees[:6])
    kept = [e for e in range(sum(degrees)) if not begin <= e < begin + degrees[6]]
    if problem.grad_alpha is not None:
        assert torch.equal(got["alpha"][kept], want["alpha"][kept])


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", STRIDES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_scores_about_where_they_are_far(shape, dtype, spread):
    degrees = [(3 * k) % 20 for k in range(60)]
    problem = problem_of(degrees, shape, dtype)
    problem = with_scores(problem, [(-1) ** k * 16.0 for k in range(60)])
    problem = problem._replace(x_src=problem.x_src * spread)
    assert_right(problem, run(cpu, problem), factor=4.0, scale=1.0, beside_autograd=True)


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", STRIDES, ids=str)
def test_one_score_far_from_zero(shape, dtype):
    """In any row of a tile, the last one too, and any head."""
    heads = shape[0]
    near = with_scores(problem_of([5] * 12, shape, dtype), [0.0] * 12)
    for row in range(12):
        for head in {0, 1 % heads, heads - 1}:
            x_dst = near.x_dst.clone()
            x_dst[row, head] = 300.0
            problem = near._replace(x_dst=x_dst)
            got, want = run(cpu, problem), exact(problem)
            assert all(value.isfinite().all() for value in got.values())
            for name in ("out", "lse"):
                torch.testing.assert_close(got[name].double(), want[name], rtol=1e-4, atol=1e-4)


# Heads fill the lanes of a score, or not; alone in vectors, several to a vector, flat.
HEADS_AND_LANES = [(5, 4), (3, 7), (3, 5), (3, 20), (13, 3), (17, 4), (8, 8)]


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", HEADS_AND_LANES, ids=str)
@pytest.mark.parametrize("degrees", [[3, 4, 5], [70, 3], [600, 70]], ids=str)
@pytest.mark.parametrize("bias", [15.9, 88.9, 266.0, 710.5, -300.0])
def test_a_bias_that_all_edges_have_changes_nothing(shape, dtype, degrees, bias):
    problem = problem_of(degrees, shape, dtype, edge_dim=2, bias="edge")
    want = run(cpu, problem._replace(attn_bias=torch.zeros_like(problem.attn_bias)))
    got = run(cpu, problem._replace(attn_bias=torch.full_like(problem.attn_bias, bias)))
    eps = abs(bias) * torch.finfo(dtype).eps
    for name, value in got.items():
        expected = want[name] + bias if name == "lse" else want[name]
        size = (
            want["grad edge_attr"].abs().max() if name == "grad attn_bias" else expected.abs().max()
        )
        torch.testing.assert_close(value, expected, rtol=0, atol=float(40 * eps * size), msg=name)


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", HEADS_AND_LANES, ids=str)
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_a_bias_that_is_not_finite_stays_in_its_row(shape, what):
    """Neither the rows beside it nor those of later tiles see it."""
    degrees = [0, 17, 0, 0, 16, 3, 17, 2, 3, 4, 5, 16, 4, 15, 31, 4, 8, 1, 1, 2, 4, 1]
    problem = problem_of(degrees, shape, torch.float32, edge_dim=3, dropout=0.4, bias="edge")
    rows = torch.arange(len(degrees)).repeat_interleave(torch.tensor(degrees))
    want = run(cpu, problem)
    for row in (1, 5, 14):
        attn_bias = problem.attn_bias.clone()
        attn_bias[(rows == row).nonzero()[0]] = float(what)
        got = run(cpu, problem._replace(attn_bias=attn_bias))
        others = torch.arange(len(degrees)) != row
        for name in ("out", "lse", "grad x_dst"):
            assert torch.equal(got[name][others], want[name][others]), name
        for name in ("grad edge_attr", "grad attn_bias"):
            assert torch.equal(got[name][rows != row], want[name][rows != row]), name
        assert got["out"][row].isnan().any()


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(8, 16), (8, 5), (3, 20), (1, 7)], ids=str)
@pytest.mark.parametrize(
    ("size", "score"), [(3e31, 15.0), (3e29, 20.0), (1e35, 0.0), (1e-36, -15.0)]
)
def test_features_at_the_ends_of_the_range(shape, size, score):
    """Weights are normalised before they meet features that scores do not show."""
    problem = problem_of([3, 4, 2, 5, 16], shape, torch.float32)
    att, x_src, x_dst = (v.clone() for v in (problem.att, problem.x_src, problem.x_dst))
    att[:] = 0
    att[:, 0] = 1
    x_src[..., 0] *= 0.1
    x_src[..., 1:] *= size
    x_dst[...] = score if score > 0 else score / 0.2
    problem = problem._replace(att=att, x_src=x_src, x_dst=x_dst)
    got, want = run(cpu, problem), exact(problem)
    for name in ("out", "grad x_dst", "grad x_src"):
        assert got[name].isfinite().all(), name
    error = (got["out"].double() - want["out"]).abs().max() / want["out"].abs().max()
    assert error < 1e-5
