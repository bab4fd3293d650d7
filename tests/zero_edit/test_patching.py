"""``gatv2_pyg.patch``: this package's layer in PyG's place, and PyG's again."""

from __future__ import annotations

import pickle
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch_geometric.nn
import torch_geometric.nn.conv.gatv2_conv
from torch_geometric.nn import GAT
from torch_geometric.nn import GATv2Conv as ImportedHere
from torch_geometric.nn.models import basic_gnn

import gatv2_pyg
from gatv2_pyg import GATv2Conv, patch, to_pyg, use_gatv2

THEIRS = SimpleNamespace(layer=GATv2Conv.__base__)
"""PyG's class, where no patch finds it."""


def generated(module: str) -> bool:
    """Whether PyG made it of a template, for one class, with a copy of the names around that."""
    return module.endswith(("_propagate", "_edge_updater"))


def holders(cls: type) -> set[tuple[str, str]]:
    return {
        (module, name)
        for module, loaded in list(sys.modules.items())
        for name, value in list(vars(loaded).items())
        if value is cls and not module.startswith("gatv2_pyg") and not generated(module)
    }


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = holders(THEIRS.layer), holders(GATv2Conv)
    yield
    assert (holders(THEIRS.layer), holders(GATv2Conv)) == before


def test_every_name_is_replaced_and_restored():
    theirs, ours = holders(THEIRS.layer), holders(GATv2Conv)
    assert {
        ("torch_geometric.nn", "GATv2Conv"),
        ("torch_geometric.nn.conv", "GATv2Conv"),
        ("torch_geometric.nn.conv.gatv2_conv", "GATv2Conv"),
        ("torch_geometric.nn.models.basic_gnn", "GATv2Conv"),
        (__name__, "ImportedHere"),
    } <= theirs
    with patch():
        assert holders(GATv2Conv) == theirs | ours
        assert not holders(THEIRS.layer)
        assert ImportedHere is basic_gnn.GATv2Conv is torch_geometric.nn.GATv2Conv is GATv2Conv
    assert (holders(THEIRS.layer), holders(GATv2Conv)) == (theirs, ours)


def test_a_plain_call():
    patched = patch()
    assert torch_geometric.nn.GATv2Conv is GATv2Conv
    patched.undo()
    assert torch_geometric.nn.GATv2Conv is THEIRS.layer
    patched.undo()
    assert torch_geometric.nn.GATv2Conv is THEIRS.layer


def test_an_error_inside_undoes_it():
    with pytest.raises(LookupError), patch():
        raise LookupError
    assert torch_geometric.nn.GATv2Conv is THEIRS.layer


def test_models_of_pyg_build_the_layer():
    x, edge_index = torch.randn(9, 5), torch.randint(9, (2, 30))
    before = GAT(5, 4, num_layers=2, heads=2, v2=True)
    with patch():
        model = GAT(5, 4, num_layers=2, heads=2, v2=True)
        assert type(before.convs[0]) is THEIRS.layer
        assert [type(conv) for conv in model.convs] == [GATv2Conv, GATv2Conv]
        model.load_state_dict(before.state_dict())
        torch.testing.assert_close(model(x, edge_index), before(x, edge_index))
    assert isinstance(model.convs[0], torch_geometric.nn.GATv2Conv)
    torch.testing.assert_close(model(x, edge_index), before(x, edge_index))


def test_subclasses_go_on_working():
    with patch():

        class Doubled(torch_geometric.nn.GATv2Conv):
            def __init__(self, *args):
                super().__init__(*args)
                self.scale = 2.0

            def forward(self, x, edge_index):
                return self.scale * super().forward(x, edge_index)

    assert issubclass(Doubled, THEIRS.layer)
    torch.manual_seed(0)
    layer = Doubled(5, 4)
    theirs = THEIRS.layer(5, 4)
    theirs.load_state_dict(layer.state_dict())
    x, edge_index = torch.randn(9, 5), torch.randint(9, (2, 30))
    torch.testing.assert_close(layer(x, edge_index), 2 * theirs(x, edge_index))


