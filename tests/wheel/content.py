"""``python content.py WHEEL``: what a wheel for Linux must hold, and must not."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIBRARY = "gatv2_pyg/kernels/cpu/libgatv2_cpu.so"
NEEDED = {"libgomp.so.1", "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
"""What the library may need; torch has loaded all of it."""


def check(wheel: Path) -> None:
    """Raises ``AssertionError`` for a wheel that is not as it must be."""
    assert re.search(r"-py3-none-(manylinux\w+\.)+whl$", wheel.name), wheel.name
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        archive.extract(LIBRARY, folder)
        dynamic = subprocess.run(
            ["readelf", "--dynamic", Path(folder, LIBRARY)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    libraries = [name for name in names if ".so" in Path(name).name]
    assert libraries == [LIBRARY], libraries
    assert "gatv2_pyg/py.typed" in names
    assert not [name for name in names if "/_build" in name], names
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    assert "libgomp.so.1" in needed, needed
    assert needed <= NEEDED | {"libpthread.so.0", "libdl.so.2"} | {
        name for name in needed if name.startswith("ld-linux")
    }, needed
    assert "RPATH" not in dynamic, dynamic
    assert "RUNPATH" not in dynamic, dynamic
    print(f"{wheel.name}: {len(names)} files, needs {', '.join(sorted(needed))}")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
