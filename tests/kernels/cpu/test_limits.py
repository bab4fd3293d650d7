"""The CPU kernels at the limits of precision and memory; float64 is the judge."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest
import torch

from gatv2_pyg.kernels.contract import Edges, Inputs, Needs, Options, OutputGrads, Rows
from gatv2_pyg.ops import reference
from tests.kernels.cases import Case, assert_within_budget, build, cast, exact, rows_of, run

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None, reason=f"the kernels are not available: {cpu.unavailable()}"
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def in_a_process(code: str) -> None:
    """Runs code that a fault may crash."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stderr[-2000:]}"


def relative(value, want) -> float:
    return float((value.double() - want).norm() / want.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_from_block_to_block_are_not_rounded(dtype):
    case = Case(heads=8, num_src=20, num_dst=400, num_edges=8000, blocks=40)
    problem = cast(build(case), dtype)
    got = run(cpu, problem)["grad x_src"]
    want = exact(problem)["grad x_src"]
    once = relative(want.to(dtype), want)
    assert relative(got, want) < 1.1 * once


def with_common_part(sigma: float, dtype: torch.dtype, case: Case):
    problem = build(case)
    rng = torch.Generator().manual_seed(case.seed + 99)
    common = torch.randn(case.heads, case.channels, generator=rng, dtype=torch.float64)
    return cast(problem._replace(x_src=problem.x_src + sigma * common), dtype)


@pytest.mark.parametrize(
    ("options", "sigma", "name", "most"),
    [
        ({}, 4.0, "grad x_dst", 4.2e-6),
        ({}, 30.0, "grad x_src", 2.1e-6),
        ({"edge_dim": 5}, 30.0, "grad x_src", 2.1e-6),
        ({"hub": 2000}, 30.0, "grad x_src", 2.1e-6),
    ],
)
def test_a_mean_that_neighbours_share_does_not_drown_gradients(options, sigma, name, most):
    """Twice as much is lost where the residual of (5) is not subtracted."""
    errors, sizes = 0.0, 0.0
    for seed in range(12):
        case = Case(num_src=100, num_dst=100, num_edges=1500, seed=seed, **options)
        problem = with_common_part(sigma, torch.float32, case)
        got, want = run(cpu, problem)[name], exact(problem)[name]
        errors += float((got.double() - want).square().sum())
        sizes += float(want.square().sum())
    assert (errors / sizes) ** 0.5 < most


def sizes_of_terms(problem) -> tuple[torch.Tensor, torch.Tensor]:
    """How large the terms of (8) and (7) are, summed over the edges of each row: in float64."""
    p = cast(problem, torch.float64)
    i, j, ids = reference.edge_list(p.by_dst)
    z = p.x_src[j] + p.x_dst[i]
    if p.edge_attr is not None:
        z = z + (p.edge_attr[ids] @ p.edge_weight.t()).view_as(z)
    s = (torch.nn.functional.leaky_relu(z, p.negative_slope) * p.att).sum(-1)
    alpha = (s - p.forward(reference).lse[i]).exp()
    parts = (p.grad_out[i] * p.x_src[j]).abs().sum(-1)
    ds = alpha * (parts + torch.zeros_like(exact(p)["lse"]).index_add(0, i, alpha * parts)[i])
    dz = (ds.unsqueeze(-1) * p.att).flatten(1).norm(dim=1)
    kept = (alpha.unsqueeze(-1) * p.grad_out[i]).flatten(1).norm(dim=1)
    by_src = torch.zeros(p.x_src.size(0), dtype=torch.float64).index_add(0, j, dz + kept)
    return by_src, torch.zeros(p.x_dst.size(0), dtype=torch.float64).index_add(0, i, dz)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 4e-3), (torch.float16, 8e-4)])
@pytest.mark.parametrize("sigma", [0.0, 4.0, 30.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.3}, {"edge_dim": 5}, {"hub": 2000}, {"hub": 2000, "dropout": 0.5}],
    ids=str,
)
def test_gradients_in_half_precision(options, sigma, dtype, most):
    case = Case(num_src=100, num_dst=100, num_edges=1500, **options)
    problem = with_common_part(sigma, dtype, case)
    got, want = run(cpu, problem), exact(problem)
    for name in ("grad x_src", "grad x_dst", "grad att"):
        assert relative(got[name], want[name]) < most, name
    # Row by row, and by float32's rounding of the terms where those cancel.
    terms = dict(zip(("grad x_src", "grad x_dst"), sizes_of_terms(problem), strict=True))
    for name, scale in terms.items():
        error = (got[name].double() - want[name]).flatten(1).norm(dim=1)
        size = want[name].flatten(1).norm(dim=1)
        assert bool((error <= most * size + 1e-6 * scale).all()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nan_is_not_lost(dtype):
    problem = cast(build(Case(heads=3, channels=20, num_edges=400, edge_dim=3)), dtype)
    x_src = problem.x_src.clone()
    if dtype == torch.bfloat16:
        # A payload that lies in the low bits of a float is no infinity.
        x_src.view(torch.int16)[7, 1, 4] = 0x7F81
    else:
        x_src[7, 1, 4] = float("nan")
    problem = problem._replace(x_src=x_src)
    got, want = run(cpu, problem), exact(problem)
    for name, value in got.items():
        assert torch.equal(value.isnan(), want[name].isnan()), name
        assert value.isnan().any(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"edge_dim": 4}, {"heads": 8, "channels": 16}], ids=str)
