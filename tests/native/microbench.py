"""The passes of the CPU kernels by themselves, against those of another build.

    python -m tests.native.microbench [--against LIBRARY] [--rounds N] [--shapes 8x16,1x128]

Both libraries are called in turn with the same arguments, in one process and one thread, by that
thread's processor time: what else the machine does counts little.  The other library must have the
same interface, for it takes the same ``Arguments`` record.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from ctypes import byref
from pathlib import Path

import torch

from gatv2_pyg.kernels import cpu
from gatv2_pyg.kernels.contract import Edges, Inputs, Options, Outputs, Rows
from gatv2_pyg.kernels.cpu import _arguments, abi
from gatv2_pyg.kernels.cpu.library import library
from gatv2_pyg.kernels.cpu.structure import grouped_edges


def opened(path: Path) -> ctypes.CDLL:
    handle = ctypes.CDLL(str(path))
    version = handle.gatv2_abi_version()
    if version != abi.VERSION:
        raise SystemExit(f"{path} has interface {version}, this checkout {abi.VERSION}")
    for name in ("gatv2_forward", "gatv2_backward"):
        function = getattr(handle, name)
        function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_int64)
    return handle


def graph(num_nodes: int, num_edges: int, blocks: int) -> tuple[Rows, Rows]:
    src, dst = torch.randint(num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(0))
    *rows, _ = cpu.group_by_dst(src, dst, num_nodes, num_nodes, False, torch.int32)
    by_dst = Rows(*rows, *cpu.piece_tables(rows[0], num_edges))
    *rows, _ = cpu.transpose(by_dst.ptr, by_dst.idx, num_nodes, blocks)
    return by_dst, Rows(*rows, *cpu.piece_tables(rows[0], num_edges))


def passes(heads: int, channels: int, num_nodes: int, num_edges: int, blocks: int):
    """The calls to time: a record of arguments each, and which function takes it."""
    by_dst, by_src = graph(num_nodes, num_edges, blocks)
    rng = torch.Generator().manual_seed(1)
    x_src, x_dst, grad_out = torch.randn(3, num_nodes, heads, channels, generator=rng)
    att = torch.randn(heads, channels, generator=rng) / channels**0.5
    inputs = Inputs(x_src, x_dst, att, None, None)
    outputs = Outputs(torch.empty_like(x_dst), torch.empty(num_nodes, heads), None)
    edges, options = Edges(by_dst, by_src, num_edges), Options(0.2, 0.0, 0)
    results = torch.empty_like(x_src), torch.empty_like(x_dst), torch.empty_like(att)
    kept = (inputs, outputs, edges, grad_out, results)

    def record(**more) -> ctypes.Structure:
        args = _arguments(inputs, edges, options, outputs)
        args.threads = 1
        for name, value in more.items():
            setattr(args, name, value)
        args.kept = kept
        return args

    by_destination = {
        "grad_out": grad_out.data_ptr(),
        "d_x_dst": results[1].data_ptr(),
        "d_att": results[2].data_ptr(),
    }
    by_source = {
        "by_src": grouped_edges(*by_src),
        "src_blocks": blocks,
        "d_x_src": results[0].data_ptr(),
    }
    yield "forward", "gatv2_forward", record()
    yield "by destination", "gatv2_backward", record(**by_destination)
    yield "both directions", "gatv2_backward", record(**by_destination, **by_source)


def measured(handle: ctypes.CDLL, function: str, args: ctypes.Structure, isa: int) -> float:
    begin = time.thread_time()
    status = getattr(handle, function)(byref(args), isa)
    assert status == 0, f"{function} returned {status}"
    return (time.thread_time() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another build of the library")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shapes", default="8x16,1x128,4x32")
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--blocks", type=int, default=3)
    options = parser.parse_args()
    lib = library()
    mine, other = lib.handle, opened(options.against) if options.against else None
    print(f"{abi.VERSION=} {lib.isa}, {options.nodes:,} nodes, {options.edges:,} edges, one thread")
    print(f"{'shape':>8} {'pass':>16} {'ms':>8} {'other':>8} {'of minima':>10} {'median':>7}")
    for shape in options.shapes.split(","):
        heads, channels = map(int, shape.split("x"))
        calls = passes(heads, channels, options.nodes, options.edges, options.blocks)
        for name, function, args in calls:
            pairs = []
            for k in range(options.rounds + 1):
                turn = [mine, other or mine][:: 1 if k % 2 else -1]
                times = {
                    id(handle): measured(handle, function, args, lib.isa_number) for handle in turn
                }
                pairs.append((times[id(mine)], times[id(other or mine)]))
            first, second = zip(*pairs[1:], strict=True)
            ratio = statistics.median(a / b for a, b in pairs[1:])
            print(
                f"{shape:>8} {name:>16} {min(first):8.2f} {min(second):8.2f} "
                f"{min(first) / min(second):10.3f} {ratio:7.3f}"
            )


if __name__ == "__main__":
    main()
