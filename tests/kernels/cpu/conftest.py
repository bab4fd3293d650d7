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


@pytest.fixture
def take_isa(monkeypatch):
    """Call it with an instruction set, for the kernels to run it; skips where there is none."""
    cpu = importlib.import_module("gatv2_pyg.kernels.cpu")
    library = importlib.import_module("gatv2_pyg.kernels.cpu.library")

    def take(isa: str) -> None:
        if not cpu.library().handle.gatv2_isas() >> ISAS.index(isa) & 1:
            pytest.skip(f"this machine has no {isa}")
        monkeypatch.setenv("GATV2_PYG_ISA", isa)
        opened = library.open_library()
        assert opened.isa == isa
        monkeypatch.setattr(cpu, "library", lambda: opened)

    return take


@pytest.fixture(params=ISAS)
def isa(request, take_isa):
    """The kernels run one instruction set after the other, those that the machine has."""
    take_isa(request.param)
