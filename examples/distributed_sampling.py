"""Data parallel with sampled neighbourhoods on Tolokers:

    torchrun --nproc_per_node 2 examples/distributed_sampling.py

Each process trains on its share of the nodes, and DistributedDataParallel averages gradients.
Without torch_sparse and pyg-lib each process takes random parts of the graph instead.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from neighbour_sampling import CAN_SAMPLE, Net, area_under_curve, batches
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.datasets import HeterophilousGraphDataset


def load(root: str, rank: int):
    """The first process reads the raw files, the others what it made of them."""
    if rank > 0:
        dist.barrier()
    data = HeterophilousGraphDataset(root, "Tolokers")[0]
    if rank == 0:
        dist.barrier()
    return data


def main():
    parser = argparse.ArgumentParser(description="Data parallel with sampled neighbourhoods.")
    parser.add_argument(
        "--root", default="data", help="folder with tolokers/raw, or for a download"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=512, help="nodes a process")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("expected to be started by torchrun --nproc_per_node 2")

    dist.init_process_group("gloo")  # "nccl" with a GPU for each process
    rank, world = dist.get_rank(), dist.get_world_size()
    if rank == 0 and not CAN_SAMPLE:
        print("torch_sparse and pyg-lib are missing: random parts instead of sampled neighbours")
    data = load(args.root, rank)
    train = data.train_mask[:, 0]
    if CAN_SAMPLE:
        nodes = train.nonzero().flatten()
        share = nodes[: len(nodes) // world * world][rank::world]  # as many for each process
        data.train = torch.zeros_like(train).scatter_(0, share, True)
    else:
        data.train = train  # the parts are drawn by each process for itself

    torch.manual_seed(0)
    model = DistributedDataParallel(Net(data.num_features))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    torch.manual_seed(rank)  # what is sampled differs; the weights began equal
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = torch.zeros(2)
        for arguments, rows, label in batches(data, data.train, args.batch_size):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(*arguments)[rows], label.float())
            loss.backward()
            optimizer.step()
            total += torch.tensor([loss.item() * label.numel(), label.numel()])
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch:2d}  loss {float(total[0] / total[1]):.4f}")

    if rank == 0:
        test = data.test_mask[:, 0]
        model.eval()
        with torch.no_grad():
            score = model.module(data.x, data.edge_index)
        auc = area_under_curve(score[test], data.y[test])
        print(f"test area under the ROC curve {auc:.3f}, {world} processes")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
