"""Edges: what users pass, how it is grouped for the kernels, and the cache of what was grouped."""

from gatv2_pyg.graph.structure import EdgeIndexError, Graph

__all__ = ["EdgeIndexError", "Graph"]
