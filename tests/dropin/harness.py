"""Cases: how they are registered, what they are given, how their results are compared."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor

import gatv2_pyg

PYG, AUTO, REFERENCE = "pyg", "auto", "reference"
OUR_PATHS = (AUTO, REFERENCE)
NODES, EDGES, SIZE = 12, 40, 8

_TOLERANCES = {
    torch.float64: (1e-7, 1e-9),
    torch.float32: (2e-4, 1e-5),
    torch.bfloat16: (4e-2, 2e-2),
    torch.float16: (4e-3, 2e-3),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to use a layer."""

    name: str
    """``"kind/what"``."""
    function: Callable[[Layers], Any]
    paths: tuple[str, ...]
    """Our paths it runs on."""
    both: bool
    """Whether it runs with PyG's class too, whose result ours must equal."""
    fused: bool
    """Whether the fused kernels must have run on the ``auto`` path."""
    limit: float
    """Seconds a run may compute; it may take longer where the machine is busy."""
    slow: bool
    needs: tuple[str, ...]
    """Modules it can't do without."""
    tolerance: tuple[float, float] | None
    """Relative and absolute, in place of those of the dtype."""
    quiet: bool
    """Whether a warning that only our layer gives is a failure."""

    def missing(self) -> str | None:
        """Why the case can't run here; None if it can."""
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"needs {', '.join(lacking)}" if lacking else None


CASES: dict[str, Case] = {}


def case(
    name: str,
    *,
    paths: tuple[str, ...] = OUR_PATHS,
    both: bool = True,
    fused: bool = True,
    limit: float = 120.0,
    slow: bool = False,
    needs: tuple[str, ...] = (),
    tolerance: tuple[float, float] | None = None,
    quiet: bool = True,
):
    """Registers a function as the case ``name``."""

    def register(function):
        if name in CASES:
            raise ValueError(f"Expected a new name for a case, got {name!r} again")
        CASES[name] = Case(name, function, paths, both, fused, limit, slow, needs, tolerance, quiet)
        return function

    return register


def ours(name: str, **options):
    """Registers a case that only our layer runs; it asserts what must hold."""
    return case(name, both=False, **options)


class Layers:
    """Makes layers of one class with the same weights for every class."""

    def __init__(self, variant: str):
        self.variant = variant
        self.cls = torch_geometric.nn.GATv2Conv if variant == PYG else gatv2_pyg.GATv2Conv
        self.options = {"backend": "reference"} if variant == REFERENCE else {}
        self._made = 0

    @property
    def ours(self) -> bool:
        """Whether the layers are ours."""
        return self.variant != PYG

    @property
    def backend(self) -> str:
        """Our path, by the name of its backend."""
        return "reference" if self.variant == REFERENCE else "auto"

    def __call__(self, *args, dtype: torch.dtype = torch.float64, **kwargs) -> torch.nn.Module:
        if not args:
            args = (SIZE, 4)
            kwargs.setdefault("heads", 2)
        return self.fill(self.cls(*args, **kwargs, **self.options).to(dtype))

    def fill(self, module: torch.nn.Module) -> torch.nn.Module:
        """Loads weights that depend on the parameters' names and shapes only."""
        state = {
            name: value
            if isinstance(value, torch.nn.parameter.UninitializedParameter)
            else wave(value.shape, value.dtype, shift=float(sum(map(ord, name)) + self._made))
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor)
        }
        if not any(torch.nn.parameter.is_lazy(value) for value in state.values()):
            module.load_state_dict(state)
        self._made += 1
        return module


def wave(shape, dtype=torch.float64, shift: float = 0.0) -> Tensor:
    """Numbers between -0.7 and 0.7 that no random generator has a part in."""
    count = math.prod(shape)
    values = 0.7 * torch.sin(1.7 * torch.arange(count, dtype=torch.float64, device="cpu") + shift)
    return values.reshape(tuple(shape)).to(dtype)


