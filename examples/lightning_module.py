"""Training with Lightning: validate, fit, test, bf16-mixed precision, and a checkpoint.

Without pytorch_lightning this example says so and ends.
"""

import argparse
import importlib.util
import sys

import torch
import torch.nn.functional as F
from torch_geometric.datasets import Planetoid
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import NormalizeFeatures

from gatv2_pyg import GATv2Conv

if importlib.util.find_spec("pytorch_lightning") is None:
    print("skipped: pytorch_lightning is missing (pip install pytorch_lightning)")
    sys.exit()

import pytorch_lightning as pl


class Classifier(pl.LightningModule):
    def __init__(self, in_channels: int, out_channels: int, hidden: int = 8, heads: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.conv1 = GATv2Conv(in_channels, hidden, heads, dropout=0.6)
        self.conv2 = GATv2Conv(hidden * heads, out_channels, dropout=0.6)

    def forward(self, data):
        x = F.dropout(data.x, 0.6, self.training)
        x = F.elu(self.conv1(x, data.edge_index))
        x = F.dropout(x, 0.6, self.training)
        return self.conv2(x, data.edge_index)

    def training_step(self, data, index):
        out, mask = self(data), data.train_mask
        loss = F.cross_entropy(out[mask], data.y[mask])
        self.log("loss", loss, batch_size=1)
        return loss

    def validation_step(self, data, index):
        self.log("val_acc", self.accuracy(data, data.val_mask), batch_size=1)

    def test_step(self, data, index):
        self.log("test_acc", self.accuracy(data, data.test_mask), batch_size=1)

    def accuracy(self, data, mask):
        return (self(data)[mask].argmax(dim=-1) == data.y[mask]).float().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.005, weight_decay=5e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with Cora/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--out", default="lightning_runs", help="folder of the checkpoints")
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    dataset = Planetoid(args.root, "Cora", transform=NormalizeFeatures())
    loader = DataLoader(dataset, batch_size=1)  # one graph, one batch
    model = Classifier(dataset.num_features, dataset.num_classes)
    best = pl.callbacks.ModelCheckpoint(monitor="val_acc", mode="max", dirpath=args.out)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        precision=args.precision,
        accelerator="auto",
        devices=1,
        callbacks=[best],
        default_root_dir=args.out,
        log_every_n_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (before,) = trainer.validate(model, loader, verbose=False)
    trainer.fit(model, loader, loader)
    (after,) = trainer.test(model, loader, ckpt_path="best", verbose=False)
    print(f"validation accuracy before training {before['val_acc']:.3f}")
    print(f"test accuracy of the best epoch {after['test_acc']:.3f}, in {args.precision}")

    loaded = Classifier.load_from_checkpoint(best.best_model_path)
    (again,) = trainer.test(loaded, loader, verbose=False)
    print(f"test accuracy of its checkpoint {again['test_acc']:.3f}: {best.best_model_path}")


if __name__ == "__main__":
    main()
