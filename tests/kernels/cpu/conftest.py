"""What the tests of the CPU kernels change for a while."""

from __future__ import annotations

import importlib

import pytest
import torch

ISAS = ("baseline", "avx2", "avx512")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """The kernels run one instruction set after the other, those that the machine has."""
    cpu = importlib.import_module("gatv2_pyg.kernels.cpu")
    library = importlib.import_module("gatv2_pyg.kernels.cpu.library")
    if not cpu.library().handle.gatv2_isas() >> ISAS.index(request.param) & 1:
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv("GATV2_PYG_ISA", request.param)
    opened = library.open_library()
    assert opened.isa == request.param
    monkeypatch.setattr(cpu, "library", lambda: opened)
