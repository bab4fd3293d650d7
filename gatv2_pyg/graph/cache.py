"""The graph cache: the second layer and the second epoch find their graph ready."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric import EdgeIndex

from gatv2_pyg import kernels
from gatv2_pyg.graph.tracing import reading_values, values_unknown
from gatv2_pyg.kernels.locks import process_lock

Value = TypeVar("Value")

_MAX_PER_TENSOR = 8
_MAX_RECENT = 4
_MAX_KNOWN = 16
_NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_lock = process_lock()
_made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_recent: OrderedDict[Hashable, object] = OrderedDict()
_known: dict[Hashable, weakref.ref[Known]] = {}
"""By id of the tensor and flags; what is pointed to is held by :data:`_made`."""
_enabled = True
_check_content = False


def set_graph_cache(enabled: bool, *, check_content: bool = False) -> None:
    """Turns the graph cache on or off, for all layers; off also empties it.

    The cache maps the very tensor passed as ``edge_index`` to its :class:`~gatv2_pyg.Graph`.  It
    keeps no tensor alive and is not used while a call is traced.

    On CPU what is found is confirmed by a hash of the indices, so that every change is noticed,
    whoever wrote it.  (Without the compiled kernels nothing is kept there.)  On CUDA it is
    confirmed by the tensor's address, shape and version; the version does not count writes through
    ``.data``, ``untyped_storage()``, DLPack, ``__cuda_array_interface__``, other processes, kernels
    of other libraries, or collectives of ``torch.distributed``.

    The patterns of sparse features are kept beside it, the last four, known by their content alone.

    Args:
        enabled: whether graphs are kept.
        check_content: whether CUDA tensors are confirmed by content too; each call then waits for
            the device.
    """
    global _enabled, _check_content
    _enabled, _check_content = bool(enabled), bool(check_content)
    if not enabled:
        with _lock:
            _made.clear()
            _recent.clear()
            _known.clear()


def graph_cache_is_on() -> bool:
    """Whether graphs are kept."""
    return _enabled


def cached(key: Tensor, flags: Hashable, build: Callable[[], Value]) -> Value:
    """What ``build`` made of ``key`` under ``flags``, from the cache where that is still true."""
    if not _enabled:
        return build()
    state = _state(key)
    if state is None:
        return build()
    with _lock:
        entries = _made.get(key)
        if entries is not None and entries["state"] == state and flags in entries:
            return entries[flags]
    value = build()
    with _lock:
        _hold(key, state, flags, value)
    return value


def _hold(key: Tensor, state: Hashable, flags: Hashable, value: object) -> None:
    """With :data:`_lock`."""
    entries = _made.get(key)
    if entries is None or entries["state"] != state or len(entries) > _MAX_PER_TENSOR:
        entries = _made[key] = {"state": state}
    entries[flags] = value


class Known:
    """What the cache holds for a tensor, for a call that confirms it by the hash of its rows.

    Attributes:
        key: the tensor, by a weak reference.
        hash: 64 bits, as a signed number.
        value: what is held.
    """

    def __init__(self, key: Tensor, unsigned: int, value: Any) -> None:
        self.key, self.hash, self.value = weakref.ref(key), signed(unsigned), value


def learn(key: Tensor, of_rows: int, flags: Hashable, value: object) -> None:
    """Holds what was made of a tensor on the CPU elsewhere.

    Args:
        key: indices in rows.
        of_rows: the hash of these, as a signed number.
        flags: what else the value was made of.
        value: what is held, if the cache is on.
    """
    with _lock:
        if _enabled:
            _hold(key, (key.shape, of_rows % 2**64), flags, value)


def known(key: Tensor, flags: Hashable) -> Known | None:
    """What the cache holds for a tensor on the CPU, which may have changed since."""
    reference = _known.get((id(key), flags))
    found = None if reference is None else reference()
    if found is not None and found.key() is key:
        return found
    if key.layout is not torch.strided or not key.is_cpu:
        return None
    with _lock:
        entries = _made.get(key)
        return None if entries is None or flags not in entries else _know(key, entries, flags)


def _know(key: Tensor, entries: dict, flags: Hashable) -> Known:
    """What is held, found without a search from now on; with :data:`_lock`."""
    _, of_rows = entries["state"]
    # The entries keep it for as long as the tensor lives.
    of_flags = entries.setdefault(Known, {})
    found = of_flags.get(flags)
    if found is None or found.value is not entries[flags]:
        found = of_flags[flags] = Known(key, of_rows, entries[flags])
    place = id(key), flags
    _known.pop(place, None)
    _known[place] = weakref.ref(found)
    while len(_known) > _MAX_KNOWN:
        del _known[next(iter(_known))]
    return found


def signed(value: int) -> int:
    """64 bits, read as a signed number."""
    return value - (value >> 63 << 64)


def recent(key: Hashable, build: Callable[[], Value]) -> Value:
    """What ``build`` made under ``key``, if that was one of the last :data:`_MAX_RECENT` keys.

    ``key`` holds a hash of all that the value depends on.
    """
    if not _enabled:
        return build()
    with _lock:
        if key in _recent:
            _recent.move_to_end(key)
            return cast(Value, _recent[key])
    value = build()
    with _lock:
        _recent[key] = value
        while len(_recent) > _MAX_RECENT:
            _recent.popitem(last=False)
    return value


def content_of(values: Tensor, most: int) -> tuple[int, torch.dtype, torch.Size] | None:
    """What tells numbers on the CPU from others: ``(hash, dtype, shape)``.

    None: keep nothing made of them.

    What is kept must be no one's gradient, and such that any later call can take it.

    Args:
        values: in any layout.
        most: the bytes up to which something is to be kept.
    """
    if (
        not _enabled
        or values_unknown(values)
        or values.requires_grad
        or torch.is_inference_mode_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or values.layout != torch.strided
        or values.dtype not in _NUMBERS
        or not values.is_cpu
        or not values.is_contiguous()
        or values.nbytes > most
    ):
        return None
    compiled = kernels.cpu_kernels()
    if compiled is None:
        return None
    return compiled.hash_of_bits(values), values.dtype, values.shape


def _state(key: Tensor) -> Hashable | None:
    """What must be the same for a cached value to be true of a tensor; None: keep nothing."""
    indices = key.as_tensor() if isinstance(key, EdgeIndex) else key
    if values_unknown(indices):
        return None
    if indices.is_cpu and indices.layout == torch.strided:
        return _state_of_rows(indices)
    with reading_values():
        parts = _index_parts(indices)
        if parts is None:
            return None
        if indices.device.type == "cpu":
            compiled = kernels.cpu_kernels()
            return None if compiled is None else (key.shape, compiled.content_hash(parts))
        if any(part.is_inference() for part in parts):
            return None
        state = tuple((part._version, part.data_ptr(), part.stride()) for part in parts)
        contents = tuple(_weighted_sum(part) for part in parts) if _check_content else ()
        return key.shape, state, contents


def _state_of_rows(indices: Tensor) -> Hashable | None:
    compiled = kernels.cpu_kernels()
    return None if compiled is None else (indices.shape, compiled.hash_of_rows(indices))


def _index_parts(indices: Tensor) -> list[Tensor] | None:
    """The one-dimensional tensors that hold the indices."""
    if indices.layout == torch.strided:
        return list(indices.unbind(0))
    if indices.layout == torch.sparse_csr:
        return [indices.crow_indices(), indices.col_indices()]
    if indices.layout == torch.sparse_csc:
        return [indices.ccol_indices(), indices.row_indices()]
    if indices.layout == torch.sparse_coo:
        return list(indices._indices().unbind(0))
    return None


def _weighted_sum(part: Tensor) -> int:
    """A hash of the elements and their places, modulo 2**64."""
    place = torch.arange(1, part.numel() + 1, device=part.device)
    return int(((part.long() + place * -7046029254386353131) * (2 * place + 1)).sum())
