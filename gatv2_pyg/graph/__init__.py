"""Edges: what users pass, how it is grouped for the kernels, and the cache of what was grouped."""

from gatv2_pyg.graph.structure import PIECE, EdgeIndexError, Graph, Rows

__all__ = ["PIECE", "EdgeIndexError", "Graph", "Rows"]
