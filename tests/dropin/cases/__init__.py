"""The cases, a room for each kind; importing this registers all."""

from .arguments import bad_graphs, bad_operators, indices, layouts  # noqa: F401
from .compilers import compiling, exporting, tracing  # noqa: F401
from .gradients import autograd, derivatives, inference, inplace  # noqa: F401
from .modules import hooks, state, tools  # noqa: F401
from .running import processes, training  # noqa: F401
