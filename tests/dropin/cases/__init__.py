"""The cases, a module for each kind; importing this registers all."""

from . import (  # noqa: F401
    autograd,
    bad_graphs,
    bad_operators,
    compile_modes,
    compiling,
    derivatives,
    explaining,
    exporting,
    hooks,
    indices,
    inference,
    inplace,
    layouts,
    odd_tensors,
    processes,
    state,
    tools,
    tracing,
    training,
    wrappers,
)
