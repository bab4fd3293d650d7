"""Kernels by device, each loaded when it is first called, and what they share."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def load_kernels(name: str) -> ModuleType:
    """The kernel module of that name, ``"cpu"`` or ``"triton"``."""
    return importlib.import_module(f"gatv2_pyg.kernels.{name}")


def cpu_kernels() -> ModuleType | None:
    """The compiled CPU kernels, or None where they can't run."""
    module = _cpu_module()
    return module if module is not None and module.unavailable() is None else None


@functools.cache
def _cpu_module() -> ModuleType | None:
    try:
        return load_kernels("cpu")
    except ImportError:
        return None
