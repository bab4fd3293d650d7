"""Which library is taken: one that was built from the sources at hand."""

import importlib

import pytest

library = importlib.import_module("gatv2_pyg.kernels.cpu.library")


def test_a_library_of_other_sources_is_refused(monkeypatch):
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.delenv("GATV2_PYG_LIBRARY", raising=False)
    monkeypatch.setattr(library, "source_hash", lambda package: "0" * 64)
    with pytest.raises(library.LibraryError, match="built from other sources"):
        library.open_library()
