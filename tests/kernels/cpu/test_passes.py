"""The CPU kernels beyond their arithmetic: threads, forks, instruction sets, the counting sorts."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import multiprocessing
import os
import subprocess
import sys
import threading
from ctypes import c_double, c_int64, c_uint32, c_void_p

import pytest
import torch

from gatv2_pyg.graph import grouping
from gatv2_pyg.kernels.contract import Edges, Inputs, Options, Rows
from gatv2_pyg.ops import dropout, reference
from tests.kernels.cases import Case, assert_within_budget, build, cast, exact, rows_of, run
from tests.kernels.cpu.conftest import ISAS

abi = importlib.import_module("gatv2_pyg.kernels.cpu.abi")
cpu = importlib.import_module("gatv2_pyg.kernels.cpu")
library = importlib.import_module("gatv2_pyg.kernels.cpu.library")
structure = importlib.import_module("gatv2_pyg.kernels.cpu.structure")

needs_library = pytest.mark.skipif(
    cpu.unavailable() is not None, reason=f"the kernels are not available: {cpu.unavailable()}"
)

CASES = [
    Case(heads=8, num_edges=4000),
    Case(heads=3, channels=20, num_edges=4000, edge_dim=5, dropout=0.3, grad_alpha=True),
    Case(heads=4, channels=32, hub=3000, num_edges=300, edge_dim=3, grad_alpha=True),
    Case(heads=1, channels=128, hub=3000, num_edges=300),
    Case(heads=3, channels=21, hub=3000, num_edges=300, dropout=0.3, grad_alpha=True),
    Case(heads=8, num_edges=4000, hub=3000, blocks=3),
]


@functools.cache
def problem(case: Case, dtype: torch.dtype = torch.float32):
    return cast(build(case), dtype)


def assert_same(got, want) -> None:
    assert got.keys() == want.keys()
    for name, value in got.items():
        assert torch.equal(value, want[name]), name


def assert_right(problem, got, factor: float = 2.0, scale: float = 1e-20, **options) -> None:
    """Within the error budget; in float64, which is the judge, close to the reference."""
    if problem.x_src.dtype != torch.float64:
        return assert_within_budget(problem, got, factor, scale, **options)
    for name, want in exact(problem).items():
        torch.testing.assert_close(got[name], want, rtol=1e-12, atol=1e-12)


@needs_library
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case, threads):
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        results.append(run(cpu, problem(case)))
    for other in results[1:]:
        assert_same(other, results[0])


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "case",
    [
        Case(heads=8, num_edges=3000, blocks=2),
        Case(heads=3, channels=20, hub=3000, edge_dim=5, dropout=0.3, grad_alpha=True, blocks=3),
        Case(heads=1, channels=130, num_src=5, num_dst=90, num_edges=400, hub=3000, blocks=4),
        Case(num_src=7, num_dst=5, num_edges=30, self_loops=True, blocks=64),
        Case(num_src=9, num_dst=0, num_edges=0, blocks=2),
        Case(num_edges=2000, hub=700, blocks=2, index_dtype=torch.int64),
    ],
    ids=str,
)
def test_by_source_in_blocks_of_destinations(case, dtype):
    assert_right(problem(case, dtype), run(cpu, problem(case, dtype)))


@needs_library
def test_sums_of_a_source_do_not_depend_on_how_often_they_are_put_down():
    # One edge from each source: the same sums in any number of blocks.
    case = Case(num_src=50, num_dst=50, num_edges=0, self_loops=True)
    one = run(cpu, problem(case))
    assert_same(run(cpu, problem(dataclasses.replace(case, blocks=7))), one)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("heads", "channels"), [(8, 16), (1, 129)])
def test_results_larger_than_the_caches(heads, channels, dtype, threads):
    nodes = 17_000  # 8.7 MB in float32
    case = Case(heads, channels, num_src=nodes, num_dst=nodes, num_edges=3 * nodes, blocks=2)
    threads(2)
    got = run(cpu, problem(case, dtype))
    assert_right(problem(case, dtype), got)
    threads(1)
    assert_same(run(cpu, problem(case, dtype)), got)


@needs_library
@pytest.mark.parametrize("heads", [8, 16, 3])
def test_records_larger_than_the_caches(heads, threads):
    # From 64 bytes on records go past the caches, in ranges of 8 MiB and more (the first: 10 MB).
    case = Case(heads, 3, num_src=400, num_dst=600, num_edges=250_000, dropout=0.4, blocks=2)
    threads(2)
    got = run(cpu, problem(case))
    assert_right(problem(case), got)
    threads(1)
    assert_same(run(cpu, problem(case)), got)


@needs_library
@pytest.mark.parametrize(("heads", "channels"), [(1, 16), (8, 16), (2, 1), (17, 4)])
@pytest.mark.parametrize("step", [-1.9, -0.1, 0.1, 1.9, 2.1])
def test_scores_that_rise_or_fall_along_a_row(step, heads, channels):
    """The running maximum follows late; nothing may depend on when it does."""
    edges = 400
    case = Case(heads, channels, num_src=edges, num_dst=1, num_edges=0)
    scores = step / 16 * torch.arange(edges, dtype=torch.float64)
    order = torch.arange(edges)
    by_dst, by_src = rows_of(order, torch.zeros_like(order), case)
    rising = build(case)._replace(
        x_src=(scores - scores.mean()).view(-1, 1, 1).repeat(1, heads, channels) / channels,
        x_dst=torch.zeros(1, heads, channels, dtype=torch.float64),
        att=torch.ones(heads, channels, dtype=torch.float64),
        by_dst=by_dst,
        by_src=by_src,
        num_ids=edges,
        negative_slope=1.0,
    )
    rising = cast(rising, torch.float32)
    assert_right(rising, run(cpu, rising), scale=0.1)


@needs_library
def test_several_python_threads_at_once():
    case = Case(heads=8, num_edges=4000, hub=1000)
    want = run(cpu, problem(case))
    results = [None] * 4

    def work(slot):
        for _ in range(5):
            results[slot] = run(cpu, problem(case))

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(len(results))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for got in results:
        assert_same(got, want)


# Large enough for a parallel region in every pass, where a child that opens one waits for ever.
FORKED = Case(heads=8, num_edges=40_000, blocks=2)


def _child(connection):
    connection.send({name: value.numpy() for name, value in run(cpu, problem(FORKED)).items()})


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_use_them_after_its_parent_has(threads):
    threads(2)
    want = run(cpu, problem(FORKED))
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs,))
    child.start()
    try:
        assert mine.poll(60), "the child hangs"
        got = mine.recv()
    finally:
        child.kill()
        child.join()
    assert_same({name: torch.from_numpy(value) for name, value in got.items()}, want)


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_instruction_set(dtype):
    for case in (
        Case(heads=8, num_edges=1500),
        Case(heads=3, channels=21, edge_dim=5, dropout=0.3, grad_alpha=True, num_edges=1500),
        Case(heads=17, channels=3, num_edges=500),
        # Many edges a source: rows are interleaved.
        Case(heads=3, channels=21, dropout=0.3, grad_alpha=True, num_edges=1500),
        Case(heads=2, channels=80, num_edges=1500),
        Case(heads=4, channels=32, negative_slope=-0.5, num_edges=1500),
        Case(heads=8, negative_slope=1.7, num_edges=1500),
        Case(heads=3, channels=2600, num_src=5, num_dst=5, num_edges=100),
        Case(heads=16, channels=5, num_edges=1500, index_dtype=torch.int64),
        Case(heads=2, channels=300, num_edges=500),
    ):
        # Sums in another order: over few numbers the reference may have the better luck.
        assert_right(problem(case, dtype), run(cpu, problem(case, dtype)), factor=4.0)


@needs_library
@pytest.mark.parametrize("isa", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_an_error(isa, monkeypatch):
    monkeypatch.setenv("GATV2_PYG_ISA", isa)
    with pytest.raises(library.LibraryError, match=f"baseline, avx2, avx512, got '{isa}'"):
        library.open_library()


@pytest.mark.parametrize(("there", "best"), [(0b111, 2), (0b011, 1), (0b001, 0)])
def test_the_best_instruction_set_is_taken_unless_another_is_asked_for(there, best, monkeypatch):
    monkeypatch.delenv("GATV2_PYG_ISA", raising=False)
    assert library._choose_isa(there) == best
    monkeypatch.setenv("GATV2_PYG_ISA", "baseline")
    assert library._choose_isa(there) == 0
    monkeypatch.setenv("GATV2_PYG_ISA", "avx512")
    if there < 0b100:
        have = ", ".join(["baseline", "avx2"][: best + 1])
        with pytest.raises(library.LibraryError, match=f"asks for avx512, but .* have {have}$"):
            library._choose_isa(there)


@needs_library
def test_an_empty_file_is_no_library(monkeypatch, tmp_path):
    """What an interrupted build leaves behind."""
    monkeypatch.delenv("GATV2_PYG_LIBRARY", raising=False)
    empty = tmp_path / "libgatv2_cpu.so"
    empty.touch()
    real = library._candidates()
    monkeypatch.setattr(library, "_candidates", lambda: [empty, *real])
    assert library._find() in real
    monkeypatch.setattr(library, "_candidates", lambda: [empty])
    with pytest.raises(library.LibraryError, match="the C\\+\\+ kernels are not built"):
        library._find()


@needs_library
@pytest.mark.parametrize("change", [lambda found: found[:-1], lambda found: [*found, ("More", 8)]])
def test_a_library_with_other_records_is_refused(change, monkeypatch):
    found = list(abi.declared())
    monkeypatch.setattr(abi, "built", lambda handle: iter(change(found)))
    with pytest.raises(
        library.LibraryError, match=r"was built from other sources .*build it again"
    ):
        library.open_library()


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_the_library_says_whether_it_has_openmp():
    calls = (b"GOMP_parallel", b"__kmpc_fork_call")
    content = cpu.library().path.read_bytes()
    assert cpu.library().openmp == any(name in content for name in calls)


def test_a_missing_library_is_a_reason_not_an_exception(tmp_path):
    code = (
        "from gatv2_pyg.kernels import cpu\n"
        "assert 'not a file' in cpu.unavailable()\n"
        "import torch\n"
        "index = torch.zeros(1, dtype=torch.int64)\n"
        "try: cpu.group_by_dst(index, index, 1, 1, False, torch.int32)\n"
        "except RuntimeError as error: assert 'not a file' in str(error)\n"
        "else: raise AssertionError('no error')\n"
    )
    environment = os.environ | {"GATV2_PYG_LIBRARY": str(tmp_path / "none.so")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_runtime_in_the_process():
    if not cpu.library().openmp:
        pytest.skip("built without OpenMP")
    code = (
        "from gatv2_pyg.kernels import cpu\n"
        "assert cpu.unavailable() is None, cpu.unavailable()\n"
        "with open('/proc/self/maps') as maps:\n"
        "    names = {line.split()[-1] for line in maps if 'gomp' in line or 'libomp' in line}\n"
        "assert len(names) == 1, names\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.fixture
def poisoned(monkeypatch):
    """Outputs begin as NaN, or as an absurd index."""

    def poison(value):
        return value.fill_(float("nan") if value.is_floating_point() else 2**30)

    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))


@needs_library
@pytest.mark.parametrize(
    "case",
    [
        *CASES,
        Case(num_edges=0, edge_dim=3, grad_alpha=True),
        Case(self_loops=True, edge_dim=3, grad_alpha=True),
        Case(num_edges=0, num_src=0, num_dst=5),
        Case(num_edges=0, num_src=5, num_dst=0),
    ],
    ids=str,
)
def test_every_element_is_written(case, poisoned):
    for name, value in run(cpu, problem(case)).items():
        assert not value.isnan().any(), name


@needs_library
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_rows_of_a_hundred_thousand_edges(scale):
    """Out of one source and into one destination; better than the reference on every count."""
    case = Case(heads=2, channels=8, hub=100_000, num_edges=500, scale=scale)
    mine, peer = run(cpu, problem(case)), run(reference, problem(case))
    want = run(reference, cast(build(case), torch.float64))
    if scale > 1:
        # A rounded input moves logits of this size, so only inputs of equal value can be compared.
        exact = cast(problem(case), torch.float64)
        want = run(reference, exact)
    for name, value in mine.items():
        finite = want[name].isfinite()
        truth = want[name][finite]
        error = (value.double()[finite] - truth).square().mean().sqrt()
        other = (peer[name].double()[finite] - truth).square().mean().sqrt()
        eps = torch.finfo(value.dtype).eps * truth.square().mean().sqrt()
        assert error <= 1.2 * other + eps, name


@needs_library
def test_equal_scores_of_a_long_row_average_exactly():
    """With att = 0 each of n edges has the coefficient 1 / n, to the last bits."""
    n = 100_000
    x_src = torch.randn(n, 1, 16)
    ptr = torch.tensor([0, n], dtype=torch.int32)
    order = torch.arange(n, dtype=torch.int32)
    rows = Rows(ptr, order, ptr.new_empty(0), *grouping.cut_rows(ptr, n))
    zero = torch.zeros(1, 1, 16)
    inputs = Inputs(x_src, zero, zero[0], None, None)
    out, lse, alpha = cpu.forward(inputs, Edges(rows, None, n), Options(0.2, 0.0, 0), True)
    mean = x_src.double().mean(0, keepdim=True)
    torch.testing.assert_close(out.double(), mean, rtol=0, atol=1e-8)
    assert torch.equal(alpha, torch.full((n, 1), 1 / n))
    torch.testing.assert_close(lse, torch.tensor([[float(n)]]).log())


@needs_library
@pytest.mark.parametrize("case", CASES[2:], ids=str)
def test_tables_padded_with_no_row_change_nothing(case):
    """Where sizes must not depend on data, the tables end in entries of row -1."""
    p = problem(case)

    def padded(rows):
        none = rows.ptr.new_tensor([[-1, 0, 0]]).expand(5, 3)
        tables = (torch.cat([table, none]) for table in (rows.pieces, rows.cuts))
        return rows._replace(**dict(zip(("pieces", "cuts"), tables, strict=True)))

    assert_same(run(cpu, p._replace(by_dst=padded(p.by_dst), by_src=padded(p.by_src))), run(cpu, p))


def sorted_edges(src, dst, num_src, num_dst, self_loops):
    """By torch's stable sort, without its padding."""
    ptr, idx, eid = grouping.group_by_dst(src.long(), dst.long(), num_src, num_dst, self_loops)
    edges = int(ptr[-1])
    return ptr, idx[:edges], eid[:edges]


