"""GATv2 attention for PyTorch Geometric without ever building an ``[E, H, C]`` tensor."""
