"""Settings of the whole suite."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # OpenMP reads this when torch loads it: threads that wait leave the core to the other worker.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported; its kernels then run on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "gatv2_pyg",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("gatv2_pyg")

# Two threads in MKL's first exp of doubles leave half of it exact to 3e-9 only, now and then.
torch.zeros(1000, dtype=torch.float64).exp()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test is named after an address: workers have to collect the same names."""
    named = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named:
        raise pytest.UsageError(f"expected names that are the same in every process, got {named}")
