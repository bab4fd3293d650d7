"""Bad arguments to attention, to a layer and to the operators beneath."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gatv2_pyg
from gatv2_pyg import Graph, gatv2_attention

from ...harness import SIZE, edges, features, ours, weighted
from ...probes import harmless, not_refused, refused


@ours("bad inputs/gatv2_attention", fused=False)
def _(make):
    graph = Graph.from_edge_index(edges(5, count=9), 5)
    good = {
        "x_src": features(5, 8).view(5, 2, 4),
        "x_dst": features(5, 8, seed=1).view(5, 2, 4),
        "att": features(2, 4, seed=2),
        "graph": graph,
        "edge_attr": features(9, 3),
        "edge_weight": features(8, 3),
        "dropout": 0.0,
        "negative_slope": 0.2,
    }
    gatv2_attention(**good, backend=make.backend)
    bad = {
        "x_src": [features(5, 8), features(4, 8).view(4, 2, 4), torch.zeros(5, 2, 4).long(), None],
        "x_dst": [
            features(4, 8).view(4, 2, 4),
            features(5, 8).view(5, 4, 2),
            torch.zeros(5, 2, 4),
            torch.zeros(5, 2, 4, device="meta").double(),
            None,
        ],
        "att": [features(2, 5), features(1, 8), torch.zeros(2, 4).long(), None, "att"],
        "graph": [None, edges(5), "graph", Graph.from_edge_index(edges(4), 4)],
        "edge_attr": [features(8, 3), features(9, 2), features(9, 3)[:, 0], None, "attr"],
        "edge_weight": [features(7, 3), features(8, 2), None, 3.0],
        "dropout": [1.5, -0.1, float("nan"), "half", None],
        "negative_slope": ["steep", None],
    }
    others = {
        "edge_attr": ("edge_weight",),
        "edge_weight": ("edge_attr",),
        "graph": ("x_src", "x_dst"),
    }
    wrong = []
    for name, values in bad.items():
        calls = {
            f"{name} {at}": lambda name=name, value=value: gatv2_attention(
                **(good | {name: value}), backend=make.backend
            )
            for at, value in enumerate(values)
        }
        wrong += not_refused(calls, name, *others.get(name, ()))
    assert not wrong, "are not refused:\n" + "\n".join(wrong)


@ours("bad inputs/a layer's attributes set to what does not fit", fused=False)
def _(make):
    def changed(**values):
        def call():
            conv = make(edge_dim=3)
            for name, value in values.items():
                setattr(conv, name, value)
            out = conv(features(), edges(), features(40, 3))
            return weighted(out).backward()

        return call

    double = {"dtype": torch.float64}
    harmless(
        {
            "heads": changed(heads=3),
            "heads 0": changed(heads=0),
            "out_channels": changed(out_channels=7),
            "att": changed(att=torch.nn.Parameter(torch.zeros(1, 3, 4, **double))),
            "att flat": changed(att=torch.nn.Parameter(torch.zeros(8, **double))),
            "lin_l": changed(lin_l=torch.nn.Linear(SIZE, 12, **double)),
            "lin_r": changed(lin_r=torch.nn.Linear(SIZE, 4, **double)),
            "lin_edge": changed(lin_edge=torch.nn.Linear(3, 5, bias=False, **double)),
            "bias": changed(bias=torch.nn.Parameter(torch.zeros(3, **double))),
            "dropout": changed(dropout=7.0),
            "negative_slope": changed(negative_slope=None),
            "flow": changed(flow="up"),
            "backend": changed(backend="none"),
            "node_dim": changed(node_dim=-2),
        }
    )


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the package's operators."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "gatv2_pyg":
            self.calls.setdefault(str(func), (func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def mutations(value):
    """Other values for one argument of an operator."""
    if isinstance(value, torch.Tensor):
        yield "meta", value.to("meta")
        yield "empty", value.new_empty(0)
        yield "one row less", value[:-1] if value.dim() else value.reshape(1)
        yield "one dimension more", value.unsqueeze(0)
        yield "strided", value.repeat_interleave(2, -1)[..., ::2] if value.dim() else value
        yield "another dtype", value.float() if value.dtype == torch.float64 else value.double()
        yield "int16", value.to(torch.int16)
        if not value.dtype.is_floating_point and value.numel():
            yield "far", torch.full_like(value, 10**8)
            yield "below 0", torch.full_like(value, -5)
    elif isinstance(value, (list, tuple)):
        yield "nothing", type(value)()
        yield "one less", value[:-1]
        for at, item in enumerate(value):
            for text, other in mutations(item):
                yield f"[{at}] {text}", [*value[:at], other, *value[at + 1 :]]
    elif isinstance(value, bool):
        yield "not", not value
    elif isinstance(value, int):
        yield "0", 0
        yield "below 0", -3
        yield "more", value + 1000
        yield "far", 2**62
    elif isinstance(value, float):
        yield "nan", float("nan")
        yield "below 0", -4.0
        yield "large", 1e300
    elif isinstance(value, str):
        yield "unknown", "nothing"
    if value is not None:
        yield "None", None


def changed_calls(recorder, changes):
    """The recorded calls with one argument changed, by what was changed."""
    calls = {}
    for name, (op, args, kwargs) in recorder.calls.items():
        given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        for argument, value in given.items():
            for text, other in changes(value):
                calls[f"{name}({argument}: {text})"] = (
                    lambda op=op, changed=given | {argument: other}: op(**changed)
                )
    return calls


@ours("bad inputs/raw operators with inconsistent arguments", fused=False, limit=300)
def _(make):
    torch.set_num_threads(1)
    with Recorder() as recorder:
        conv, x = make(edge_dim=3, dropout=0.5), features().requires_grad_()
        out, (_, alpha) = conv(x, edges(), features(40, 3), return_attention_weights=True)
        (weighted(out) + weighted(alpha)).backward()
        count = x.size(0)
        ptr, idx, *_ = torch.ops.gatv2_pyg.group_by_dst(edges(), count, count, True, True, False)
        torch.ops.gatv2_pyg.group_by_src(ptr, idx, count, idx.numel())
    probes = changed_calls(recorder, mutations)
    assert make.variant == "reference" or probes
    found = harmless(probes)
    accepted = [
        name
        for name, text in found.items()
        if text == "returned"
        and name.endswith((" far)", "int16)"))
        and not any(word in name for word in ("seed", "num_", "(edge_index: int16)"))
    ]
    assert not accepted, f"indices that lead nowhere are accepted: {accepted}"


@ours("bad inputs/use_backend, set_graph_cache, conversion", fused=False)
def _(make):
    refused(
        {
            "unknown": lambda: gatv2_pyg.use_backend("none").__enter__(),
            "None": lambda: gatv2_pyg.use_backend(None).__enter__(),
            "a layer's": lambda: gatv2_pyg.GATv2Conv(4, 4, backend="none"),
        },
        "backend",
        "name",
    )
    harmless(
        {
            "use_gatv2 of None": lambda: gatv2_pyg.use_gatv2(None),
            "use_gatv2 of a number": lambda: gatv2_pyg.use_gatv2(3),
            "to_pyg of a tensor": lambda: gatv2_pyg.to_pyg(features()),
            "set_graph_cache(None)": lambda: gatv2_pyg.set_graph_cache(None),
        }
    )
