"""Finding and loading the compiled kernels, and choosing their instruction set."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

# Must equal kAbiVersion in abi.h.
_ABI_VERSION = 3
_NAME = "libgatv2_cpu.so"
_ISAS = ("baseline", "avx2", "avx512")


class LibraryError(RuntimeError):
    """Why the compiled kernels cannot be used."""


@dataclasses.dataclass(frozen=True)
class Library:
    """The loaded library.

    Attributes:
        path: its file.
        isa: the name of the instruction set in use.
        isa_number: the same as the library counts them.
        openmp: whether it was built with OpenMP.
        handle: its functions.
    """

    path: Path
    isa: str
    isa_number: int
    openmp: bool
    handle: ctypes.CDLL


def _candidates() -> Iterator[Path]:
    chosen = os.environ.get("GATV2_PYG_LIBRARY")
    if chosen:
        yield Path(chosen)
        return
    package = Path(__file__).parent
    yield package / "_build" / _NAME
    yield package / _NAME
    # An editable install keeps the sources here and the library in site-packages.
    for key in ("platlib", "purelib"):
        yield Path(sysconfig.get_path(key), "gatv2_pyg", "kernels", "cpu", _NAME)


def _find() -> Path:
    """The newest build there is."""
    candidates = list(dict.fromkeys(_candidates()))
    found = [path for path in candidates if path.is_file()]
    if found:
        return max(found, key=lambda path: path.stat().st_mtime)
    if len(candidates) == 1:
        raise LibraryError(f"GATV2_PYG_LIBRARY names {candidates[0]}, which is not a file")
    raise LibraryError(
        f"the C++ kernels are not built: there is no {_NAME} beside {Path(__file__).parent}; "
        "install the package with a C++ compiler at hand, or run 'make build'"
    )


def _choose_isa(best: int) -> int:
    asked = os.environ.get("GATV2_PYG_ISA")
    if not asked:
        return best
    if asked not in _ISAS:
        raise LibraryError(f"GATV2_PYG_ISA must be one of {', '.join(_ISAS)}, got {asked!r}")
    if _ISAS.index(asked) > best:
        raise LibraryError(
            f"GATV2_PYG_ISA asks for {asked}, but the best this processor and this build have is "
            f"{_ISAS[best]}"
        )
    return _ISAS.index(asked)


def open_library() -> Library:
    """Loads the library afresh, heeding GATV2_PYG_LIBRARY and GATV2_PYG_ISA.

    torch is loaded before it, so the OpenMP runtime it finds is torch's own.

    Raises:
        LibraryError: it is missing, can't be loaded, or cannot do what is asked.
    """
    path = _find()
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"the C++ kernels could not be loaded: {error}") from error
    for name in ("gatv2_abi_version", "gatv2_best_isa", "gatv2_has_openmp"):
        function = getattr(handle, name, None)
        if function is None:
            raise LibraryError(f"{path} does not hold the C++ kernels: it lacks {name}")
        function.restype, function.argtypes = ctypes.c_int64, ()
    version = handle.gatv2_abi_version()
    if version != _ABI_VERSION:
        raise LibraryError(
            f"{path} was built from other sources (interface {version}, expected {_ABI_VERSION}): "
            "build it again"
        )
    for name, second in (
        ("gatv2_forward", ctypes.c_int64),
        ("gatv2_backward", ctypes.c_int64),
        ("gatv2_group_by_dst", ctypes.c_void_p),
        ("gatv2_transpose", ctypes.c_void_p),
    ):
        function = getattr(handle, name)
        function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_char_p, second)
    number = _choose_isa(handle.gatv2_best_isa())
    return Library(path, _ISAS[number], number, bool(handle.gatv2_has_openmp()), handle)


@functools.cache
def _opened() -> Library | str:
    try:
        return open_library()
    except LibraryError as error:
        return str(error)


def library() -> Library:
    """The library of this process; loaded once.

    Raises:
        LibraryError: it can't be used.
    """
    opened = _opened()
    if isinstance(opened, str):
        raise LibraryError(f"The fused CPU kernels are unavailable: {opened}")
    return opened


def unavailable() -> str | None:
    """Why the compiled kernels can't be used; None: they can."""
    opened = _opened()
    return opened if isinstance(opened, str) else None


_forked = False


def _after_fork_in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)


def num_threads() -> int:
    """torch's number of threads; 1 in a forked child, where the parent's OpenMP pool is gone."""
    return 1 if _forked else torch.get_num_threads()


def check_status(status: int) -> None:
    """Turns a status of the library into an exception."""
    if status:
        raise MemoryError("The fused CPU kernels could not allocate their scratch memory")
