"""The cases, a module for each kind; importing this registers all."""

from . import (  # noqa: F401
    autograd,
    compiling,
    derivatives,
    exporting,
    inference,
    inplace,
    state,
    tracing,
)
