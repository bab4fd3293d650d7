"""The layer's step in C++: :mod:`gatv2_pyg.ops.joined` without Python between its operations.

The library is built where the Python that builds has torch, and is loaded beside that version of
torch alone.  It calls the CPU kernels that the launcher has loaded.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatv2_pyg.kernels import built, load_kernels

DOORS = ("gatv2_forward", "gatv2_backward", "gatv2_prefer_huge_pages", "gatv2_content_hash")
"""Functions of the CPU kernels that the step calls."""
_NAME = "libgatv2_layer.so"
_ROOM = Path(__file__).parent


def layer_step() -> Callable[..., Tensor | None] | None:
    """The operator ``gatv2_pyg::layer_step``; None where it can't be used."""
    found = _opened()
    return None if isinstance(found, str) else found[0]


def unavailable() -> str | None:
    """Why the step can't be used; None: it can."""
    found = _opened()
    return found if isinstance(found, str) else None


@functools.cache
def _opened() -> tuple[Any, ctypes.CDLL] | str:
    kernels = load_kernels("cpu")
    reason = kernels.unavailable()
    if reason is not None:
        return reason
    try:
        path = _find()
        if path is None:
            return (
                f"there is no {_NAME} of these sources for torch {_version()}; where torch is "
                "installed, 'pip install --no-build-isolation' builds it"
            )
        torch.ops.load_library(str(path))
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return f"it could not be loaded: {error}"
    library = kernels.library()
    _bind(handle, library.handle, library.isa_number, kernels.is_forked())
    return torch.ops.gatv2_pyg.layer_step.default, handle


def _find() -> Path | None:
    """The library built from the sources at hand, if there are any, for this torch."""
    paths = [*_ROOM.glob("src/*.h"), *_ROOM.glob("src/*.cpp")]
    said = f"gatv2_layer torch {_version()} sources "
    if paths:
        relative = [path.relative_to(_ROOM).as_posix() for path in paths]
        others = ["CMakeLists.txt", "../../kernels/cpu/src/abi.h"]
        said += built.hash_of_sources(_ROOM, [*relative, *others])
    for path in built.candidates(_ROOM, _NAME):
        if path.is_file() and path.stat().st_size > 0 and built.says(path, said):
            return path
    return None


def _version() -> str:
    return torch.__version__.partition("+")[0]


def _bind(handle: ctypes.CDLL, kernels: ctypes.CDLL, isa: int, forked: bool = False) -> None:
    doors = (ctypes.cast(getattr(kernels, name), ctypes.c_void_p) for name in DOORS)
    numbers = isa, int(forked)
    handle.gatv2_layer_bind.argtypes = (
        *[ctypes.c_void_p] * len(DOORS),
        *[ctypes.c_int64] * len(numbers),
    )
    handle.gatv2_layer_bind.restype = None
    handle.gatv2_layer_bind(*doors, *numbers)
