"""Dense batches: nodes ``[B, N, F]`` and adjacency matrices ``[B, N, N]``."""

from gatv2_pyg.dense.conv import DenseGATv2Conv

__all__ = ["DenseGATv2Conv"]
