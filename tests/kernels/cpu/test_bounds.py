"""Nothing is read past the tensors: a fault ends the process that tries."""

from __future__ import annotations

import pytest

from tests.kernels.cpu.test_limits import in_a_process, linux
from tests.kernels.cpu.test_passes import needs_library

pytestmark = [linux, needs_library]


def test_nothing_is_read_beyond_the_indices():
    in_a_process(
        """
        import torch
        from gatv2_pyg.kernels import cpu
        from gatv2_pyg.kernels.contract import Rows
        from tests.kernels.cases import Case, build, cast, run
        from tests.kernels.cpu.guarded import guarded

        for options in ({}, {"heads": 8}, {"hub": 700}, {"edge_dim": 3, "dropout": 0.2},
                        {"num_edges": 17}, {"num_edges": 3}, {"heads": 8, "blocks": 3}):
            for dtype in (torch.int32, torch.int64):
                p = cast(build(Case(index_dtype=dtype, **options)), torch.float32)
                rows = [Rows(*map(guarded, rows)) for rows in (p.by_dst, p.by_src)]
                run(cpu, p._replace(by_dst=rows[0], by_src=rows[1]))
        """
    )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_nothing_is_read_beyond_the_rows(dtype):
    """Of one edge and of many, in short rows, whole ones and pieces of one."""
    in_a_process(
        f"""
        import itertools
        import torch
        from gatv2_pyg.kernels import cpu
        from tests.kernels.cases import Case, build, cast
        from tests.kernels.cpu.guarded import guarded, release

        torch.set_num_threads(1)
        names = "x_src x_dst att edge_attr edge_weight attn_bias grad_out grad_alpha".split()
        shapes = [*itertools.product((2, 3, 5, 7, 9), (6, 10, 12, 20, 24)), *(
            (heads, channels) for heads in (1, 3, 8) for channels in (1, 2, 3, 5, 7, 9, 17, 33)
        )]
        graphs = [dict(num_edges=1), dict(num_edges=3), dict(num_edges=40, num_src=3, num_dst=2),
                  dict(num_edges=30, hub=70), dict(num_edges=3, hub=600)]
        for number, ((heads, channels), graph) in enumerate(itertools.product(shapes, graphs)):
            options = [dict(), dict(edge_dim=3), dict(bias="head", grad_alpha=True)][number % 3]
            p = cast(build(Case(heads=heads, channels=channels, **graph, **options)), torch.{dtype})
            p = p._replace(**{{name: guarded(getattr(p, name)) for name in names}})
            outputs = p.forward(cpu)
            outputs = type(outputs)(*map(guarded, outputs))
            p.backward(cpu, outputs)
            del p, outputs
            release()
        """
    )
