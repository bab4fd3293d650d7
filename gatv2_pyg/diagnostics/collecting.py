"""The attention weights of a model's layers, gathered while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import is_sparse, to_edge_index


class AttentionWeights(NamedTuple):
    """The attention of one call of one layer.

    Attributes:
        name: the layer's name in the model (`""` if the model is the layer).
        edge_index: [2, E] edges the layer attended over, self-loops it added included; row 0 the
            keys, row 1 the queries, whatever the layer's `flow`.
        alpha: [E, H] attention weights, in the same order.
    """

    name: str
    edge_index: Tensor
    alpha: Tensor


@contextmanager
def collect_attention(
    model: torch.nn.Module, *, detach: bool = True
) -> Iterator[list[AttentionWeights]]:
    """Collect the attention weights of all attention layers while a model runs.

    Inside the `with` block every `MessagePassing` layer in the model whose `forward` takes
    `return_attention_weights` (`GATConv`, both `GATv2Conv`, `TransformerConv`, ...) is asked for
    its weights, and the answer is taken out of its output again: the model computes what it
    computes without it. On leaving, the model is as it was before.

        with collect_attention(model.eval()) as layers:
            out = model(x, edge_index)
        for layer in layers:
            print(layer.name, mean_attention_entropy(layer.edge_index, layer.alpha))

    In training mode the weights are those after dropout. A call that passes
    `return_attention_weights` itself keeps its own result and is collected if that has weights.

    Args:
        model: the model, or a single layer.
        detach: collect weights cut off from autograd; `False` keeps their graph (and its memory).

    Yields:
        A list that gets an `AttentionWeights` for each call of a layer, in order of the calls.

    Raises:
        ValueError: if the model has no attention layer.
    """
    layers = {
        name: module for name, module in model.named_modules() if _takes_attention_request(module)
    }
    if not layers:
        raise ValueError(
            "'model' has no attention layer: no MessagePassing module in "
            f"{type(model).__name__} takes 'return_attention_weights'"
        )
    collected: list[AttentionWeights] = []
    handles: list[RemovableHandle] = []
    try:
        for name, module in layers.items():
            handles.extend(_observe(name, module, collected, detach))
        yield collected
    finally:
        for handle in handles:
            handle.remove()


_REQUEST = "return_attention_weights"


def _takes_attention_request(module: torch.nn.Module) -> bool:
    return isinstance(module, MessagePassing) and _REQUEST in (
        inspect.signature(module.forward).parameters
    )


def _observe(
    name: str, module: torch.nn.Module, collected: list[AttentionWeights], detach: bool
) -> tuple[RemovableHandle, RemovableHandle]:
    position = list(inspect.signature(module.forward).parameters).index(_REQUEST)
    asked: list[bool] = []

    def ask(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = args[position] if len(args) > position else kwargs.get(_REQUEST)
        asked.append(given is None)
        if given is None and len(args) > position:
            args = (*args[:position], True, *args[position + 1 :])
        elif given is None:
            kwargs = {**kwargs, _REQUEST: True}
        return args, kwargs

    def take(_: Any, args: Any, output: Any) -> Any:
        ours = asked.pop()
        if not isinstance(output, tuple):
            return None
        collected.append(_weights(name, module, output[1], detach))
        return output[0] if ours else None

    # The request is added after, and taken out before, all hooks of the user.
    return (
        module.register_forward_pre_hook(ask, with_kwargs=True),
        module.register_forward_hook(take, prepend=True),
    )


def _weights(name: str, module: Any, answer: Any, detach: bool) -> AttentionWeights:
    edges, alpha = answer if isinstance(answer, tuple) else (answer, None)
    if is_sparse(edges):
        transposed, alpha = to_edge_index(edges)  # of the transposed adjacency: (query, key)
        edge_index = transposed.flip(0)
    elif module.flow == "target_to_source":
        edge_index = edges.flip(0)
    else:
        edge_index = edges
    if alpha.dim() == 1:
        alpha = alpha.unsqueeze(1)
    if detach:
        alpha = alpha.detach()
    return AttentionWeights(name, edge_index.as_subclass(Tensor), alpha)
