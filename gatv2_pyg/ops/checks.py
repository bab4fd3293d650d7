"""Checks of a call: each error names the argument, what was expected, and what came."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import Edges, Inputs, Options, OutputGrads, Outputs
from gatv2_pyg.kernels.validity import Ends, Extent, require_sound

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_dropout(dropout: float) -> None:
    """Raises TypeError or ValueError unless ``dropout`` is a probability."""
    _check_number("dropout", dropout)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"Expected 'dropout' to be between 0 and 1, got {dropout}")


def check_seed(seed: Tensor | int) -> None:
    """Raises TypeError or ValueError unless ``seed`` is one of a dropout mask."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.dim() != 0:
            raise TypeError(
                "Expected 'seed' to be an integer or a 0-dimensional int64 Tensor, got "
                f"{seed.dtype} of shape {list(seed.shape)}"
            )
    elif not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(
            f"Expected 'seed' to be an integer or a 0-dimensional int64 Tensor, got {seed!r}"
        )
    elif not 0 <= seed < 2**63:
        raise ValueError(f"Expected 'seed' to lie in [0, 2**63), got {seed}")


_LARGEST_SLOPE = torch.finfo(torch.float32).max


def check_slope(negative_slope: float) -> None:
    """Raises TypeError for a ``negative_slope`` that is no number, ValueError beyond float32."""
    _check_number("negative_slope", negative_slope)
    if not isinstance(negative_slope, torch.SymFloat) and not holds_slope(negative_slope):
        raise ValueError(
            f"Expected 'negative_slope' to be finite in float32, got {negative_slope!r}"
        )


def holds_slope(negative_slope: float) -> bool:
    """Whether a slope times 0 is 0 when it is rounded, as lanes without a channel need it."""
    return abs(negative_slope) <= _LARGEST_SLOPE


def _check_number(name: str, value: float) -> None:
    if type(value) in (float, int, torch.SymFloat):
        return
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex():
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be a number, got {value!r}")


def check_inputs(inputs: Inputs, num_src: int, num_dst: int, num_ids: int) -> None:
    """Raises TypeError or ValueError unless the tensors of a call fit each other and the graph."""
    x_src = inputs.x_src
    for name, value in zip(Inputs._fields, inputs, strict=True):
        optional = name in ("edge_attr", "edge_weight", "attn_bias")
        if not isinstance(value, Tensor) and not (optional and value is None):
            raise TypeError(f"Expected '{name}' to be a Tensor, got {type(value).__name__}")
    if x_src.dim() < 3:
        raise ValueError(
            f"Expected 'x_src' to have the shape [*, N_src, H, C], got {list(x_src.shape)}"
        )
    *lead, rows, heads, channels = x_src.shape
    if rows != num_src:
        raise ValueError(
            f"Expected 'x_src' to have {num_src} rows, as the graph has source nodes, got {rows}"
        )
    _check_tensor("x_src", x_src, (*lead, num_src, heads, channels), x_src)
    _check_tensor("x_dst", inputs.x_dst, (*lead, num_dst, heads, channels), x_src)
    _check_tensor("att", inputs.att, (heads, channels), x_src, same_dtype=False)
    edge_attr, edge_weight = inputs.edge_attr, inputs.edge_weight
    if (edge_attr is None) != (edge_weight is None):
        given, missing = (
            ("edge_attr", "edge_weight") if edge_weight is None else ("edge_weight", "edge_attr")
        )
        raise ValueError(f"Expected '{missing}' to be given with '{given}', got None")
    if edge_attr is not None and edge_weight is not None:
        _check_tensor("edge_attr", edge_attr, (num_ids, None), x_src)
        shape = (heads * channels, edge_attr.size(1))
        _check_tensor("edge_weight", edge_weight, shape, x_src, same_dtype=False)
    attn_bias = inputs.attn_bias
    if attn_bias is not None:
        count = attn_bias.size(0) if attn_bias.dim() == 2 else -1
        if not 0 <= count <= num_ids or attn_bias.size(1) not in (1, heads):
            raise ValueError(
                f"Expected 'attn_bias' to have the shape [K, {heads}] or [K, 1], K <= {num_ids}, "
                f"got {list(attn_bias.shape)}"
            )
        _check_tensor("attn_bias", attn_bias, (None, None), x_src, same_dtype=False)


def check_bias(attn_bias: Tensor, count: int, heads: int, x: Tensor) -> None:
    """Raises TypeError or ValueError unless ``attn_bias`` is ``[count]`` or ``[count, heads]``.

    Args:
        x: the features, on whose device it must be.
    """
    if not isinstance(attn_bias, Tensor):
        raise TypeError(f"Expected 'attn_bias' to be a Tensor, got {type(attn_bias).__name__}")
    # Sizes that are symbolic are compared one by one.
    right = (1 <= attn_bias.dim() <= 2) and attn_bias.size(0) == count
    if not right or (attn_bias.dim() == 2 and attn_bias.size(1) != heads):
        raise ValueError(
            f"Expected 'attn_bias' to have the shape [{count}] or [{count}, {heads}], got "
            f"{list(attn_bias.shape)}"
        )
    _check_tensor("attn_bias", attn_bias, (None,) * attn_bias.dim(), x, same_dtype=False)


