"""``python -m gatv2_pyg script.py``: an unmodified script, with this layer in PyG's place."""

from __future__ import annotations

import argparse
import atexit
import builtins
import io
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

from gatv2_pyg.passing import observe_calls
from gatv2_pyg.zero_edit.calls import CallLog
from gatv2_pyg.zero_edit.patching import patch


def main(arguments: list[str] | None = None) -> int:
    """Runs the script or module that the command line names, as Python itself would.

    What the script raises, ``SystemExit`` included, passes through; the traceback that is shown
    begins in the script.  At the end of the process follows a line a layer, on standard error.

    Args:
        arguments: the command line after the program's name; ``sys.argv[1:]`` if None.

    Returns:
        0; 1 if there is no such module, 2 if there is no such script, as Python does.
    """
    given = sys.argv[1:] if arguments is None else arguments
    chosen, rest = _parse(given)
    start: Callable[[], object]
    if chosen.module is not None:
        sys.argv = [chosen.module, *rest]
        start = partial(runpy.run_module, chosen.module, run_name="__main__", alter_sys=True)
    else:
        path = chosen.script
        if not os.path.exists(path):
            _write_line(f"python -m gatv2_pyg: can't open file {path!r}: no such file")
            return 2
        sys.argv = [path, *rest]
        if pkgutil.get_importer(path) is None:
            _put_first_on_path(os.path.dirname(os.path.realpath(path)))
            start = partial(_run_file, path)
        else:
            _put_first_on_path(None)  # a folder or an archive with a __main__: runpy puts it there
            start = partial(runpy.run_path, os.path.abspath(path), run_name="__main__")
    log = CallLog()
    process = os.getpid()
    # After what the script prints at its own end, a traceback included.
    report = atexit.register(lambda: _report(log) if os.getpid() == process else None)
    observe_calls(log)
    patch()
    try:
        start()
    except BaseException as error:
        if not isinstance(error, ImportError) or not _raised_by_runpy(error):
            _show_from_the_script(error)
            raise
        atexit.unregister(report)
        _write_line(f"python -m gatv2_pyg: {error}")
        return 1
    return 0


def _parse(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m gatv2_pyg",
        usage="python -m gatv2_pyg [-h] (script.py | -m module) [arguments ...]",
        description="Runs an unmodified script with gatv2_pyg's layer in the place of "
        "torch_geometric.nn.GATv2Conv, and ends with one line a layer on standard error: how often "
        "it was called, on which backend, and why not on a faster one.",
        epilog="python -m gatv2_pyg.env prints versions, and the backend each device gets and why.",
        allow_abbrev=False,
    )
    parser.add_argument("-m", dest="module", metavar="module", help="run a module, as python -m")
    parser.add_argument("script", nargs="?", help="run a file, as python script.py")
    # All that follows the script or the module belongs to it.
    own = 2 if given[:1] == ["-m"] else 1
    chosen = parser.parse_args(given[:own])
    if chosen.module is None and chosen.script is None:
        parser.error("expected a script, or -m and a module")
    return chosen, given[own:]


def _raised_by_runpy(error: ImportError) -> bool:
    """Whether what was to be run wasn't found; an import that fails within it ends elsewhere."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "runpy"


def _show_from_the_script(error: BaseException) -> None:
    """Whoever shows the error at the end of the process gets its traceback from the script on."""
    first = error.__traceback__
    while first and first.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        first = first.tb_next
    show = sys.excepthook

    def excepthook(
        kind: type[BaseException], value: BaseException, trace: TracebackType | None
    ) -> None:
        if value is error:
            value.__traceback__ = trace = first
        show(kind, value, trace)

    sys.excepthook = excepthook


def _put_first_on_path(folder: str | None) -> None:
    """Replaces ``sys.path[0]``, which ``python -m`` made the current folder; None removes it."""
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[:1] = [] if folder is None else [folder]


def _run_file(path: str) -> None:
    """As Python runs a file: in a module ``__main__`` that stays until the process ends."""
    module = ModuleType("__main__")
    file = os.path.abspath(path)
    vars(module).update(
        __file__=file,
        __cached__=None,
        __package__=None,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", file),
    )
    sys.modules["__main__"] = module
    with io.open_code(file) as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    exec(code, vars(module))


def _report(log: CallLog) -> None:
    rank = os.environ.get("RANK")
    prefix = "gatv2_pyg" if rank is None else f"gatv2_pyg [rank {rank}]"
    lines = log.lines() or ["no GATv2Conv layer was called (calls in compiled code are not seen)"]
    sys.stdout.flush()
    for line in lines:
        _write_line(f"{prefix}: {line}")


def _write_line(line: str) -> None:
    """In one write: ranks share the stream, and ``print`` writes a line's end by itself."""
    sys.stderr.write(line + "\n")
