"""What attention does: entropy, static or dynamic ranking, strongest edges, on any model."""

from gatv2_pyg.diagnostics.collecting import AttentionWeights, collect_attention
from gatv2_pyg.diagnostics.measures import (
    RankAgreement,
    attention_entropy,
    attention_matrix,
    mean_attention_entropy,
    rank_agreement,
    top_k_edges,
)

__all__ = [
    "AttentionWeights",
    "RankAgreement",
    "attention_entropy",
    "attention_matrix",
    "collect_attention",
    "mean_attention_entropy",
    "rank_agreement",
    "top_k_edges",
]
