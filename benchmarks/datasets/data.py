"""Data sets: found on disk, linked into the project's ``data/`` folder, or downloaded.

PyG's loaders write ``processed/`` beside the raw files, and the folder a user names may be
read-only: its raw files are linked into ``data/`` and loaded from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness.environment import PROJECT
from benchmarks.harness.errors import UsageError

PLANETOID = ("Cora", "CiteSeer", "PubMed")
HETEROPHILOUS = ("Tolokers", "Minesweeper")
DATASETS = PLANETOID + HETEROPHILOUS
ESOL = "ESOL"
_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_CONNECT_SECONDS = 5.0
Loaded = TypeVar("Loaded")


class MissingData(UsageError):
    """A data set that is on no disk and can't be downloaded."""


@dataclass(frozen=True)
class Dataset:
    """A graph with features ``x``, labels ``y`` and split masks, ready to use.

    Attributes:
        name: e.g. ``"Cora"``.
        data: ``torch_geometric.data.Data``.
        num_classes: number of labels.
        stand_in: what generated data this is, or None for the real data set.
    """

    name: str
    data: Any
    num_classes: int
    stand_in: str | None = None

    @property
    def label(self) -> str:
        return shown_name(self.name, self.stand_in)


def shown_name(name: str, stand_in: str | None) -> str:
    """A data set's name in headings and headlines; tables and pictures get their own label."""
    return f"{name} (generated stand-in)" if stand_in else name


def raw_files(name: str) -> tuple[str, ...]:
    """The raw files of a data set, relative to its root, in PyG's layout."""
    if name in PLANETOID:
        return tuple(f"{name}/raw/ind.{name.lower()}.{part}" for part in _PARTS)
    if name == ESOL:
        return ("esol/raw/delaney-processed.csv",)
    return (f"{name.lower()}/raw/{name.lower()}.npz",)


def _complete(root: Path, name: str) -> bool:
    return all((root / file).is_file() for file in raw_files(name))


def checked_root(root: Path | str | None) -> Path | None:
    """``--data`` as a folder that exists (None if not given)."""
    if root is None:
        return None
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"--data {root}: no such folder")
    return path


def own_folder() -> Path:
    """``data/`` in the project, or a folder in the user's cache where that can't be written."""
    folder = PROJECT / "data"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gatv2_pyg" / "data"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _linked(root: Path, name: str) -> Path:
    """A writable root whose raw files are links to (or copies of) those under ``root``."""
    own = own_folder()
    if root.resolve() == own.resolve():
        return own
    tag = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    target = own / "linked" / tag
    for file in raw_files(name):
        place, source = target / file, (root / file).resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            continue
        place.unlink(missing_ok=True)
        try:
            place.symlink_to(source)
        except OSError:
            shutil.copyfile(source, place)
    return target


def _loader(name: str) -> Callable[[str], Any]:
    from torch_geometric.datasets import HeterophilousGraphDataset, MoleculeNet, Planetoid

    if name == ESOL:
        return lambda root: MoleculeNet(root, name)
    kind = Planetoid if name in PLANETOID else HeterophilousGraphDataset
    return lambda root: kind(root, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loaders' progress lines and their dependencies' deprecation warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _reachable(url: str) -> str | None:
    """Why a URL can't be opened within a few seconds, or None."""
    outcome: list[str | None] = []

    def attempt() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
            outcome.append(None)
        except Exception as error:
            outcome.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2 * _CONNECT_SECONDS)
    return outcome[0] if outcome else f"no answer in {2 * _CONNECT_SECONDS:.0f} s"


def _download_url(name: str) -> str:
    from torch_geometric.datasets import HeterophilousGraphDataset, MoleculeNet, Planetoid

    if name == ESOL:
        return MoleculeNet.url.format(Path(raw_files(name)[0]).name)
    if name in PLANETOID:
        return f"{Planetoid.url}/{Path(raw_files(name)[0]).name}"
    return f"{HeterophilousGraphDataset.url}/{name.lower()}.npz"


def _download(name: str) -> Path:
    """Downloads with PyG's loader into the own folder; :class:`MissingData` where that fails."""
    root = own_folder()
    why = _reachable(_download_url(name))
    if why is None:
        try:
            with _quiet():
                _loader(name)(str(root))
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
    if why is not None:
        raise MissingData(
            f"data set {name} is neither in --data (GATV2_PYG_DATA) nor in data/, "
            f"and can't be downloaded ({why})"
        )
    return root


def load_files(name: str, root: Path | str | None = None) -> Any:
    """PyG's data set ``name`` from ``root``, else from ``data/``, else by download.

    Raises :class:`MissingData`, and ``UsageError`` for files that can't be read.
    """
    given = checked_root(root)
    places = [place for place in (given, own_folder()) if place is not None]
    place = next((place for place in places if _complete(place, name)), None)
    folder = _linked(place, name) if place is not None else _download(name)
    try:
        with _quiet():
            dataset = _loader(name)(str(folder))
            dataset[0]
        return dataset
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # A full disk or a missing right, not the content of the files.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"data set {name} in {place or folder}: can't be read ({why}); are its files whole?"
        ) from None


def load(name: str, root: Path | str | None = None) -> Dataset:
    """A data set of one graph, by :func:`load_files`.

    Planetoid features are row-normalised as in the GAT paper.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    dataset = load_files(name, root)
    data = dataset[0]
    if name in PLANETOID:
        data.x = data.x / data.x.sum(dim=1, keepdim=True).clamp(min=1)
    return Dataset(name, data, int(dataset.num_classes))


def load_molecules(root: Path | str | None = None) -> list[Any]:
    """The molecules of ESOL, each a graph with integer ``x [N, 9]``, ``edge_attr [E, 3]``, ``y``.

    Raises the errors of :func:`load_files`, and ``UsageError`` where rdkit is missing, with which
    PyG reads them.
    """
    try:
        from rdkit import rdBase
    except ImportError:
        raise UsageError(
            f"data set {ESOL}: PyG reads molecules with rdkit, which is missing (pip install rdkit)"
        ) from None
    with rdBase.BlockLogs():
        return list(load_files(ESOL, root))


def load_or_stand_in(name: str, root: Path | str | None, say: Callable[[str], None]) -> Dataset:
    """As :func:`load`; where Cora can't be had, one line to ``say`` and the generated stand-in."""
    try:
        return load(name, root)
    except MissingData as error:
        if name != "Cora":
            raise
        from benchmarks.datasets.standin import citation_graph

        data = citation_graph()
        stand_in = "generated stand-in for Cora (planted-partition citation graph of its size)"
        say(f"{error}; using a {stand_in} instead")
        return Dataset(name, data, int(data.y.max()) + 1, stand_in)


def at_hand(
    names: Mapping[str, str],
    load_one: Callable[[str], Loaded],
    say: Callable[[str], None],
    notes: list[str],
) -> list[Loaded]:
    """What ``load_one`` gives for the keys of ``names`` that can be had.

    Of each of the others one line goes to ``say`` and one, with its name, to ``notes``.
    """
    found = []
    for key, name in names.items():
        try:
            found.append(load_one(key))
        except MissingData as error:
            say(f"{error}; going on without it")
            notes.append(f"{name} could not be had.")
    return found
