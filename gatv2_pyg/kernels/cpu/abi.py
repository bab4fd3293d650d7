"""The records of the C ABI, declared again: the fields of ``src/abi.h`` by name."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import c_double, c_int64, c_void_p

VERSION = 8
"""Must equal kAbiVersion."""


def _record(name: str, fields: str, **types: type) -> type[ctypes.Structure]:
    """A structure of 64-bit fields: ``*name`` is an address, other types are given by name."""
    declared = [
        (field.lstrip("*"), c_void_p if field[0] == "*" else types.get(field, c_int64))
        for field in fields.split()
    ]
    return type(name, (ctypes.Structure,), {"_fields_": declared})


GroupedEdges = _record("GroupedEdges", "*ptr *idx *edge *pieces num_pieces *cuts num_cuts")
Arguments = _record(
    "Arguments",
    "dtype wide_index threads num_src num_dst heads channels edge_dim num_ids src_blocks "
    "batch element bias_rows bias_heads "
    "*x_src *x_dst *att *edge_attr *edge_weight *attn_bias *ordered_bias *dst_bias *out_bias "
    "negative_slope dropout seed *out *lse *alpha *biased_out by_dst by_src *grad_out *grad_alpha "
    "*d_x_src *d_x_dst *d_att *d_edge_attr *d_edge_weight *d_attn_bias "
    "*sum_grad_out *sum_d_x_src *sum_d_x_dst",
    negative_slope=c_double,
    dropout=c_double,
    by_dst=GroupedEdges,
    by_src=GroupedEdges,
)
GroupArguments = _record(
    "GroupArguments",
    "wide_input wide_output threads *src src_stride *dst dst_stride num_edges num_src num_dst "
    "add_self_loops *ptr *idx *edge",
)
GroupResult = _record("GroupResult", "num_edges max_degree identity bad bad_position bad_value")
TransposeArguments = _record(
    "TransposeArguments",
    "wide threads *ptr *idx num_positions num_rows num_src num_blocks *out_ptr *out_idx *out_edge",
)
PieceArguments = _record(
    "PieceArguments", "wide *ptr num_rows num_positions *pieces num_pieces *cuts num_cuts"
)
CheckArguments = _record(
    "CheckArguments",
    "wide rows num_rows num_positions num_edge num_other num_ids *dst_ptr *dst_idx num_blocks",
    rows=GroupedEdges,
)
Finding = _record("Finding", "part position value")
LoopArguments = _record(
    "LoopArguments",
    "wide is_double threads *ptr *edge num_loops num_edges dim mean *given *result",
)
HashPart = _record("HashPart", "*data size stride bytes is_signed")

RECORDS = (
    GroupedEdges,
    Arguments,
    GroupArguments,
    GroupResult,
    TransposeArguments,
    PieceArguments,
    CheckArguments,
    Finding,
    LoopArguments,
    HashPart,
)
PARTS = (None, "ptr", "idx", "edge", "pieces", "cuts")
"""What a :class:`Finding` is about, by ``part``."""

FUNCTIONS: dict[str, tuple[type, ...]] = {
    "gatv2_forward": (c_void_p, c_int64),
    "gatv2_backward": (c_void_p, c_int64),
    "gatv2_group_by_dst": (c_void_p, c_void_p),
    "gatv2_transpose": (c_void_p, c_void_p, c_void_p),
    "gatv2_piece_tables": (c_void_p, c_void_p),
    "gatv2_check_rows": (c_void_p, c_void_p),
    "gatv2_loop_features": (c_void_p,),
    "gatv2_loop_gradients": (c_void_p,),
    "gatv2_content_hash": (c_void_p, c_int64, c_int64, c_void_p),
    "gatv2_prefer_huge_pages": (c_void_p, c_int64),
}
"""The functions that return a status, and their arguments."""


def declared() -> Iterator[tuple[str, int]]:
    """Names and sizes of the records, and names and offsets of their fields, as they are here."""
    for record in RECORDS:
        yield record.__name__, ctypes.sizeof(record)
        for field, *_ in record._fields_:
            yield f"{record.__name__}.{field}", getattr(record, field).offset


def built(handle: ctypes.CDLL) -> Iterator[tuple[str, int]]:
    """The same as a loaded library has them."""
    function = handle.gatv2_field
    function.restype, function.argtypes = c_int64, (c_int64, c_int64, c_void_p)
    name = ctypes.c_char_p()
    record = 0
    while (size := function(record, -1, ctypes.byref(name))) != -2:
        record_name = (name.value or b"").decode()
        yield record_name, size
        field = 0
        while (offset := function(record, field, ctypes.byref(name))) != -1:
            yield f"{record_name}.{(name.value or b'').decode()}", offset
            field += 1
        record += 1