def test_z_exactly_zero_has_the_negative_slope(options, dtype):
    case = Case(**{"heads": 3, "channels": 5, "num_edges": 900, "negative_slope": 0.25} | options)
    problem = build(case)
    small = problem._replace(
        x_src=problem.x_src.round().clamp(-1, 1), x_dst=problem.x_dst.round().clamp(-1, 1)
    )
    if small.edge_attr is not None:
        small = small._replace(
            edge_attr=small.edge_attr.round().clamp(-1, 1),
            edge_weight=small.edge_weight.round().clamp(-1, 1),
        )
    small = cast(small, dtype)
    if dtype == torch.float64:
        for name, want in exact(small).items():
            torch.testing.assert_close(run(cpu, small)[name], want, rtol=1e-12, atol=1e-12)
    else:
        assert_within_budget(small, run(cpu, small))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_edges_in_the_last_block(dtype):
    case = Case(heads=8, num_src=60, num_dst=40, num_edges=0, blocks=4)
    rng = torch.Generator().manual_seed(1)
    edges = 30_000
    src = torch.randint(60, (edges,), generator=rng)
    dst = torch.randint(30, 40, (edges,), generator=rng)
    by_dst, by_src = rows_of(src, dst, case)
    problem = build(case)._replace(by_dst=by_dst, by_src=by_src, num_ids=edges)
    problem = cast(problem, dtype)
    assert_within_budget(problem, run(cpu, problem))


def untouched(rows: int, channels: int) -> torch.Tensor:
    """Rows of float32 whose pages no one has asked for yet."""
    import mmap

    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, 4 * rows * channels, flags=flags)
    return torch.frombuffer(memory, dtype=torch.float32).view(rows, 1, channels)


@linux
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_beyond_four_gibibytes(dtype):
    """Few rows of a tensor of a little over 4 GiB are read: the others stay untouched."""
    channels, far = 128, 2**32 // (4 * 128) + 60
    case = Case(heads=1, channels=channels, num_src=50, num_dst=50, num_edges=600)
    small = cast(build(case), torch.float32)
    want = run(cpu, small)
    # The last 25 nodes move to the far end.
    place = torch.arange(50, dtype=dtype)
    place[25:] += far - 50

    # The same nodes at the near end of as large a tensor: its size decides how rows are taken.
    needs = Needs(False, True, True, False, False)
    options = Options(0.2, 0.0, 0)
    found = []
    for at in (torch.arange(50, dtype=dtype), place):
        x_src = untouched(far, channels)
        x_src[at.long()] = small.x_src
        by_dst = Rows(*(part.to(dtype) for part in small.by_dst))
        edges = Edges(by_dst._replace(idx=at[small.by_dst.idx.long()]), None, small.num_ids)
        inputs = Inputs(x_src, small.x_dst, small.att, None, None)
        outputs = cpu.forward(inputs, edges, options, False)
        grads = OutputGrads(small.grad_out, None)
        found.append(
            (outputs.out, cpu.backward(grads, inputs, outputs, edges, options, needs).x_dst)
        )
    for near, away in zip(*found, strict=True):
        assert torch.equal(away, near)
    torch.testing.assert_close(found[0][0], want["out"])

    # The same for rows of destinations, gathered by source.
    x_dst, out, grad_out = (untouched(far, channels) for _ in range(3))
    x_dst[place.long()], out[place.long()] = small.x_dst, want["out"]
    grad_out[place.long()] = small.grad_out
    lse = torch.zeros(far, 1)
    lse[place.long()] = want["lse"]
    degree = torch.zeros(far, dtype=dtype)
    degree[place.long()] = by_dst.ptr.diff()
    ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0).to(dtype)])
    by_src = Rows(*(part.to(dtype) for part in small.by_src))
    by_src = by_src._replace(idx=place[small.by_src.idx.long()])
    inputs = Inputs(small.x_src, x_dst, small.att, None, None)
    edges = Edges(by_dst._replace(ptr=ptr), by_src, small.num_ids)
    outputs = outputs._replace(out=out, lse=lse)
    needs = Needs(True, False, False, False, False)
    grads = cpu.backward(OutputGrads(grad_out, None), inputs, outputs, edges, options, needs)
    torch.testing.assert_close(grads.x_src, want["grad x_src"])


@linux
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_too_little_memory_is_a_memory_error(direction):
    """Of a call, in a process that may map no more."""
    in_a_process(
        f"""
        import resource
        import torch
        from gatv2_pyg.kernels import cpu
        from gatv2_pyg.kernels.contract import Needs
        from tests.kernels.cases import Case, build, cast

        torch.set_num_threads(1)
        # Records of 256 bytes an edge; in forward, partial sums of 800 pieces of wide rows.
        backward = {direction!r} == "backward"
        case = Case(heads=32, channels=1, num_edges=400_000) if backward else Case(
            heads=1, channels=40_000, num_src=3, num_dst=3, num_edges=0, hub=200_000)
        p = cast(build(case), torch.float32)
        outputs = p.forward(cpu) if backward else None
        with open("/proc/self/statm") as status:
            mapped = int(status.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (60 << 20), hard))
        try:
            p.backward(cpu, outputs) if backward else p.forward(cpu)
        except MemoryError as error:
            assert "scratch memory" in str(error)
        else:
            raise AssertionError("no error")
        """
    )