class NamesItsBase(torch_geometric.nn.GATv2Conv):
    """A subclass that exists before any patch."""

    def __init__(self, *args):
        ImportedHere.__init__(self, *args)


def test_what_exists_meets_another_class_where_it_names_its_own():
    layer = NamesItsBase(3, 2)
    with patch():
        assert not isinstance(layer, torch_geometric.nn.GATv2Conv)
        with pytest.raises(TypeError):
            NamesItsBase(3, 2)
        with pytest.raises(pickle.PicklingError):
            pickle.dumps(THEIRS.layer(3, 2))

        class Since(ImportedHere):
            def __init__(self, *args):
                ImportedHere.__init__(self, *args)

        assert isinstance(Since(3, 2), GATv2Conv)
    assert isinstance(layer, torch_geometric.nn.GATv2Conv)
    assert type(NamesItsBase(3, 2)) is NamesItsBase
    assert type(pickle.loads(pickle.dumps(THEIRS.layer(3, 2)))) is THEIRS.layer


def test_conversion_knows_the_classes_apart():
    with patch():
        model = torch.nn.Sequential(THEIRS.layer(3, 2), GATv2Conv(3, 2))
        use_gatv2(model)
        assert [type(layer) for layer in model] == [GATv2Conv, GATv2Conv]
        to_pyg(model)
        assert [type(layer) for layer in model] == [THEIRS.layer, THEIRS.layer]
        assert type(model[0](torch.randn(4, 3), torch.tensor([[0], [1]]))) is torch.Tensor


@pytest.mark.parametrize("inner_first", [True, False])
def test_nested(inner_first):
    outer, inner = patch(), patch()
    first, second = (inner, outer) if inner_first else (outer, inner)
    first.undo()
    first.undo()
    assert torch_geometric.nn.GATv2Conv is GATv2Conv
    second.undo()
    assert torch_geometric.nn.GATv2Conv is THEIRS.layer


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("someone_elses")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_a_name_that_was_assigned_since_is_left(module):
    module.layer = module.other = THEIRS.layer
    with patch():
        module.other = None
        assert module.layer is GATv2Conv
    assert module.layer is THEIRS.layer
    assert module.other is None


def test_modules_that_came_in_between(module, monkeypatch):
    late = ModuleType("torch_geometric.late")
    late.GATv2Conv = THEIRS.layer
    with patch():
        monkeypatch.setitem(sys.modules, late.__name__, late)
        with patch():
            assert late.GATv2Conv is GATv2Conv
        del sys.modules[late.__name__]
        module.layer = late.GATv2Conv
        later = ModuleType("torch_geometric.later")
        later.GATv2Conv = torch_geometric.nn.GATv2Conv
        monkeypatch.setitem(sys.modules, later.__name__, later)
    assert late.GATv2Conv is later.GATv2Conv is THEIRS.layer
    assert module.layer is GATv2Conv


def test_strange_modules_are_passed_over(monkeypatch):
    monkeypatch.setitem(sys.modules, "is_none", None)
    monkeypatch.setitem(sys.modules, "is_no_module", object())
    with patch():
        assert torch_geometric.nn.GATv2Conv is GATv2Conv


def test_threads():
    failures = []
    barrier = threading.Barrier(4)

    def work():
        try:
            barrier.wait()
            for _ in range(30):
                with patch():
                    assert torch_geometric.nn.GATv2Conv is GATv2Conv
                    assert type(GAT(3, 2, 1, v2=True).convs[0]) is GATv2Conv
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert torch_geometric.nn.GATv2Conv is THEIRS.layer


def test_another_thread_sees_it():
    made = []
    with patch():
        thread = threading.Thread(target=lambda: made.append(torch_geometric.nn.GATv2Conv(3, 2)))
        thread.start()
        thread.join()
    assert type(made[0]) is GATv2Conv


def test_it_is_public():
    assert gatv2_pyg.patch is patch
    assert "patch" in gatv2_pyg.__all__
