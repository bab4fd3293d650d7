"""What ``auto`` takes where the Triton kernels refuse, and the reason it gives."""

from __future__ import annotations

import threading

import pytest
import torch

from gatv2_pyg import backends, use_backend
from gatv2_pyg.kernels import triton as kernels


@pytest.mark.parametrize("scatter", [True, False])
def test_auto_falls_to_the_next_backend_and_says_why(monkeypatch, scatter):
    missing = None if scatter else "torch_scatter is not here"
    monkeypatch.setattr(backends, "_unavailable", lambda name: None)
    monkeypatch.setattr(backends, "_triton_refusal", lambda *_: "the GPU is too old")
    monkeypatch.setattr(backends, "_missing", lambda name: missing)
    monkeypatch.setattr(backends, "_without_cuda", lambda library, kind: None)
    device = torch.device("cuda")
    chosen = backends.select_backend("auto", device, torch.float32)
    assert chosen.name == ("scatter" if scatter else "reference")
    assert "not fused: the GPU is too old" in chosen.reason
    assert scatter or "torch_scatter is not here" in chosen.reason
    with pytest.raises(RuntimeError, match="'fused' can't be used: the GPU is too old"):
        backends.select_backend("fused", device, torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype", "refused"),
    [
        ((6, 1), torch.float32, True),
        ((7, 5), torch.float32, False),
        ((7, 5), torch.bfloat16, True),
        ((9, 0), torch.bfloat16, False),
    ],
)
def test_old_gpus_are_refused_with_their_capability(monkeypatch, capability, dtype, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    reason = kernels._unsupported_device.__wrapped__(0, dtype)
    assert (reason is not None) == refused
    if refused:
        assert "Some GPU has {}.{}".format(*capability) in reason


def test_an_override_holds_for_its_thread_alone():
    found = []
    with use_backend("reference"):
        other = threading.Thread(target=lambda: found.append(backends.requested_backend("auto")))
        other.start()
        other.join()
        found.append(backends.requested_backend("auto"))
    assert found == ["auto", "reference"]
