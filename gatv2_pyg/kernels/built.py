"""Compiled libraries: where they may lie, and which sources they were built from."""

from __future__ import annotations

import hashlib
import mmap
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def candidates(room: Path, name: str) -> list[Path]:
    """Where a library of that name, of a folder of the package, may be."""
    place = Path("gatv2_pyg", room.relative_to(_PACKAGE), name)
    # An editable install keeps the sources here and the library in site-packages.
    installed = (Path(sysconfig.get_path(key), place) for key in ("platlib", "purelib"))
    return list(dict.fromkeys((room / "_build" / name, room / name, *installed)))


def hash_of_sources(room: Path, paths: Iterable[str]) -> str:
    """The hash of files by their paths from a folder, as ``gatv2_hash`` of CMake has it."""
    lines = (
        f"{path} {hashlib.sha256((room / path).read_bytes()).hexdigest()}\n"
        for path in sorted(paths)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def says(path: Path, text: str) -> bool:
    """Whether a library holds a text; reads its file without loading it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text.encode()) >= 0
