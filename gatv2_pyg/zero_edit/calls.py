"""Which layers were called, how often, and on which backend: a line each."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from types import FrameType
from typing import NamedTuple

import torch

from gatv2_pyg.backends import Backend
from gatv2_pyg.conv import GATv2Conv


class _Record(NamedTuple):
    """The calls of one layer: what it is called, and its calls by (backend, reason)."""

    text: str
    backends: Counter[tuple[str, str]]


class CallLog:
    """Counts the calls of layers by backend; keeps no layer alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_layer: weakref.WeakKeyDictionary[GATv2Conv, _Record] = weakref.WeakKeyDictionary()
        self._records: list[_Record] = []

    def __call__(self, layer: GATv2Conv, backend: Backend) -> None:
        """Notes a call; an observer for :func:`gatv2_pyg.passing.observe_calls`."""
        with self._lock:
            record = self._by_layer.get(layer)
            if record is None:
                record = _Record(f"{_name_in_model(layer)}{layer!r}", Counter())
                self._by_layer[layer] = record
                self._records.append(record)
            record.backends[backend.name, backend.reason] += 1

    def lines(self) -> list[str]:
        """A line a layer, in order of first calls; layers of the same name and size share one."""
        layers: Counter[str] = Counter()
        calls: dict[str, Counter[tuple[str, str]]] = {}
        with self._lock:
            for text, backends in self._records:
                layers[text] += 1
                calls.setdefault(text, Counter()).update(backends)
        return [_line(text, layers[text], backends) for text, backends in calls.items()]


def _line(text: str, layers: int, backends: Counter[tuple[str, str]]) -> str:
    several = f"{layers} layers, " if layers > 1 else ""
    total = sum(backends.values())
    counts = [
        f"{'' if count == total else f'{count} '}on {name} ({reason})"
        for (name, reason), count in backends.most_common()
    ]
    between = " " if len(counts) == 1 else ": "
    calls = "call" if total == 1 else "calls"
    return f"{text}: {several}{total} {calls}{between}{', '.join(counts)}"


def _name_in_model(layer: GATv2Conv) -> str:
    """``Model.path.to.layer`` of the outermost module that is running now and holds the layer."""
    found = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
        if isinstance(owner, torch.nn.Module) and owner is not layer:
            for path, module in owner.named_modules():
                if module is layer:
                    found = f"{type(owner).__name__}.{path} "
                    break
        frame = frame.f_back
    return found