def features(rows: int = NODES, size: int = SIZE, dtype=torch.float64, seed: int = 0) -> Tensor:
    """Node or edge features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size, generator=generator, dtype=torch.float64).to(dtype)


def edges(
    num_src: int = NODES,
    num_dst: int | None = None,
    count: int = EDGES,
    seed: int = 0,
    loops: bool = True,
) -> Tensor:
    """A random ``edge_index``; the last destination gets no edge of it."""
    generator = torch.Generator().manual_seed(seed + 100)
    num_dst = num_src if num_dst is None else num_dst
    src = torch.randint(num_src, (count,), generator=generator)
    dst = torch.randint(max(num_dst - 1, 1), (count,), generator=generator)
    if not loops:
        src = torch.where(src == dst, (src + 1) % num_src, src)
    return torch.stack([src, dst])


def weighted(out: Tensor) -> Tensor:
    """A scalar in which every element of ``out`` has its own weight."""
    return (out * wave(out.shape, out.dtype, shift=0.3)).sum()


def gradients(conv: torch.nn.Module, **tensors: Tensor) -> dict[str, Tensor | None]:
    """The ``.grad`` of the parameters of ``conv`` and of tensors."""
    found = {name: value.grad for name, value in conv.named_parameters()}
    return found | {name: value.grad for name, value in tensors.items()}


def step(conv: torch.nn.Module, out: Tensor, **tensors: Tensor) -> dict[str, Any]:
    """``out`` and the gradients of :func:`weighted` of it."""
    weighted(out).backward()
    return {"out": out.detach().clone(), **gradients(conv, **tensors)}


def attempt(function: Callable[[], Any], *expected: type[BaseException]) -> str:
    """``"raises"`` if the call raises one of these, else what it did instead."""
    try:
        function()
    except expected:
        return "raises"
    except Exception as error:
        names = " or ".join(kind.__name__ for kind in expected)
        return f"{type(error).__name__} in place of {names}: {error}"
    return "no error"


def agree(first: Any, second: Any, tolerance: tuple[float, float] | None = None) -> bool | str:
    """True, or where two results differ: for properties that both classes must have."""
    found = differences(plain(first), plain(second), tolerance)
    return "; ".join(found[:3]) if found else True


def plain(value: Any) -> Any:
    """Results as plain tensors, numbers and containers that another process can read."""
    if isinstance(value, Tensor):
        if hasattr(value, "as_tensor"):
            value = value.as_tensor()
        if value.layout != torch.strided:
            value = value.to_dense()
        value = value.detach().cpu()
        return value.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"Expected a case to return tensors or plain values, got {type(value)}")


def differences(
    expected: Any, actual: Any, tolerance: tuple[float, float] | None = None, where: str = "result"
) -> list[str]:
    """Where two plain results differ, a line each."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys():
            return [f"{where}: expected the keys {list(expected)}, got {list(actual)}"]
        pairs = [(f"{where}[{key!r}]", expected[key], actual[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{where}: expected {len(expected)} items, got {len(actual)}"]
        pairs = [
            (f"{where}[{i}]", *pair) for i, pair in enumerate(zip(expected, actual, strict=True))
        ]
    elif isinstance(expected, Tensor) and isinstance(actual, Tensor):
        return _tensor_differences(expected, actual, tolerance, where)
    elif isinstance(expected, float) and isinstance(actual, float):
        return _tensor_differences(
            torch.tensor(expected, dtype=torch.float64),
            torch.tensor(actual, dtype=torch.float64),
            tolerance,
            where,
        )
    else:
        same = type(expected) is type(actual) and expected == actual
        return [] if same else [f"{where}: expected {expected!r}, got {actual!r}"]
    return [line for name, *pair in pairs for line in differences(*pair, tolerance, name)]


def _tensor_differences(expected, actual, tolerance, where) -> list[str]:
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return [
            f"{where}: expected {expected.dtype} {list(expected.shape)}, "
            f"got {actual.dtype} {list(actual.shape)}"
        ]
    rtol, atol = tolerance or _TOLERANCES.get(expected.dtype, (0.0, 0.0))
    if torch.allclose(expected, actual, rtol=rtol, atol=atol, equal_nan=True):
        return []
    wide = torch.float64 if expected.dtype.is_floating_point else expected.dtype
    gap = (actual.to(wide) - expected.to(wide)).abs().double()
    gap = gap.nan_to_num(math.inf, math.inf)
    at = int(gap.flatten().argmax())
    return [
        f"{where}: differs by up to {gap.max():.3g}, at {at} expected "
        f"{expected.flatten()[at].item():.6g}, got {actual.flatten()[at].item():.6g}; "
        f"{int((gap > 0).sum())} of {gap.numel()} differ"
    ]
