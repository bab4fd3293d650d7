"""Settings of the whole suite."""

import os

import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported; its kernels then run on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gatv2_pyg",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("gatv2_pyg")
