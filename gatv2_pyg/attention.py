"""Another name of :mod:`gatv2_pyg.diagnostics`."""

from gatv2_pyg.diagnostics import *  # noqa: F403
from gatv2_pyg.diagnostics import __all__ as __all__
