"""Kernels by device, each loaded when it is first called, and what they share."""

from __future__ import annotations

import importlib
from types import ModuleType


def cpu_kernels() -> ModuleType | None:
    """The compiled CPU kernels, or None where they can't run."""
    try:
        module = importlib.import_module("gatv2_pyg.kernels.cpu")
    except ImportError:
        return None
    return module if module.unavailable() is None else None
