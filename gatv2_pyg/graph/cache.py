"""The graph cache: the second layer and the second epoch find their graph ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Value = TypeVar("Value")

_MAX_PER_TENSOR = 8

_lock = threading.Lock()
_made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_enabled = True


def set_graph_cache(enabled: bool) -> None:
    """Turns the graph cache on or off, for all layers; off also empties it.

    The cache maps the very tensor passed as ``edge_index`` to its :class:`~gatv2_pyg.Graph`.  It
    notices in-place changes through torch (by the tensor's version), keeps no tensor alive, and is
    not used under ``torch.compile``.  Turn it off if the memory of an ``edge_index`` is written to
    behind torch's back, e.g. through a NumPy array that shares it.
    """
    global _enabled
    _enabled = bool(enabled)
    if not enabled:
        with _lock:
            _made.clear()


def cached(key: Tensor, flags: Hashable, build: Callable[[], Value]) -> Value:
    """What ``build`` made of ``key`` under ``flags``, from the cache where that is still true."""
    if not _enabled or torch.compiler.is_compiling() or key.is_inference():
        return build()
    state = (key._version, _address(key), key.shape)
    with _lock:
        entries = _made.get(key)
        if entries is not None and entries["state"] == state and flags in entries:
            return entries[flags]
    value = build()
    with _lock:
        entries = _made.get(key)
        if entries is None or entries["state"] != state or len(entries) > _MAX_PER_TENSOR:
            entries = _made[key] = {"state": state}
        entries[flags] = value
    return value


def _address(key: Tensor) -> int:
    return key.data_ptr() if key.layout == torch.strided else 0
