"""A wheel whose C++ was not built says so in its name, which pip shows."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# Looking for the module of pip would replace distutils, of which inductor warns later.
INSTALLED = {found.name.lower().replace("_", "-") for found in importlib.metadata.distributions()}
MISSING = [name for name in ("pip", "scikit-build-core") if name not in INSTALLED]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What pip says of a build whose compiler fails, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for part in ("gatv2_pyg", "pyproject.toml", "README.md", "LICENSE"):
        path = PROJECT / part
        if path.is_dir():
            ignored = shutil.ignore_patterns("_build*", "__pycache__", "*.so")
            shutil.copytree(path, source / part, ignore=ignored)
        else:
            shutil.copy(path, source / part)
    arguments = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *arguments],
        env={**os.environ, "CC": "/bin/false", "CXX": "/bin/false"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return result.stdout, wheel


def test_pip_shows_it(built):
    shown, wheel = built
    assert re.fullmatch(r"gatv2_pyg-[\d.]+-0_without_cpu_kernels-py3-none-any\.whl", wheel.name)
    assert f"filename={wheel.name}" in shown


def test_the_wheel_is_the_rest_of_the_package(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "gatv2_pyg/conv.py" in names
    assert "gatv2_pyg/kernels/triton/launch.py" in names
    assert not [name for name in names if name.endswith(".so")]
