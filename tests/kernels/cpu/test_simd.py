"""The SIMD layer against libm and plain loops, per instruction set and compiler (simd_test.cpp)."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")
library = importlib.import_module("gatv2_pyg.kernels.cpu.library")

SOURCES = Path(library.__file__).parent
NATIVE = Path(__file__).parents[2] / "native"
ISAS = ("baseline", "avx2", "avx512")
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or not COMPILERS, reason="needs CMake and a C++ compiler"
)


@pytest.fixture(scope="module", params=COMPILERS)
def build(request, tmp_path_factory):
    """A build folder for one compiler."""
    folder = tmp_path_factory.mktemp(request.param.replace("+", "p"))
    options = {
        "CMAKE_CXX_COMPILER": request.param,
        "GATV2_NATIVE_TESTS": NATIVE,
        "GATV2_NATIVE_STEP": "OFF",
        "GATV2_WERROR": "ON",
    }
    configure = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(
        ["cmake", "-S", SOURCES, "-B", folder, *configure], check=True, capture_output=True
    )
    return folder


@pytest.mark.parametrize("isa", ISAS)
def test_against_libm_and_plain_loops(build, isa):
    target = f"simd_test_{isa}"
    made = subprocess.run(
        ["cmake", "--build", build, "--target", target], capture_output=True, text=True
    )
    if "No rule to make target" in made.stderr:
        pytest.skip(f"this kind of processor has no {isa}")
    assert made.returncode == 0, made.stdout + made.stderr
    if cpu.unavailable() is None and not cpu.library().handle.gatv2_isas() >> ISAS.index(isa) & 1:
        pytest.skip(f"this machine has no {isa}: only built")
    found = subprocess.run([build / target], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout
