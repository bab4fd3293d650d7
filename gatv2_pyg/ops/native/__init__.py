"""A layer's step in C++: :mod:`gatv2_pyg.ops.joined` without Python between its operations.

So is attention alone, :mod:`gatv2_pyg.ops.direct`, and a layer's graph: what
:class:`gatv2_pyg.Graph` makes of new edges.

The library is built where the Python that builds has torch, and is loaded beside that version of
torch alone.  It calls the CPU kernels that the launcher has loaded.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.kernels import built, load_kernels

DOORS = (
    "gatv2_forward",
    "gatv2_backward",
    "gatv2_prefer_huge_pages",
    "gatv2_content_hash",
    "gatv2_group_by_dst",
    "gatv2_transpose",
    "gatv2_piece_tables",
    "gatv2_loop_features",
)
"""Functions of the CPU kernels that this library calls, in the order that it takes them."""
_NAME = "libgatv2_layer.so"
_ROOM = Path(__file__).parent


class Operators(NamedTuple):
    """What the library adds to ``gatv2_pyg``."""

    layer_step: Callable[..., Tensor | None]
    attention_step: Callable[..., Tensor | None]
    layer_graph: Callable[..., tuple[list[Tensor], list[Tensor], Tensor | None, int, int]]


def operators() -> Operators | None:
    """The operators in C++; None where they can't be used."""
    found = _opened()
    return None if isinstance(found, str) else found[0]


def unavailable() -> str | None:
    """Why the step can't be used; None: it can."""
    found = _opened()
    return found if isinstance(found, str) else None


@functools.cache
def _opened() -> tuple[Operators, ctypes.CDLL] | str:
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
    ops = torch.ops.gatv2_pyg
    found = (getattr(ops, name).default for name in Operators._fields)
    return Operators._make(found), handle


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
    doors = [ctypes.cast(getattr(kernels, name), ctypes.c_void_p) for name in DOORS]
    addresses = (ctypes.c_void_p * len(DOORS))(*(door.value for door in doors))
    handle.gatv2_layer_bind.argtypes = type(addresses), ctypes.c_int64, ctypes.c_int64
    handle.gatv2_layer_bind.restype = None
    handle.gatv2_layer_bind(addresses, isa, int(forked))
