"""What runs in the process of one run of a case."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import sys
import traceback
import unittest
import warnings

import torch

import gatv2_pyg

from .harness import AUTO, CASES, REFERENCE, Layers, plain

THREADS = 2
_WAYS_OF_TORCH = (
    "torch.jit",
    "deprecated",
    "TypedStorage",
    "beta state",
    "Attempting to run cuBLAS",
)


def execute(name: str, variant: str, path: str) -> None:
    """Runs a case and saves ``{"status", "value" or "text", "warnings", "fused"}`` at ``path``."""
    faulthandler.enable()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    case = CASES[name]
    calls = _count_fused_calls()
    result = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = (
            gatv2_pyg.use_backend("reference") if variant == REFERENCE else contextlib.nullcontext()
        )
        try:
            with backend:
                value = case.function(Layers(variant))
            result = {"status": "done", "value": plain(value)}
        except unittest.SkipTest as reason:
            result = {"status": "skipped", "text": str(reason)}
        except AssertionError as error:
            # What did not hold is told by the case itself, if it has something to tell.
            result = {"status": "error", "text": str(error) or traceback.format_exc()}
        except BaseException:
            result = {"status": "error", "text": traceback.format_exc()}
    result["warnings"] = sorted({_first_line(item) for item in caught if _counts(item)})
    result["fused"] = variant == AUTO and calls[0] > 0
    torch.save(result, path + ".part")
    os.replace(path + ".part", path)
    sys.stdout.flush()
    sys.stderr.flush()


def _count_fused_calls() -> list[int]:
    calls = [0]
    kernels = importlib.import_module("gatv2_pyg.kernels.cpu")
    native = importlib.import_module("gatv2_pyg.ops.native")

    def counted(forward):
        def call(*args, **kwargs):
            found = forward(*args, **kwargs)
            calls[0] += found is not None
            return found

        return call

    for name in ("forward", "forward_biased"):
        setattr(kernels, name, counted(getattr(kernels, name)))
    compiled = native.operators()
    if compiled is not None:
        watched = compiled._replace(
            layer_step=counted(compiled.layer_step),
            attention_step=counted(compiled.attention_step),
        )
        native.operators = lambda: watched
    return calls


def _counts(item: warnings.WarningMessage) -> bool:
    text = str(item.message)
    return issubclass(item.category, UserWarning) and not any(
        known in text for known in _WAYS_OF_TORCH
    )


def _first_line(item: warnings.WarningMessage) -> str:
    return f"{item.category.__name__}: {str(item.message).splitlines()[0][:200]}"
