"""This package's layer in the place of PyG's, wherever a module holds it by name."""

from __future__ import annotations

import sys
import threading

from gatv2_pyg.conv import PYG_LAYER, GATv2Conv

_lock = threading.RLock()
_active: set[Patch] = set()
_replaced: dict[tuple[str, str], dict] = {}
"""Names that were PyG's layer, as (module, name), and the namespace each is in."""


class Patch:
    """A patch in force; a context manager that undoes it at its end.  Made by :func:`patch`."""

    def __init__(self) -> None:
        with _lock:
            _active.add(self)
            _replaced.update(_replace_names())

    def undo(self) -> None:
        """Gives PyG's layer its places back, once no other patch is in force.

        A second call does nothing.
        """
        with _lock:
            if self not in _active:
                return
            _active.remove(self)
            if not _active:
                _restore_names()

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()


def patch() -> Patch:
    """Puts :class:`gatv2_pyg.GATv2Conv` in the place of :class:`torch_geometric.nn.GATv2Conv`.

    Every name in a loaded module that is PyG's class becomes this package's: in PyG, so that its
    models (``GAT(v2=True)``) build this layer and later imports find it, and in modules that have
    imported it already.  The layers made from then on are this package's; ``isinstance`` and
    ``super()`` hold, since the class derives from PyG's.  It holds for all threads.

    Not reached: layers and subclasses that exist already (see :func:`gatv2_pyg.use_gatv2` for the
    layers), and references that are no module's global name (in a dictionary, a default argument).
    While it is in force PyG's own class has no name, so that its layers can't be pickled and
    ``isinstance`` doesn't know those that exist; nor does a subclass that exists find its base
    where it names it (``GATv2Conv.__init__(self)``) instead of calling ``super()``.

    Returns:
        A :class:`Patch`: ``patch().undo()``, or ``with patch(): ...``.  Patches may be nested and
        undone in any order; with the last of them every name that was replaced, and is still this
        package's class, is PyG's again.  A module of the user's that was imported in between keeps
        what it imported.
    """
    return Patch()


def _namespaces() -> dict[str, dict]:
    """The namespaces of the loaded modules, but for this package's."""
    found = {}
    for name, module in list(sys.modules.items()):
        namespace = getattr(module, "__dict__", None)
        if isinstance(namespace, dict) and name.partition(".")[0] != "gatv2_pyg":
            found[name] = namespace
    return found


def _names_of(cls: type, namespace: dict) -> list[str]:
    return [name for name, value in list(namespace.items()) if value is cls]


def _replace_names() -> dict[tuple[str, str], dict]:
    replaced = {}
    for module, namespace in _namespaces().items():
        for name in _names_of(PYG_LAYER, namespace):
            namespace[name] = GATv2Conv
            replaced[module, name] = namespace
    return replaced


def _restore_names() -> None:
    for module, namespace in _namespaces().items():
        if module.partition(".")[0] == "torch_geometric":
            # Modules of PyG that were loaded in between have no other source of this class.
            _replaced.update(
                {(module, name): namespace for name in _names_of(GATv2Conv, namespace)}
            )
    for (_, name), namespace in _replaced.items():
        if namespace.get(name) is GATv2Conv:
            namespace[name] = PYG_LAYER
    _replaced.clear()
