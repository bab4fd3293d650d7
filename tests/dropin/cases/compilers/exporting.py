"""torch.export, AOTInductor, ONNX."""

import io
import tempfile
import unittest
import warnings

import torch
from torch.export import Dim, export

from ...harness import NODES, SIZE, case, edges, features

_SIZES = ((12, 40), (30, 100), (5, 9), (200, 2000))


def _exported(conv, strict=False, edge_dim=None):
    nodes, count = Dim("N", min=2, max=100_000), Dim("E", min=2, max=1_000_000)
    args, shapes = (features(), edges()), ({0: nodes}, {1: count})
    if edge_dim is not None:
        args, shapes = (*args, features(40, edge_dim)), (*shapes, {0: count})
    return export(conv, args, dynamic_shapes=shapes, strict=strict)


def _tried(call, edge_dim=None):
    return [
        call(
            features(nodes),
            edges(nodes, count=count),
            *(() if edge_dim is None else (features(count, edge_dim, seed=4),)),
        )
        for nodes, count in _SIZES
    ]


for _loops in (True, False):
    _text = "self-loops" if _loops else "no self-loops"

    @case(f"export/dynamic N and E, {_text}", slow=True, fused=False)
    def _(make, loops=_loops):
        return _tried(_exported(make(add_self_loops=loops).eval()).module())

    @case(f"export/strict, dynamic N and E, {_text}", slow=True, fused=False, paths=("auto",))
    def _(make, loops=_loops):
        return _tried(_exported(make(add_self_loops=loops).eval(), strict=True).module())

    @case(f"export/dynamic with edge features, {_text}", slow=True, fused=False, paths=("auto",))
    def _(make, loops=_loops):
        conv = make(add_self_loops=loops, edge_dim=3, fill_value=0.5).eval()
        return _tried(_exported(conv, edge_dim=3).module(), edge_dim=3)


class _Attention(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, index):
        out, (index, alpha) = self.conv(x, index, return_attention_weights=True)
        return out, index, alpha


@case("export/returned attention", slow=True, fused=False, paths=("auto",))
def _(make):
    return _tried(_exported(_Attention(make(add_self_loops=False)).eval()).module())


@case("export/fixed sizes", slow=True, fused=False, paths=("auto",))
def _(make):
    program = export(make().eval(), (features(), edges()))
    return program.module()(features(seed=3), edges(seed=3))


@case("export/saved, loaded, decomposed", slow=True, fused=False, paths=("auto",))
def _(make):
    program, store = _exported(make(add_self_loops=False).eval()), io.BytesIO()
    torch.export.save(program, store)
    store.seek(0)
    again = torch.export.load(store)
    return [*_tried(again.module()), *_tried(again.run_decompositions().module())]


@case("export/automatic dynamic dimensions, bipartite", slow=True, fused=False, paths=("auto",))
def _(make):
    conv = make((SIZE, 5), 4, heads=2, add_self_loops=False).eval()
    auto = Dim.AUTO
    args = ((features(), features(7, 5)), edges(NODES, 7))
    program = export(conv, args, dynamic_shapes=(({0: auto}, {0: auto}), {1: auto}), strict=False)
    return program.module()((features(20), features(11, 5)), edges(20, 11, count=60))


@case("export/for training, then a gradient", slow=True, fused=False, paths=("auto",))
def _(make):
    conv = make(add_self_loops=False)
    module = _exported(conv).module()
    x = features(20).requires_grad_()
    module(x, edges(20, count=50)).square().sum().backward()
    return [x.grad, module.conv.att.grad if hasattr(module, "conv") else module.att.grad]


@case(
    "export/AOTInductor package, loaded and run",
    slow=True,
    limit=300,
    fused=False,
    paths=("auto",),
)
def _(make):
    program = _exported(make(add_self_loops=False, dtype=torch.float64).eval())
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/layer.pt2")
        run = torch._inductor.aoti_load_package(path)
        with torch.no_grad():
            return _tried(run)


def _onnx(model, dynamo, opset):
    nodes, count = Dim("N", min=2, max=100_000), Dim("E", min=2, max=1_000_000)
    names = {"input_names": ["x", "edge_index"], "output_names": ["out"], "opset_version": opset}
    args = (features(dtype=torch.float32), edges())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: nodes}, {1: count})
            program = torch.onnx.export(
                model, args, dynamo=True, dynamic_shapes=shapes, verbose=False, **names
            )
            return program.model_proto.SerializeToString()
        store = io.BytesIO()
        axes = {"x": {0: "N"}, "edge_index": {1: "E"}, "out": {0: "N"}}
        torch.onnx.export(model, args, store, dynamo=False, dynamic_axes=axes, **names)
        return store.getvalue()


def _run_onnx(data, sizes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [
        torch.from_numpy(
            session.run(
                None,
                {
                    "x": features(nodes, dtype=torch.float32).numpy(),
                    "edge_index": edges(nodes, count=count).numpy(),
                },
            )[0]
        )
        for nodes, count in sizes
    ]


for _dynamo in (True, False):

    @case(
        f"onnx/dynamo={_dynamo}",
        needs=("onnx", "onnxruntime", *(("onnxscript",) if _dynamo else ())),
        slow=True,
        fused=False,
        limit=240,
    )
    def _(make, dynamo=_dynamo):
        conv = make(add_self_loops=False, dtype=torch.float32).eval()
        try:
            data = _onnx(conv, dynamo, 18)
        except ImportError as error:
            raise unittest.SkipTest(str(error)) from error
        return _run_onnx(data, _SIZES[:3] if dynamo else _SIZES[:1])
