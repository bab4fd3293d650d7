"""Tensors that end where memory does."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_kept: list[mmap.mmap] = []


def guarded(value: Tensor | None) -> Tensor | None:
    """A copy whose next page can't be read; its memory is kept until :func:`release`."""
    if value is None or value.numel() == 0:
        return value
    page = mmap.PAGESIZE
    whole = -(-value.nbytes // page) * page
    memory = mmap.mmap(-1, whole + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mprotect(address + whole, page, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(memory)
    offset = whole - value.nbytes
    copy = torch.frombuffer(memory, dtype=value.dtype, count=value.numel(), offset=offset)
    return copy.copy_(value.reshape(-1)).view(value.shape)


def release() -> None:
    """Lets go of the memory of all copies, which must not be used any more."""
    _kept.clear()
