"""Several processes and threads: DDP, FSDP2, workers, collectives."""

import contextlib
import functools
import multiprocessing
import os
import queue
import tempfile
import threading
import traceback

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import gatv2_pyg

from ...harness import NODES, agree, case, edges, features, gradients, ours, step, weighted

_FORK = multiprocessing.get_context("fork")


def _member(rank, size, file, work, answers):
    try:
        torch.set_num_threads(1)
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        dist.init_process_group(
            "gloo", store=dist.FileStore(file, size), rank=rank, world_size=size
        )
        answers.put((rank, work(rank)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        answers.put((rank, RuntimeError(traceback.format_exc())))


def _group(work, size=2):
    """What ``work(rank)`` returns in each of ``size`` processes that share a gloo group."""
    with tempfile.TemporaryDirectory() as folder:
        answers, file = _FORK.Queue(), f"{folder}/store"
        members = [
            _FORK.Process(target=_member, args=(rank, size, file, work, answers))
            for rank in range(size)
        ]
        for member in members:
            member.start()
        found = {}
        while len(found) < size:
            try:
                rank, value = answers.get(timeout=1)
            except queue.Empty:
                dead = [m.exitcode for m in members if m.exitcode not in (None, 0)]
                if dead:
                    raise RuntimeError(f"a process ended with {dead[0]}") from None
                continue
            if isinstance(value, Exception):
                raise value
            found[rank] = value
        for member in members:
            member.join()
    return [found[rank] for rank in range(size)]


def _listed(values):
    """Plain lists: tensors in a queue would be shared files of a process that has ended."""
    return {name: None if v is None else v.detach().tolist() for name, v in values.items()}


def _graph(rank):
    return features(seed=rank), edges(seed=rank)


@case("processes/DDP: gradients of two processes", limit=240, fused=False)
def _(make):
    conv = make()

    def work(rank):
        model = DistributedDataParallel(conv)
        x, index = _graph(rank)
        for _ in range(2):
            model.zero_grad()
            weighted(model(x, index)).backward()
        return _listed(gradients(conv))

    return _group(work)


@case("processes/DDP agrees with one process, edge features, static graph", limit=240, fused=False)
def _(make):
    conv = make(edge_dim=3, residual=True)
    attr = features(40, 3)

    def work(rank):
        model = DistributedDataParallel(conv, static_graph=True, gradient_as_bucket_view=True)
        x, index = _graph(rank)
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            weighted(model(x, index, attr)).backward()
        return _listed(gradients(conv))

    both = _group(work)
    for rank in range(2):
        x, index = _graph(rank)
        (weighted(conv(x, index, attr)) / 2).backward()
    return [agree(both[0], _listed(gradients(conv))), agree(both[0], both[1])]


class _Checkpointed(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, *args):
        return torch.utils.checkpoint.checkpoint(self.conv, *args, use_reentrant=False)


@case("processes/DDP with checkpointing and unused parameters", limit=240, fused=False)
def _(make):
    conv = make()
    conv.unused = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def work(rank):
        model = DistributedDataParallel(_Checkpointed(conv), find_unused_parameters=True)
        weighted(model(*_graph(rank))).backward()
        return _listed(gradients(conv))

    return _group(work)


@case("processes/FSDP2", limit=240, fused=False)
def _(make):
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.ModuleDict({"first": make(), "second": make()})

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x, index):
            return self.parts["second"](self.parts["first"](x, index).relu(), index)

    def work(rank):
        net = Net()
        mesh = init_device_mesh("cpu", (2,))
        for part in net.parts.values():
            fully_shard(part, mesh=mesh)
        fully_shard(net, mesh=mesh)
        x, index = _graph(rank)
        out = net(x, index)
        weighted(out).backward()
        full = {name: value.grad.full_tensor() for name, value in net.named_parameters()}
        return _listed(full | {"out": out})

    both = _group(work)
    net = Net()
    for rank in range(2):
        (weighted(net(*_graph(rank))) / 2).backward()
    alone = _listed(gradients(net))
    return [{k: v for k, v in part.items() if k != "out"} for part in both] + [
        agree(alone, {k: v for k, v in both[0].items() if k != "out"})
    ]


@case("processes/broadcast into edge_index", limit=240, fused=False)
def _(make):
    conv = make()

    def work(rank):
        x, index = features(), edges(seed=rank)
        first = conv(x, index)
        dist.broadcast(index, 0)
        second = conv(x, index)
        dist.all_reduce(index, op=dist.ReduceOp.MAX)
        dist.scatter(index, [edges(seed=3), edges(seed=4)] if rank == 0 else None, 0)
        return _listed({"first": first, "second": second, "third": conv(x, index)})

    return _group(work)


def _in_worker(conv, index, seed):
    x = features(seed=seed)
    return conv(x, index).tolist()


@case("processes/forked workers after use, and before", limit=240)
def _(make):
    conv, index = make(), edges(count=4000)
    first = step(conv, conv(features(), index))
    with _FORK.Pool(2, torch.set_num_threads, (1,)) as pool, torch.no_grad():
        found = pool.map(functools.partial(_in_worker, conv, index), range(3))
    return [first, found, conv(features(), index)]


class _Samples(torch.utils.data.Dataset):
    def __init__(self, conv, index):
        self.conv, self.index = conv, index

    def __len__(self):
        return 4

    def __getitem__(self, at):
        with torch.no_grad():
            return self.conv(features(seed=at), self.index)


@case("processes/DataLoader workers run the layer, then training", limit=240)
def _(make):
    conv, index = make(), edges(count=4000)
    weighted(conv(features(), index)).backward()
    loader = torch.utils.data.DataLoader(_Samples(conv, index), batch_size=2, num_workers=2)
    found = [batch.clone() for batch in loader]
    conv.zero_grad()
    return [found, step(conv, conv(features(), index))]


def _in_thread(work, count=4):
    found, errors = [None] * count, []

    def call(at):
        try:
            found[at] = work(at)
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=call, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(errors[0])
    return found


@case("threads/one layer and its graph in four threads")
def _(make):
    conv, index = make(), edges(count=2000)

    def work(at):
        found = None
        for _ in range(10):
            x = features(seed=at).requires_grad_()
            out = conv(x, index)
            (grad,) = torch.autograd.grad(weighted(out), x)
            found = [out, grad]
        return found

    return _in_thread(work)


@case("threads/layers trained in threads of their own")
def _(make):
    layers = [make(dropout=0.0, edge_dim=3) for _ in range(4)]

    def work(at):
        conv, index = layers[at], edges(seed=at, count=500)
        for _ in range(5):
            conv.zero_grad()
            weighted(conv(features(), index, features(500, 3))).backward()
        return gradients(conv)

    return _in_thread(work)


@case("threads/inference in one, training in another")
def _(make):
    conv, index = make(), edges()

    def work(at):
        mode = torch.inference_mode() if at % 2 else contextlib.nullcontext()
        with mode:
            for _ in range(10):
                out = conv(features(), index)
                if at % 2 == 0:
                    torch.autograd.grad(weighted(out), list(conv.parameters()))
        return out.tolist()

    return _in_thread(work)


@case("threads/a new edge_index in every call of every thread")
def _(make):
    conv = make()

    def work(at):
        return [conv(features(), edges(seed=10 * at + i)) for i in range(10)]

    return _in_thread(work)


@ours("threads/use_backend in threads that overlap", paths=("auto",), fused=False)
def _(make):
    conv, steps = make(), [threading.Event() for _ in range(3)]

    def first():
        with gatv2_pyg.use_backend("reference"):
            steps[0].set()
            steps[1].wait(10)
        steps[2].set()

    def second():
        steps[0].wait(10)
        with gatv2_pyg.use_backend("fused"):
            steps[1].set()
            steps[2].wait(10)

    _in_thread(lambda at: (first, second)[at](), count=2)
    assert conv.backend_for(features(), edges()).name == "fused"
    with gatv2_pyg.use_backend("reference"):
        with gatv2_pyg.use_backend("fused"):
            pass
        assert conv.backend_for(features(), edges()).name == "reference"
    assert conv.backend_for(features(), edges()).name == "fused"


@ours("threads/use_backend holds in the threads that backward and checkpoint use")
def _(make):
    conv, x = make(), features().requires_grad_()
    with gatv2_pyg.use_backend("reference" if make.variant == "reference" else "fused"):
        out = torch.utils.checkpoint.checkpoint(conv, x, edges(), use_reentrant=False)
        weighted(out).backward()
    assert x.grad.shape == (NODES, 8)


@ours("processes/a DTensor argument is one clear error", limit=240, fused=False)
def _(make):
    from torch.distributed.tensor import DTensor, Replicate

    conv = make()

    def work(rank):
        mesh = init_device_mesh("cpu", (2,))

        def replicated(value):
            return DTensor.from_local(value, mesh, [Replicate()])

        found = []
        for x, index in (
            (replicated(features()), edges()),
            (features(), replicated(edges())),
            (replicated(features()), replicated(edges())),
        ):
            try:
                conv(x, index)
                found.append("no error")
            except (TypeError, ValueError) as error:
                found.append(str(error).splitlines()[0])
        return found

    for found in _group(work):
        for text, name in zip(found, ("x", "edge_index", "x"), strict=True):
            assert text.startswith(f"Expected '{name}' to"), found
            assert "DTensor" in text, found
