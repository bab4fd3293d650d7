"""The cases, a room for each kind; importing this registers all."""

from .arguments import bad_graphs, bad_operators, indices, layouts, odd_tensors  # noqa: F401
from .compilers import compile_modes, compiling, exporting, tracing  # noqa: F401
from .gradients import autograd, derivatives, inference, inplace  # noqa: F401
from .modules import explaining, hooks, state, tools  # noqa: F401
from .running import processes, training, wrappers  # noqa: F401
