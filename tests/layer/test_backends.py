"""What ``auto`` takes where the Triton kernels refuse, and the reason it gives."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from gatv2_pyg import GATv2Conv, backends, use_backend
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


def test_an_override_holds_for_its_task_alone():
    found = {}

    async def task(name, first, last):
        with use_backend(name):
            for turn in range(last):
                found[name, turn] = backends.requested_backend("auto")
                await asyncio.sleep(0)
                if turn == first:
                    found[name, "thread"] = await asyncio.to_thread(
                        backends.requested_backend, "auto"
                    )
        found[name, "after"] = backends.requested_backend("auto")

    async def both():
        await asyncio.gather(task("reference", 1, 3), task("scatter", 0, 6))
        return backends.requested_backend("auto")

    assert asyncio.run(both()) == "auto"
    for (name, turn), value in found.items():
        assert value == ("auto" if turn == "after" else name), found
    assert backends.requested_backend("auto") == "auto"


def test_overrides_that_end_out_of_order_leave_nothing_behind_for_compiled_code():
    @torch.compile(backend="eager", fullgraph=True)
    def forced(x):
        return x + 1 if backends.requested_backend("auto") == "reference" else x

    x, seen = torch.zeros(()), []
    first, second = use_backend("reference"), use_backend("scatter")
    seen.append(forced(x))
    first.__enter__()
    seen.append(forced(x))
    second.__enter__()
    first.__exit__(None, None, None)
    seen.append(forced(x))
    second.__exit__(None, None, None)
    seen.append(forced(x))
    assert torch.stack(seen).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("fullgraph", [True, False])
def test_an_override_within_compiled_code(fullgraph):
    conv, x, edge_index = GATv2Conv(4, 3), torch.randn(5, 4), torch.randint(5, (2, 9))
    graphs = []

    def backend(graph, _):
        graphs.append(any("gatv2_pyg" in str(node.target) for node in graph.graph.nodes))
        return graph

    def model(x):
        with use_backend("reference"):
            first = conv(x, edge_index)
            if not fullgraph:
                torch._dynamo.graph_break()
            second = conv(x, edge_index)
        return first + second

    with torch.no_grad():
        out = torch.compile(model, backend=backend, fullgraph=fullgraph)(x)
        torch.testing.assert_close(out, model(x))
    assert graphs
    assert not any(graphs)
    assert backends.requested_backend("auto") == "auto"
