"""What the graph cache tells apart, what it keeps, and when it is not asked."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref

import pytest
import torch
from torch_geometric.utils import to_torch_csc_tensor

from gatv2_pyg import GATv2Conv, kernels, set_graph_cache
from gatv2_pyg.graph import cache, operators
from gatv2_pyg.kernels import validity


@pytest.fixture(autouse=True)
def empty():
    set_graph_cache(False)
    set_graph_cache(True)
    yield
    set_graph_cache(True)


def count_builds():
    made = []

    def build():
        made.append(object())
        return made[-1]

    return made, build


def test_a_tensor_is_built_for_once_and_again_when_it_changed():
    index = torch.randint(9, (2, 40))
    made, build = count_builds()
    first = cache.cached(index, "flags", build)
    assert cache.cached(index, "flags", build) is first
    index.data[0, 3] += 1
    assert cache.cached(index, "flags", build) is not first
    assert len(made) == 2


def test_flags_are_told_apart():
    index = torch.randint(9, (2, 40))
    _, build = count_builds()
    assert cache.cached(index, "a", build) is not cache.cached(index, "b", build)


def test_equal_contents_of_another_shape_are_told_apart():
    _, build = count_builds()
    index = torch.zeros(2, 6, dtype=torch.int64)
    first = cache.cached(index, "flags", build)
    index.resize_(2, 4)
    assert cache.cached(index, "flags", build) is not first


def test_layers_of_opposite_flow_share_a_tensor():
    x, index = torch.randn(7, 3), torch.tensor([[0, 1, 2, 5], [3, 3, 4, 6]])
    there = GATv2Conv(3, 2, add_self_loops=False)
    back = GATv2Conv(3, 2, add_self_loops=False, flow="target_to_source")
    back.load_state_dict(there.state_dict())
    there(x, index)
    torch.testing.assert_close(back(x, index), there(x, index.flip(0)))


def test_compiled_graphs_of_one_tensor_are_told_apart():
    """Their operator keeps what it grouped, for every way it was asked to."""
    index = torch.randint(7, (2, 40), generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for flags in itertools.product((False, True), repeat=3):
            got = operators.group_by_dst(index, 9, 9, *flags)
            want = operators.group_edges(index.clone(), 9, 9, *flags)
            for mine, theirs in zip(got, want, strict=True):
                assert mine.dtype == theirs.dtype
                assert torch.equal(mine, theirs), flags


def test_compiled_graphs_get_copies_of_what_is_kept():
    """Inductor may write to what an operator returned; edges by source follow the copies."""
    index = torch.randint(7, (2, 40), generator=torch.Generator().manual_seed(0))
    want = operators.group_edges(index.clone(), 7, 7, False, True, False)
    sources = operators.group_sources(*want[:2], 7, 40)
    for _ in range(2):
        got = operators.group_by_dst(index, 7, 7, False, True, False)
        assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))
        for _ in range(2):
            by_src = operators.group_by_src(*got[:2], 7, 40)
            assert all(torch.equal(*pair) for pair in zip(by_src, sources, strict=True))
            for part in by_src:
                part.fill_(-1)
        for part in got:
            part.fill_(-1)
        with pytest.raises(ValueError, match="by_dst"):
            operators.group_by_src(*got[:2], 7, 40)


@pytest.mark.filterwarnings("ignore:Sparse (CSC|invariant):UserWarning")
def test_features_within_a_matrix_are_read_in_every_call():
    """The cache looks at its indices alone."""
    x, index = torch.randn(7, 3), torch.tensor([[0, 1, 2, 5], [3, 3, 3, 6]])
    attr = torch.randn(4, 2)
    conv = GATv2Conv(3, 2, edge_dim=2, add_self_loops=False)
    matrix = to_torch_csc_tensor(index.flip(0), attr, size=(7, 7))
    for _ in range(2):
        torch.testing.assert_close(conv(x, matrix), conv(x, index, attr))
        matrix.values().mul_(-3)
        attr.mul_(-3)


def test_entries_of_a_tensor_are_bounded():
    index = torch.randint(9, (2, 40))
    for flags in range(100):
        cache.cached(index, flags, object)
    assert len(cache._made[index]) <= cache._MAX_PER_TENSOR + 1


def test_neither_tensor_nor_value_is_kept_alive():
    index = torch.randint(9, (2, 40))
    value = cache.cached(index, "flags", lambda: torch.ones(3))
    refs = weakref.ref(index), weakref.ref(value)
    del index, value
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_off_means_off():
    index = torch.randint(9, (2, 40))
    made, build = count_builds()
    set_graph_cache(False)
    cache.cached(index, "flags", build)
    cache.cached(index, "flags", build)
    assert len(made) == 2


def test_without_compiled_kernels_nothing_is_kept_on_cpu(monkeypatch):
    index = torch.randint(9, (2, 40))
    monkeypatch.setattr(kernels, "cpu_kernels", lambda: None)
    made, build = count_builds()
    cache.cached(index, "flags", build)
    cache.cached(index, "flags", build)
    assert len(made) == 2


def test_the_content_check_of_devices_sees_every_element():
    index = torch.randint(9, (50,))
    hashes = {cache._weighted_sum(index)}
    for position in range(50):
        other = index.clone()
        other[position] += 1
        hashes.add(cache._weighted_sum(other))
    swapped = torch.arange(50)
    swapped[[3, 4]] = swapped[[4, 3]]
    hashes |= {cache._weighted_sum(torch.arange(50)), cache._weighted_sum(swapped)}
    assert len(hashes) == 53


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("module", [cache, validity])
def test_a_forked_child_finds_locks_free(module):
    """A thread that held one while the process was forked does not live in the child."""
    if not hasattr(os, "register_at_fork"):
        pytest.skip("processes can't be forked here")
    held, done = threading.Event(), threading.Event()

    def hold():
        with module._lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if module._lock.acquire(timeout=1.0) else 1)
    finally:
        done.set()
        holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_handler_may_take_the_lock_that_is_held():
    with cache._lock:
        assert cache._lock.acquire(timeout=1.0)
        cache._lock.release()
