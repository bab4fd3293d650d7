"""Every kind of write to ``edge_index`` between two calls: the second call sees the new edges."""

import copy
import multiprocessing
import unittest

import torch
from torch.utils import dlpack
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_csr_tensor

from ...harness import EDGES, NODES, case, edges, features, step


def _new(count=EDGES):
    return edges(count=count, seed=9)


def _one_value(index):
    index[1, 5] = (index[1, 5] + 1) % NODES


def _numpy(index):
    index.numpy()[:] = _new().numpy()


def _dlpack(index):
    dlpack.from_dlpack(dlpack.to_dlpack(index)).copy_(_new())


def _out_argument(index):
    torch.stack(list(_new()), out=index)


def _storage(index):
    index.untyped_storage().copy_(_new().untyped_storage())


def _ctypes(index):
    import ctypes

    new = _new()
    ctypes.memmove(index.data_ptr(), new.data_ptr(), new.numel() * new.element_size())


def _alias_by_set(index):
    torch.empty(0, dtype=torch.long).set_(index).copy_(_new())


def _inference_mode(index):
    with torch.inference_mode():
        index.copy_(_new())


def _under_no_version(index):
    with torch.autograd._unsafe_preserve_version_counter(index):
        index.copy_(_new())


def _swapped(index):
    index[:] = index.flip(0)


def _permuted(index):
    index.data.copy_(index[:, torch.arange(EDGES).flip(0)].clone())


_WRITES = {
    "copy_": lambda index: index.copy_(_new()),
    "data.copy_": lambda index: index.data.copy_(_new()),
    "detach().copy_": lambda index: index.detach().copy_(_new()),
    "one value": _one_value,
    "one value through data": lambda index: _one_value(index.data),
    "a row through data": lambda index: index.data[0].copy_(_new()[0]),
    "NumPy": _numpy,
    "DLPack": _dlpack,
    "out=": _out_argument,
    "index_put_": lambda index: index.index_put_((torch.tensor([0]),), _new()[:1]),
    "set_ to other memory": lambda index: index.set_(_new()),
    "data = another tensor": lambda index: setattr(index, "data", _new()),
    "data = more edges": lambda index: setattr(index, "data", _new(55)),
    "resize_ to fewer": lambda index: index.resize_(2, 30).copy_(_new(30)),
    "resize_ to more": lambda index: index.resize_(2, 70).copy_(_new(70)),
    "an alias by set_": _alias_by_set,
    "the storage": _storage,
    "memory itself": _ctypes,
    "inside inference mode": _inference_mode,
    "version counter preserved": _under_no_version,
    "both rows swapped": _swapped,
    "edges permuted through data": _permuted,
    "map_": lambda index: index.map_(_new(), lambda _, value: value),
    "view of a view": lambda index: index.view(-1).data.view(2, -1)[:, ::2].copy_(_new()[:, ::2]),
    "random_": lambda index: index.random_(NODES, generator=torch.Generator().manual_seed(5)),
}


def _register(name, write):
    @case(f"writes/{name}", fused="swap" not in name)
    def _(make):
        layers = [make(edge_dim=3), make(add_self_loops=False), make(flow="target_to_source")]
        index, found = edges(), []
        for _ in range(2):
            for conv in layers:
                conv.zero_grad()
                attr = features(index.size(1), 3) if conv.edge_dim else None
                x = features().requires_grad_()
                found.append(step(conv, conv(x, index, attr), x=x))
            write(index)
        return found


for _name, _write in _WRITES.items():
    _register(_name, _write)


@case("writes/the tensor that an EdgeIndex was made of")
def _(make):
    conv, found = make(add_self_loops=False), []
    plain = edges()
    index = EdgeIndex(plain, sparse_size=(NODES, NODES))
    for _ in range(2):
        found.append(conv(features(), index))
        plain.copy_(_new())
    return found


@case("writes/an EdgeIndex, through data and as a tensor")
def _(make):
    conv, found = make(), []
    index = EdgeIndex(edges(), sparse_size=(NODES, NODES))
    found.append(conv(features(), index))
    index.as_tensor().copy_(_new())
    found.append(conv(features(), index))
    index.as_tensor().data.copy_(edges(seed=4))
    return [*found, conv(features(), index)]