def _check_tensor(
    name: str, value: Tensor, shape: tuple[int | None, ...], x_src: Tensor, same_dtype: bool = True
) -> None:
    if value.dim() != len(shape) or any(
        want is not None and size != want for size, want in zip(value.shape, shape, strict=True)
    ):
        want = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"Expected '{name}' to have the shape [{want}], got {list(value.shape)}")
    if value.device != x_src.device:
        raise ValueError(
            f"Expected '{name}' to be on {x_src.device}, as 'x_src', got {value.device}"
        )
    if value.layout != torch.strided:
        raise TypeError(f"Expected '{name}' to be a dense Tensor, got one in {value.layout}")
    if value.dtype not in DTYPES:
        raise TypeError(f"Expected '{name}' to have a floating dtype, got {value.dtype}")
    if same_dtype and value.dtype != x_src.dtype:
        raise TypeError(
            f"Expected '{name}' to have the dtype {x_src.dtype}, as 'x_src', got {value.dtype}"
        )


def check_call(inputs: Inputs, edges: Edges, options: Options, acc: torch.dtype) -> None:
    """The checks of an operator: nothing a caller passes makes a kernel leave its tensors.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a tensor has the wrong shape, device or values, or a number is out of range.
    """
    by_dst = edges.by_dst
    for name, value in (("x_src", inputs.x_src), *zip(by_dst._fields, by_dst, strict=True)):
        if not isinstance(value, Tensor):
            name = name if name == "x_src" else f"by_dst_{name}"
            raise TypeError(f"Expected '{name}' to be a Tensor, got {value!r}")
    if inputs.x_src.dim() not in (3, 4):
        raise ValueError(
            "Expected 'x_src' to have the shape [N_src, H, C] or [B, N_src, H, C], got "
            f"{list(inputs.x_src.shape)}"
        )
    num_src, num_dst = inputs.x_src.size(-3), by_dst.ptr.numel() - 1
    if inputs.x_src.size(-2) == 0 or inputs.x_src.size(-1) == 0:
        raise ValueError(
            "Expected 'x_src' to have at least one head and one channel, got the shape "
            f"{list(inputs.x_src.shape)}"
        )
    check_dropout(options.dropout)
    if edges.num_ids < 0:
        raise ValueError(f"Expected 'num_ids' to be 0 or more, got {edges.num_ids}")
    check_inputs(inputs, num_src, num_dst, edges.num_ids)
    for name in ("att", "edge_weight", "attn_bias"):
        weight = getattr(inputs, name)
        if weight is not None and weight.dtype != acc:
            raise TypeError(f"Expected '{name}' to have the dtype {acc}, got {weight.dtype}")
    device = inputs.x_src.device
    if by_dst.ptr.device != device:
        raise ValueError(f"Expected 'by_dst_ptr' to be on {device}, got {by_dst.ptr.device}")
    require_sound("by_dst", by_dst, Extent(num_dst, num_src, edges.num_ids, num_src))


def check_sources(inputs: Inputs, edges: Edges) -> None:
    """Likewise for the edges by source, which backward needs for the gradient of ``x_src``."""
    by_src, num_src = edges.by_src, inputs.x_src.size(-3)
    if by_src is None:
        raise ValueError("Expected 'by_src' for the gradient of 'x_src', got None")
    num_rows, num_dst = by_src.ptr.numel() - 1, edges.by_dst.ptr.numel() - 1
    blocks = num_rows // num_src if num_src else 1
    if num_rows != blocks * num_src or (num_src and blocks < 1):
        raise ValueError(
            f"Expected 'by_src_ptr' to have a multiple of {num_src} elements and one more, got "
            f"{by_src.ptr.numel()}"
        )
    extent = Extent(num_rows, num_dst, edges.by_dst.idx.numel(), num_src)
    require_sound("by_src", by_src, extent, Ends(*edges.by_dst[:2]))


def check_results(
    inputs: Inputs, grads: OutputGrads, outputs: Outputs, num_ids: int, acc: torch.dtype
) -> None:
    """Likewise for what a forward pass returned, and its gradients."""
    row = tuple(inputs.x_dst.shape)
    edge = (*row[:-3], num_ids, row[-2])
    if (grads.alpha is None) != (outputs.alpha is None):
        raise ValueError("Expected 'alpha' to be given with 'grad_alpha', and only then")
    for name, value, shape in (
        ("grad_out", grads.out, row),
        ("grad_alpha", grads.alpha, edge),
        ("out", outputs.out, row),
        ("lse", outputs.lse, row[:-1]),
        ("alpha", outputs.alpha, edge),
    ):
        if value is None and name in ("out", "lse"):
            raise TypeError(f"Expected '{name}' to be a Tensor, got None")
        if value is not None:
            _check_tensor(name, value, shape, inputs.x_src, same_dtype=False)
            if value.dtype != acc and name in ("out", "lse", "alpha"):
                raise TypeError(f"Expected '{name}' to have the dtype {acc}, got {value.dtype}")
