"""GATv2 attention for PyTorch Geometric without ever building an ``[E, H, C]`` tensor."""

from gatv2_pyg.backends import Backend, use_backend
from gatv2_pyg.conv import GATv2Conv
from gatv2_pyg.convert import to_pyg, use_gatv2
from gatv2_pyg.dense.conv import DenseGATv2Conv
from gatv2_pyg.functional import gatv2_attention
from gatv2_pyg.graph.cache import set_graph_cache
from gatv2_pyg.graph.structure import EdgeIndexError, Graph
from gatv2_pyg.zero_edit.patching import patch

__all__ = [
    "Backend",
    "DenseGATv2Conv",
    "EdgeIndexError",
    "GATv2Conv",
    "Graph",
    "gatv2_attention",
    "patch",
    "set_graph_cache",
    "to_pyg",
    "use_backend",
    "use_gatv2",
]

__version__ = "0.2.0"