def layouts(index, dtype):
    yield index.to(dtype)
    wide = torch.zeros(index.numel(), 3, dtype=dtype)
    wide[:, 1] = index
    yield wide[:, 1]


@needs_library
@pytest.mark.parametrize("out_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("in_dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize(
    ("num_edges", "num_src", "num_dst"),
    [(0, 0, 0), (0, 4, 7), (1, 1, 1), (500, 20, 31), (500, 31, 20), (100_000, 300, 300)],
)
def test_counting_sorts(num_edges, num_src, num_dst, self_loops, in_dtype, out_dtype, threads):
    rng = torch.Generator().manual_seed(num_edges)
    src = torch.randint(max(num_src, 1), (num_edges,), generator=rng)
    dst = torch.randint(max(num_dst, 1), (num_edges,), generator=rng)
    want = sorted_edges(src, dst, num_src, num_dst, self_loops)
    want_srcs = {blocks: grouping.transpose(*want[:2], num_src, blocks) for blocks in (1, 3, 64)}
    for count in (1, 3):
        threads(count)
        for s, d in zip(layouts(src, in_dtype), layouts(dst, in_dtype), strict=True):
            *got, seen = cpu.group_by_dst(s, d, num_src, num_dst, self_loops, out_dtype)
            assert seen.bad is None
            assert seen.num_edges == want[1].numel()
            assert seen.max_degree == max([*want[0].diff().tolist(), 0])
            got[1:] = (part[: seen.num_edges] for part in got[1:])
            for blocks, want_src in want_srcs.items():
                *got_src, src_degree = cpu.transpose(*got[:2], num_src, blocks)
                assert src_degree == max([*want_src[0].diff().tolist(), 0])
                for mine, theirs in zip(got_src, want_src, strict=True):
                    assert mine.dtype == out_dtype
                    assert torch.equal(mine.long(), theirs.long())
            assert seen.identity == torch.equal(
                got[2], torch.arange(got[2].numel(), dtype=out_dtype)
            )
            for mine, theirs in zip(got, want, strict=True):
                assert mine.dtype == out_dtype
                assert mine.is_contiguous()
                assert torch.equal(mine.long(), theirs.long())


@needs_library
def test_edges_in_order_need_no_ids():
    src, dst = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 0, 1, 3])
    _, idx, _, seen = cpu.group_by_dst(src, dst, 3, 4, False, torch.int32)
    assert idx.tolist() == [2, 0, 1, 1]
    assert (seen.num_edges, seen.max_degree, seen.identity) == (4, 2, True)
    _, _, edge, seen = cpu.group_by_dst(src, dst, 3, 4, True, torch.int32)
    assert edge[: seen.num_edges].tolist() == [0, 4, 5, 6, 3]
    assert not seen.identity


