"""Memory stays flat while graphs change at every step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = int(os.environ.get("GATV2_PYG_MEMORY_STEPS", "600"))
"""3,000 in a thorough run; a leak of one small graph a step is seen in far fewer."""

TRAINS = """
import gc, os, resource, sys
import torch
from gatv2_pyg import GATv2Conv

torch.set_num_threads(1)
torch.manual_seed(0)
steps, nodes = int(sys.argv[1]), 2000
layers = torch.nn.ModuleList(
    [GATv2Conv(16, 8, heads=4, edge_dim=2, dropout=0.2), GATv2Conv(32, 8, heads=4, edge_dim=2)]
)
optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
page = resource.getpagesize()


def resident():
    gc.collect()
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * page


found = []
for step in range(steps):
    size = nodes // 2 + int(torch.randint(nodes // 2, ()))
    edge_index = torch.randint(size, (2, 8 * size))
    x, edge_attr = torch.randn(size, 16), torch.randn(8 * size, 2)
    for layer in layers:
        x = layer(x, edge_index, edge_attr).relu()
    optimizer.zero_grad()
    x.square().mean().backward()
    optimizer.step()
    if step % (steps // 10) == steps // 10 - 1:
        found.append(resident())
print(*found)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc is not here")
def test_memory_plateaus_on_changing_graphs():
    result = subprocess.run(
        [sys.executable, "-c", TRAINS, str(STEPS)],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert result.returncode == 0, result.stderr
    resident = [int(value) for value in result.stdout.split()]
    assert len(resident) == 10
    # A graph of this size takes 170 KiB at least: kept, 300 of them would add 50 MiB.
    growth = max(resident[5:]) - max(resident[:5])
    assert growth < 12 * 2**20, [value >> 20 for value in resident]
