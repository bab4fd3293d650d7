"""The cases, a module for each kind; importing this registers all."""

from . import (  # noqa: F401
    autograd,
    bad_graphs,
    bad_operators,
    compiling,
    derivatives,
    exporting,
    hooks,
    indices,
    inference,
    inplace,
    layouts,
    processes,
    state,
    tools,
    tracing,
    training,
)
