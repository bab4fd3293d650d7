"""Wrappers of several processes: FSDP, tensor parallelism, shards, checkpointing, forks."""

import functools
import io
import multiprocessing
import threading

import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import gatv2_pyg

from ...harness import NODES, SIZE, agree, case, edges, features, gradients, ours, step, weighted
from .processes import _graph, _group, _listed


class _Net(torch.nn.Module):
    def __init__(self, make, **options):
        super().__init__()
        self.first = make(**options)
        self.second = make(bias=False)

    def forward(self, x, index):
        return self.second(self.first(x, index).relu(), index)


@case("processes/FSDP2 with mixed precision and resharding", limit=240, fused=False)
def _(make):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    net = _Net(make).float()

    def work(rank):
        mesh = init_device_mesh("cpu", (2,))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for part in (net.first, net.second, net):
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        x, index = _graph(rank)
        out = net(x.float(), index)
        weighted(out.float()).backward()
        found = {n: p.grad.full_tensor() for n, p in net.named_parameters()}
        return [
            str(out.dtype),
            {n: v.to(torch.bfloat16).float().tolist() for n, v in found.items()} and len(found),
        ]

    return _group(work)


@case("processes/DDP with mixed precision hooks, no_sync, a join of uneven inputs", limit=240)
def _(make):
    net = _Net(make)

    def work(rank):
        model = DistributedDataParallel(net, broadcast_buffers=False)
        with model.join():
            for turn in range(2 + rank):
                x, index = features(seed=turn), edges(seed=turn)
                if turn == 0:
                    with model.no_sync():
                        weighted(model(x, index)).backward()
                else:
                    weighted(model(x, index)).backward()
        return _listed(gradients(net))

    found = _group(work)
    x = features()
    return [found, net(x, edges())]


@case("processes/tensor parallel styles on lin_l, lin_r, lin_edge", limit=240, fused=False)
def _(make):
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    def work(rank):
        found = {}
        mesh = init_device_mesh("cpu", (2,))
        plans = {
            "columns": ColwiseParallel(output_layouts=Replicate()),
            "rows": RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate()),
        }
        for name, style in plans.items():
            layer = make()
            for map_name in ("lin_l", "lin_r"):
                old = getattr(layer, map_name)
                linear = torch.nn.Linear(SIZE, 8, dtype=torch.float64)
                linear.load_state_dict(old.state_dict())
                setattr(layer, map_name, linear)
            parallelize_module(layer, mesh, {"lin_l": style, "lin_r": style})
            out = layer(features(), edges())
            weighted(out).backward()
            grads = {
                n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
                for n, p in layer.named_parameters()
            }
            found |= {f"{name} {n}": v for n, v in grads.items()} | {name: out}
        return _listed(found)

    return _group(work)


@ours("processes/heads over two processes by local_map", limit=240)
def _(make):
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.experimental import local_map

    x_src, x_dst = features(NODES, 16).view(NODES, 2, 8), features(NODES, 16, seed=1)
    x_dst, att = x_dst.view(NODES, 2, 8), features(2, 8, seed=2)
    graph = gatv2_pyg.Graph.from_edge_index(edges(), NODES, add_self_loops=True)

    def run(*tensors):
        return gatv2_pyg.gatv2_attention(*tensors, graph, backend=make.backend)

    def work(rank):
        mesh = init_device_mesh("cpu", (2,))
        placed = [
            distribute_tensor(t.clone(), mesh, [p]).requires_grad_()
            for t, p in ((x_src, Shard(1)), (x_dst, Shard(1)), (att, Shard(0)))
        ]
        shards = local_map(
            run,
            out_placements=[Shard(1)],
            in_placements=([Shard(1)], [Shard(1)], [Shard(0)]),
            device_mesh=mesh,
        )
        out = shards(*placed)
        out.square().sum().backward()
        whole = {"out": out.full_tensor()}
        return _listed(whole | {str(at): t.grad.full_tensor() for at, t in enumerate(placed)})

    alone = [t.clone().requires_grad_() for t in (x_src, x_dst, att)]
    out = run(*alone)
    out.square().sum().backward()
    expected = _listed({"out": out} | {str(at): t.grad for at, t in enumerate(alone)})
    for found in _group(work):
        same = agree(expected, found)
        assert same is True, same
    assert Partial is not Replicate


@case("checkpoint/torch.distributed's wrapper, offloaded too")
def _(make):
    found = []
    for wrap in (
        functools.partial(
            checkpoint_wrapper.checkpoint_wrapper,
            checkpoint_impl=checkpoint_wrapper.CheckpointImpl.REENTRANT,
        ),
        checkpoint_wrapper.checkpoint_wrapper,
        checkpoint_wrapper.offload_wrapper,
    ):
        conv = wrap(make(edge_dim=3))
        x = features().requires_grad_()
        out = conv(x, edges(), features(40, 3))
        found.append(step(conv, out, x=x))
    return found


def _spawned(conv, index, answers):
    torch.set_num_threads(1)
    x = features()
    out = conv(x, index)
    weighted(out).backward()
    answers.put([out.tolist(), conv.att.grad.tolist()])


for _method in ("spawn", "forkserver"):

    @case(f"processes/layer and edge_index shared with a {_method} process", limit=240)
    def _(make, method=_method):
        conv, index = make().share_memory(), edges(count=3000).share_memory_()
        conv(features(), index)
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        child = context.Process(target=_spawned, args=(conv, index, answers))
        child.start()
        found = answers.get(timeout=200)
        child.join()
        return [found, conv(features(), index)]


@case("processes/forked again and again while threads use the layer", limit=240)
def _(make):
    import os
    import time

    conv, stop, errors = make(), threading.Event(), []

    def work(at):
        try:
            turn = 0
            while not stop.is_set():
                turn += 1
                x = features(seed=at).requires_grad_()
                weighted(conv(x, edges(seed=100 * at + turn % 7, count=300))).backward()
        except Exception as error:
            errors.append(repr(error))

    torch.set_num_threads(1)
    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    exits = []
    try:
        for _ in range(25):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with torch.no_grad():
                        for turn in range(3):
                            conv(features(), edges(seed=turn, count=300))
                    code = 0
                finally:
                    os._exit(code)
            deadline = time.monotonic() + 60
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    exits.append(status)
                    break
                if time.monotonic() > deadline:
                    os.kill(pid, 9)
                    os.waitpid(pid, 0)
                    exits.append("hung")
                    break
                time.sleep(0.002)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return [sorted(map(str, set(exits))), errors]


@case("state/saved by torch.distributed.checkpoint", limit=240, fused=False)
def _(make):
    import tempfile

    import torch.distributed.checkpoint as dcp

    conv, other = make(), make()
    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"model": conv.state_dict()}, checkpoint_id=folder, no_dist=True)
        state = {"model": other.state_dict()}
        dcp.load(state, checkpoint_id=folder, no_dist=True)
        other.load_state_dict(state["model"])
    store = io.BytesIO()
    torch.save(other, store)
    assert dist.is_available()
    return [other(features(), edges()), agree(conv.state_dict(), other.state_dict())]
