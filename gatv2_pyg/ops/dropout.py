"""Dropout of attention coefficients: a mask that depends on (seed, edge id, head) alone.

In a batch it depends on the element too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import Options

_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF

_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
# A traced graph keeps only one of two equal calls; the argument, a new tensor, makes each its own.
_lib.define("draw_seed(Tensor unlike) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))


def _draw_seed(unlike: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")


def _draw_seed_cuda(unlike: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=unlike.device)


_lib.impl("draw_seed", _draw_seed, "CPU")
_lib.impl("draw_seed", _draw_seed_cuda, "CUDA")
torch.library.register_fake("gatv2_pyg::draw_seed", lambda unlike: unlike.new_empty(()), lib=_lib)


def draw_seed(device: torch.device) -> Tensor:
    """A dropout seed from torch's default generator: a 0-dimensional int64 tensor.

    It is drawn on the CPU, so that one seed gives one mask on every device; while a CUDA graph of
    ``device`` is captured, on that device, so that every replay draws anew.
    """
    if torch._C._are_functorch_transforms_active():
        # vmap knows torch's own random operations: one seed for all, or one for each.
        return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    where = device if capturing else torch.device("cpu")
    return torch.ops.gatv2_pyg.draw_seed.default(torch.empty((), dtype=torch.int64, device=where))


def options_of(
    negative_slope: float,
    dropout: float,
    device: torch.device,
    seed: Tensor | int | None = None,
) -> Options:
    """The numbers of a call; the seed is drawn if there is none and it is needed."""
    if dropout == 0:
        seed = 0
    elif seed is None:
        seed = draw_seed(device)
    elif not isinstance(seed, Tensor):
        seed = torch.tensor(seed, device="cpu")
    return Options(float(negative_slope), float(dropout), seed)


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int]) -> tuple[Tensor, ...]:
    """Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

    Args:
        counter: four 32-bit words, each an int or an int64 tensor; they broadcast.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    # A default device would move tensors.
    c0, c1, c2, c3 = (
        word.to(torch.int64) if isinstance(word, Tensor) else torch.tensor(word) for word in counter
    )
    k0, k1 = key
    for _ in range(10):
        # int64 wraps, so the 64 bits of the unsigned product are all there.
        p0, p1 = c0 * _PHILOX_M[0], c2 * _PHILOX_M[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK32) ^ c1 ^ k0,
            p1 & _MASK32,
            ((p0 >> 32) & _MASK32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _PHILOX_W[0]) & _MASK32, (k1 + _PHILOX_W[1]) & _MASK32
    return c0, c1, c2, c3


def dropout_scale(
    edge_id: Tensor,
    heads: int,
    dropout: float,
    seed: Tensor | int,
    dtype: torch.dtype,
    batch: int = 1,
) -> Tensor:
    """``keep_e`` of (3): ``1 / (1 - dropout)`` where an attention coefficient is kept, else 0.

    Args:
        edge_id: ``[E]`` ids of the edges (see :class:`gatv2_pyg.Graph`).
        heads: the number of heads ``H``.
        dropout: the probability that a coefficient is dropped.
        seed: a non-negative integer below 2**63, or a 0-dimensional int64 tensor of it.
        dtype: the dtype of the result.
        batch: the number of elements of a batch.

    Returns:
        ``[E, batch * H]``; a function of (seed, element, edge id, head) alone.
    """
    edge_id = edge_id.to(torch.int64).view(-1, 1, 1)
    element = torch.arange(batch, device=edge_id.device).unsqueeze(1)
    block = torch.arange((heads + 3) // 4, device=edge_id.device)
    words = philox(
        (edge_id & _MASK32, (edge_id >> 32) & _MASK32, block, element), (seed & _MASK32, seed >> 32)
    )
    shape = edge_id.size(0), batch, block.numel()
    bits = torch.stack([word.expand(shape) for word in words], dim=-1)
    bits = bits.flatten(2)[:, :, :heads].flatten(1)
    threshold = min(int(dropout * 2**32), 2**32 - 1)
    scale = 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0
    return (bits >= threshold).to(dtype) * scale
