"""What the attention of a trained network looks at: PyG's explainers, measures, a picture."""

import argparse

import torch
import torch.nn.functional as F
from torch_geometric.datasets import Planetoid
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import GAT
from torch_geometric.transforms import NormalizeFeatures

from gatv2_pyg import use_gatv2
from gatv2_pyg.diagnostics import collect_attention, mean_attention_entropy, rank_agreement


def trained(data, classes: int, epochs: int):
    model = GAT(data.num_features, 32, 2, classes, dropout=0.5, heads=4, v2=True)
    model = use_gatv2(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(epochs):
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        F.cross_entropy(out, data.y[data.train_mask]).backward()
        optimizer.step()
    return model.eval()


def explanations(model, data, node: int) -> dict[str, torch.Tensor]:
    """The importance of each edge for the class of a node, by two explainers of PyG."""
    config = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}
    found = {}
    for algorithm in (AttentionExplainer(), GNNExplainer(epochs=50)):
        explainer = Explainer(
            model,
            algorithm,
            explanation_type="model",
            edge_mask_type="object",
            model_config=config,
        )
        explanation = explainer(data.x, data.edge_index, index=node)
        found[type(algorithm).__name__] = explanation.edge_mask.detach()
    return found


def draw(layer, node: int, out: str) -> None:
    """The attention that a node pays to its neighbours, a bar for each, a panel for each head."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    (source, target), alpha = layer.edge_index, layer.alpha
    rows = target == node
    names = [f"{int(j)}" + (" (itself)" if j == node else "") for j in source[rows]]
    heads = alpha.size(1)
    figure, axes = plt.subplots(1, heads, figsize=(3 * heads, 3), sharey=True, squeeze=False)
    for head, axis in enumerate(axes[0]):
        axis.barh(names, alpha[rows, head].tolist())
        axis.set(title=f"head {head}", xlabel="attention", xlim=(0, 1))
    axes[0, 0].set_ylabel(f"neighbour of node {node}")
    figure.tight_layout()
    figure.savefig(out, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with Cora/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--node", type=int, default=1986)
    parser.add_argument("--out", default="attention.png", help="file of the picture")
    args = parser.parse_args()

    torch.manual_seed(0)
    dataset = Planetoid(args.root, "Cora", transform=NormalizeFeatures())
    data = dataset[0]
    model = trained(data, dataset.num_classes, args.epochs)

    source, target = data.edge_index
    into = target == args.node
    for name, importance in explanations(model, data, args.node).items():
        order = importance[into].argsort(descending=True)[:3]
        print(f"{name}: node {args.node} needs nodes {source[into][order].tolist()} most")

    with collect_attention(model) as layers, torch.no_grad():
        model(data.x, data.edge_index)
    for layer in layers:
        entropy = mean_attention_entropy(layer.edge_index, layer.alpha, normalize=True).mean()
        agreement = rank_agreement(layer.edge_index, layer.alpha).mean().mean()
        print(
            f"{layer.name}: entropy {entropy:.3f} of 1 (1: uniform), "
            f"agreement of rankings {agreement:.3f} (1: static attention)"
        )
    draw(layers[0], args.node, args.out)
    print(f"the attention of node {args.node}: {args.out}")


if __name__ == "__main__":
    main()
