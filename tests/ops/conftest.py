from __future__ import annotations

import ctypes

import pytest

from gatv2_pyg.kernels import cpu_kernels
from gatv2_pyg.ops import joined, native


@pytest.fixture(params=["C++", "Python"])
def way(request, monkeypatch):
    """The step of a layer with and without Python between its operations."""
    if request.param == "Python":
        monkeypatch.setattr(native, "operators", lambda: None)
    elif native.unavailable() is not None:
        pytest.skip(f"no step in C++: {native.unavailable()}")
    return request.param


class Doors:
    """The kernels as the step in C++ finds them, some of them replaced by functions."""

    def __init__(self, **replaced):
        handle = cpu_kernels().library().handle
        for name in native.DOORS:
            real = getattr(handle, name)
            kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
            setattr(self, name, kind(replaced[name](real)) if name in replaced else real)


@pytest.fixture
def doors(way):
    """Puts functions of the kernels before the kernels that the step in C++ calls."""
    if way == "Python":
        yield lambda **replaced: None
        return
    library, (_, step) = cpu_kernels().library(), native._opened()
    kept = []

    def put(**replaced):
        kept.append(Doors(**replaced))
        native._bind(step, kept[-1], library.isa_number)

    yield put
    native._bind(step, library.handle, library.isa_number)


@pytest.fixture
def taken(doors, monkeypatch):
    """How often the way was taken forward, back, and back by operations autograd follows."""
    counts = {"layer": 0, "_gradients": 0, "followed": 0}

    def counted(name, original):
        def count(*args):
            counts[name] += 1
            found = original(*args)
            counts[name] -= found is None
            return found

        return count

    for key, name in (
        ("layer", "layer"),
        ("layer", "step"),
        ("_gradients", "_gradients"),
        ("followed", "_followed"),
    ):
        monkeypatch.setattr(joined, name, counted(key, getattr(joined, name)))
    doors(gatv2_backward=lambda backward: counted("_gradients", backward))
    return counts
