"""Linear maps of node features, sparse ones included."""

from gatv2_pyg.maps.sparse import linear_maps

__all__ = ["linear_maps"]
