"""What sees or changes a call's operations finds those of a checked call."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg import use_backend
from gatv2_pyg.ops import native
from gatv2_pyg.passing import observe_calls
from tests.ops.at_once.case import Case, agree, all_checked

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)


@contextlib.contextmanager
def observed():
    seen = []
    observe_calls(lambda layer, backend: seen.append(backend.name))
    yield
    observe_calls(None)
    assert seen


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "gatv2_pyg.layer_step" not in str(func)
        return func(*args, **kwargs or {})


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        return found * 2 if func is F.linear else found


@contextlib.contextmanager
def hooked_modules():
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out * 2 if isinstance(module, Linear) else None
    )
    yield
    handle.remove()


@contextlib.contextmanager
def replaced_linear():
    original = F.linear
    F.linear = lambda *args: original(*args) * 2
    yield
    F.linear = original


MODES = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu"),
    lambda: use_backend("reference"),
    lambda: use_backend("scatter"),
    lambda: use_backend("fused"),
    torch.profiler.profile,
    torch.autograd.detect_anomaly,
    forward_ad.dual_level,
    observed,
    Operators,
    Functions,
    lambda: torch.device("meta"),
    hooked_modules,
    replaced_linear,
    lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t),
]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_modes_are_noticed(mode, checks):
    case = Case(dropout=0.25)
    case()
    with mode():
        got = case.found()
    with all_checked(), mode():
        agree(got, case.found())


def test_within_transforms():
    case = Case()
    case()
    batch = torch.stack([case.x, case.x * 2])
    over = torch.func.vmap(lambda x: case.layer(x, case.edge_index, case.edge_attr))(batch)
    assert torch.equal(over[0], case()) or (over[0] - case()).abs().max() < 1e-5
    _, along = torch.func.jvp(
        lambda x: case.layer(x, case.edge_index, case.edge_attr), (case.x,), (case.x,)
    )
    assert along.abs().max() > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is deprecated")
def test_while_traced():
    case = Case(with_bonds=False)
    want = case()
    traced = torch.jit.trace(case.layer, (case.x, case.edge_index), check_trace=False)
    assert "layer_step" not in str(traced.inlined_graph)
    assert (traced(case.x, case.edge_index) - want).abs().max() < 1e-5
