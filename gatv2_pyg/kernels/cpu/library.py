"""Finding and loading the compiled kernels, and choosing their instruction set."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import os
from pathlib import Path

import torch

from gatv2_pyg.kernels import built
from gatv2_pyg.kernels.cpu import abi

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


def _candidates() -> list[Path]:
    return built.candidates(Path(__file__).parent, _NAME)


def source_hash(package: Path) -> str | None:
    """The hash of the C++ sources in a folder, as CMakeLists.txt has it; None without sources."""
    paths = [*package.glob("src/**/*.h"), *package.glob("src/**/*.cpp")]
    if not paths:
        return None
    relative = [path.relative_to(package).as_posix() for path in paths]
    return built.hash_of_sources(package, [*relative, "CMakeLists.txt"])


def _find() -> Path:
    """GATV2_PYG_LIBRARY; else the library built from the sources at hand.

    Where there are no sources, any library will do whose records fit.
    """
    chosen = os.environ.get("GATV2_PYG_LIBRARY")
    if chosen:
        if not Path(chosen).is_file():
            raise LibraryError(f"GATV2_PYG_LIBRARY names {chosen}, which is not a file")
        return Path(chosen)
    package = Path(__file__).parent
    found = [path for path in _candidates() if path.is_file() and path.stat().st_size > 0]
    if not found:
        raise LibraryError(
            f"the C++ kernels are not built: there is no {_NAME} beside {package}; "
            "install the package with a C++ compiler at hand, or run 'make build'"
        )
    sources = source_hash(package)
    for path in found:
        if sources is None or built.says(path, f"gatv2_cpu sources {sources}"):
            return path
    raise LibraryError(
        f"the C++ kernels were built from other sources than those in {package / 'src'}: "
        f"{', '.join(map(str, found))}; run 'make build'"
    )


def _choose_isa(isas: int) -> int:
    """The instruction set asked for, or the best; ``isas`` has a bit for each there is."""
    there = [number for number in range(len(_ISAS)) if isas >> number & 1]
    if not there:
        raise LibraryError("this build has kernels for other processors only")
    asked = os.environ.get("GATV2_PYG_ISA")
    if not asked:
        return there[-1]
    if asked not in _ISAS:
        raise LibraryError(f"GATV2_PYG_ISA must be one of {', '.join(_ISAS)}, got {asked!r}")
    if _ISAS.index(asked) not in there:
        raise LibraryError(
            f"GATV2_PYG_ISA asks for {asked}, but this processor and this build have "
            f"{', '.join(_ISAS[number] for number in there)}"
        )
    return _ISAS.index(asked)


def _check_interface(path: Path, handle: ctypes.CDLL) -> None:
    version = handle.gatv2_abi_version()
    if version != abi.VERSION:
        raise LibraryError(
            f"{path} was built from other sources (interface {version}, expected {abi.VERSION}): "
            "build it again"
        )
    expected, found = list(abi.declared()), list(abi.built(handle))
    for want, got in itertools.zip_longest(expected, found):
        if want != got:
            raise LibraryError(
                f"{path} was built from other sources (it has {got}, expected {want}): "
                "build it again"
            )


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
    for name in ("gatv2_abi_version", "gatv2_isas", "gatv2_has_openmp", "gatv2_field"):
        if not hasattr(handle, name):
            raise LibraryError(f"{path} does not hold the C++ kernels of this version: no {name}")
        getattr(handle, name).restype = ctypes.c_int64
    _check_interface(path, handle)
    for name, types in abi.FUNCTIONS.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = ctypes.c_int64, types
    number = _choose_isa(handle.gatv2_isas())
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


def is_forked() -> bool:
    """Whether this process is a forked child of one that had loaded this module."""
    return _forked


def num_threads() -> int:
    """torch's number of threads; 1 in a forked child, where the parent's OpenMP pool is gone."""
    return 1 if _forked else torch.get_num_threads()


def check_status(status: int) -> None:
    """Turns a status of the library into an exception."""
    if status:
        raise MemoryError("The fused CPU kernels could not allocate their scratch memory")