@case("writes/the columns of a CSR tensor")
def _(make):
    conv, found = make(add_self_loops=False), []
    index = edges(loops=False).unique(dim=1)
    adj = to_torch_csr_tensor(index.flip(0), size=(NODES, NODES))
    for column in (0, 1, 2):
        found.append(conv(features(), adj))
        rows = adj.crow_indices().diff()
        at = int((rows == 1).nonzero()[0]) if bool((rows == 1).any()) else None
        if at is None:
            raise unittest.SkipTest("no row of one edge")
        adj.col_indices()[adj.crow_indices()[at]] = column
    return found


@case("writes/a COO tensor's indices")
def _(make):
    conv = make(add_self_loops=False)
    index = edges(loops=False).unique(dim=1)
    adj = torch.sparse_coo_tensor(index.flip(0), torch.ones(index.size(1)), (NODES, NODES))
    adj = adj.coalesce()
    first = conv(features(), adj)
    adj.indices()[0].copy_(adj.indices()[0].flip(0).contiguous())
    return [first, conv(features(), adj)]


@case("writes/in a loop, back and forth")
def _(make):
    conv, index, found = make(), edges(), []
    kept = index.clone()
    for _ in range(3):
        found.append(conv(features(), index))
        index.data.copy_(_new())
        found.append(conv(features(), index))
        index.data.copy_(kept)
    return found


@case("writes/between forward and backward")
def _(make):
    # torch counts no write through .data; PyG keeps edges of its own once self-loops are added.
    conv, index, x = make(), edges(), features().requires_grad_()
    out = conv(x, index)
    index.data.copy_(_new())
    return step(conv, out, x=x)


@case("writes/the tensor freed and another at its address")
def _(make):
    conv, found = make(), []
    for seed in range(8):
        index = edges(seed=seed)
        found.append(conv(features(), index))
        del index
    return found


@case("writes/number of nodes changes")
def _(make):
    conv, index = make(), edges(6)
    return [conv(features(nodes), index) for nodes in (6, 9, 6, 12)]


@case("writes/views of one buffer")
def _(make):
    conv = make()
    buffer = torch.cat([edges(seed=seed) for seed in range(4)], 1)
    found = [conv(features(), buffer[:, i * EDGES : (i + 1) * EDGES]) for i in range(4)]
    view = buffer[:, :EDGES]
    found.append(conv(features(), view))
    buffer.copy_(buffer.flip(1).clone())
    return [*found, conv(features(), view)]


@case("writes/copies of a model do not share")
def _(make):
    conv, index = make(), edges()
    first = conv(features(), index)
    other = copy.deepcopy(index)
    other.copy_(_new())
    return [first, conv(features(), other), copy.deepcopy(conv)(features(), index)]


def _write_shared(index):
    index.copy_(_new())


@case("writes/shared memory, by another process")
def _(make):
    conv, index = make(), edges().share_memory_()
    first = conv(features(), index)
    process = multiprocessing.get_context("fork").Process(target=_write_shared, args=(index,))
    process.start()
    process.join()
    return [first, process.exitcode, conv(features(), index)]


@case("writes/a memory-mapped file")
def _(make):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        size = 2 * EDGES
        index = torch.from_file(file.name, shared=True, size=size, dtype=torch.long).view(2, -1)
        index.copy_(edges())
        conv = make()
        first = conv(features(), index)
        torch.from_file(file.name, shared=True, size=size, dtype=torch.long).copy_(_new().view(-1))
        return [first, conv(features(), index)]


@case("writes/torch.distributed.broadcast", limit=240)
def _(make):
    import tempfile

    import torch.distributed as dist

    # In a group of one, broadcast writes nothing, so a gather into a part is used as well.
    with tempfile.NamedTemporaryFile() as file:
        store = dist.FileStore(file.name, 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            conv, index = make(), edges()
            first = conv(features(), index)
            dist.all_gather_into_tensor(index, _new())
            second = conv(features(), index)
            dist.broadcast(index, 0)
            return [first, second, conv(features(), index)]
        finally:
            dist.destroy_process_group()
