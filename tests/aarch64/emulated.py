"""The passes of a library built for aarch64, by a process of their own under QEMU.

Takes the place of ``gatv2_pyg.kernels.cpu`` in the kernel tests: the same tensors in and out, and
the records of ``abi.py`` in between.  ``tests/native/door_server.cpp`` is the other end.
"""

from __future__ import annotations

import ctypes
import shlex
import struct
import subprocess

import torch
from torch import Tensor

from gatv2_pyg.kernels import cpu
from gatv2_pyg.kernels.contract import (
    Edges,
    InputGrads,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
    Rows,
)
from gatv2_pyg.kernels.cpu import abi

COMMAND = "GATV2_PYG_DOOR_SERVER"
"""The environment variable that holds the command which starts the server."""

_FORWARD, _BACKWARD = 0, 1
_ROWS = ("ptr", "idx", "edge", "pieces", "cuts")


class Emulated:
    """A set of kernels; ``threads`` are those of the emulated processor."""

    def __init__(self, command: str, threads: int = 1) -> None:
        self.threads = threads
        self._server = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def close(self) -> None:
        """Ends the server, which must end well."""
        self._server.stdin.close()
        assert self._server.wait(60) == 0
        self._server.stdout.close()

    def forward(
        self, inputs: Inputs, edges: Edges, options: Options, return_attention: bool
    ) -> Outputs:
        heads, acc = inputs.att.size(0), inputs.att.dtype
        outputs = Outputs(
            out=inputs.x_dst.new_empty(inputs.x_dst.shape, dtype=acc),
            lse=inputs.x_dst.new_empty(inputs.x_dst.shape[:2], dtype=acc),
            alpha=inputs.x_dst.new_empty((edges.num_ids, heads), dtype=acc)
            if return_attention
            else None,
        )
        args = cpu._arguments(inputs, edges, options, outputs)
        self._call(_FORWARD, args, {**_inputs(inputs, edges), **outputs._asdict()}, outputs)
        return outputs

    def backward(
        self,
        grads: OutputGrads,
        inputs: Inputs,
        outputs: Outputs,
        edges: Edges,
        options: Options,
        needs: Needs,
    ) -> InputGrads:
        found = InputGrads(
            *(
                torch.empty_like(value) if value is not None and needed else None
                for value, needed in zip(inputs, needs, strict=True)
            )
        )
        args = cpu._arguments(inputs, edges, options, outputs)
        buffers = {**_inputs(inputs, edges), **outputs._asdict()}
        if edges.by_src is not None:
            rows, size = edges.by_src, inputs.x_src.size(0)
            args.src_blocks = (rows.ptr.numel() - 1) // max(size, 1)
            args.by_src = cpu.grouped_edges(*rows)
            buffers |= _rows("by_src", rows)
        buffers |= {"grad_out": grads.out, "grad_alpha": grads.alpha}
        buffers |= {f"d_{name}": value for name, value in found._asdict().items()}
        self._call(_BACKWARD, args, buffers, found)
        return found

    def _call(
        self,
        door: int,
        args: ctypes.Structure,
        buffers: dict[str, Tensor | None],
        results: tuple[Tensor | None, ...],
    ) -> None:
        args.threads = self.threads
        sent = [(name, value) for name, value in buffers.items() if value is not None]
        back = [value for _, value in sent if any(value is result for result in results)]
        to = self._server.stdin
        to.write(struct.pack("<2q", door, ctypes.sizeof(args)) + bytes(args))
        to.write(struct.pack("<q", len(sent)))
        for name, value in sent:
            content = _bytes(value)
            goes_back = any(value is result for result in results)
            to.write(struct.pack("<3q", _place(name), goes_back, len(content)))
            to.write(content)
        to.flush()
        (status,) = struct.unpack("<q", self._read(8))
        assert status == 0, f"the door returned {status}"
        for value in back:
            content = self._read(value.numel() * value.element_size())
            if content:
                value.view(-1).view(torch.uint8).copy_(
                    torch.frombuffer(bytearray(content), dtype=torch.uint8)
                )

    def _read(self, size: int) -> bytes:
        content = self._server.stdout.read(size)
        assert len(content) == size, f"the server ended, by {self._server.wait(60)}"
        return content


def _inputs(inputs: Inputs, edges: Edges) -> dict[str, Tensor | None]:
    return {**inputs._asdict(), **_rows("by_dst", edges.by_dst)}


def _rows(name: str, rows: Rows) -> dict[str, Tensor | None]:
    """The tables of a grouping; an empty ``edge`` stands for the position."""
    found = {f"{name}.{part}": getattr(rows, part) for part in _ROWS}
    if rows.edge.numel() == 0 and rows.idx.numel() > 0:
        found[f"{name}.edge"] = None
    return found


def _bytes(value: Tensor) -> bytes:
    assert value.is_contiguous()
    return value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""


def _place(name: str) -> int:
    """Where a pointer stands in the record of arguments."""
    first, _, part = name.partition(".")
    place = getattr(abi.Arguments, first).offset
    return place + (getattr(abi.GroupedEdges, part).offset if part else 0)