@needs_library
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("end", "value"), [("src", -1), ("src", 50), ("dst", -7), ("dst", 60)])
def test_the_first_bad_index_is_named(end, value, dtype, count, threads):
    threads(count)
    src = torch.randint(50, (100_000,), dtype=dtype)
    dst = torch.randint(60, (100_000,), dtype=dtype)
    for position in (99_999, 70_001, 123):
        (src if end == "src" else dst)[position] = value
        *_, seen = cpu.group_by_dst(src, dst, 50, 60, True, torch.int32)
        assert seen.bad == (end, position, value)


# Random123's known answers for philox4x32-10: counter, key, result.
PHILOX = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@needs_library
@pytest.mark.parametrize(("counter", "key", "want"), PHILOX)
@pytest.mark.parametrize("isa", range(3))
def test_philox_known_answers(counter, key, want, isa):
    handle = cpu.library().handle
    if not handle.gatv2_isas() >> isa & 1:
        pytest.skip(f"this machine has no {ISAS[isa]}")
    words = (c_uint32 * 6)(*counter, *key)
    handle.gatv2_philox(words, c_int64(isa))
    assert tuple(words[:4]) == want
    assert tuple(int(word) for word in dropout.philox(counter, key)) == want


@needs_library
@pytest.mark.parametrize("isa", range(3))
@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 13])
def test_dropout_of_huge_ids(heads, isa):
    """Ids above 2**32 count too: the mask is that of the reference."""
    ids = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 7, 2**62, 5], dtype=torch.int64)
    ids = ids[torch.arange(40) % 8]
    keep = torch.full((ids.numel(), heads), float("nan"))
    seed = 2**62 + 12345
    handle = cpu.library().handle
    if not handle.gatv2_isas() >> isa & 1:
        pytest.skip(f"this machine has no {ISAS[isa]}")
    where = c_void_p(keep.data_ptr()), c_void_p(ids.data_ptr())
    sizes = c_int64(ids.numel()), c_int64(heads)
    handle.gatv2_dropout(*where, *sizes, c_double(0.3), c_int64(seed), c_int64(isa))
    want = dropout.dropout_scale(ids, heads, 0.3, seed, torch.float32)
    torch.testing.assert_close(keep, want)
