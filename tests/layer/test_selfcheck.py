"""The self-check sees broken kernels, and ``auto`` does not take them on a CUDA device."""

from __future__ import annotations

import types

import pytest
import torch

from gatv2_pyg import backends, selfcheck
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.ops import operators, reference

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture
def install(monkeypatch):
    """Puts functions in place of the CPU kernels; the reference's own by default."""

    def put(forward=reference.forward, backward=reference.backward):
        module = types.SimpleNamespace(forward=forward, backward=backward)
        monkeypatch.setattr(operators, "load_kernels", lambda name: module)

    return put


@pytest.mark.parametrize("kernels", ["cpu", "scatter", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sound_backends_pass(kernels, dtype):
    name = "fused" if kernels == "cpu" else kernels
    reason = backends.refusal(name, CPU, dtype)
    if reason is not None:
        pytest.skip(reason)
    errors, failure = selfcheck.compare(kernels, CPU, dtype)
    assert failure is None
    assert set(errors) == {
        "out",
        "alpha",
        *(f"grad {name}" for name in Inputs._fields),
    }
    assert all(0 <= error <= selfcheck.TOLERANCES[dtype] for error in errors.values())


def test_interpreted_triton_kernels_pass():
    reason = backends.refusal("triton", CPU, torch.float32)
    if reason is not None:
        pytest.skip(reason)
    assert selfcheck.compare_with_reference("triton", CPU, torch.float32) is None


def test_the_reference_in_place_of_kernels_passes(install):
    install()
    assert selfcheck.compare_with_reference("cpu", CPU, torch.float32) is None


def changed(name, change):
    """Kernels of which one result is changed, by the tensor's name."""

    def forward(*args):
        outputs = reference.forward(*args)
        value = getattr(outputs, name, None)
        return outputs if value is None else outputs._replace(**{name: change(value)})

    def backward(*args):
        grads = reference.backward(*args)
        name_of_grad = name.removeprefix("grad ")
        value = getattr(grads, name_of_grad, None) if name != name_of_grad else None
        return grads if value is None else grads._replace(**{name_of_grad: change(value)})

    return forward, backward


def one_row_off(value):
    value = value.clone()
    value[-1] *= 1.01
    return value


def one_nan(value):
    value = value.clone()
    value.view(-1)[3] = torch.nan
    return value


CHANGES = [
    *((f"grad {name}", one_row_off) for name in Inputs._fields),
    ("out", one_row_off),
    ("alpha", one_row_off),
    ("out", one_nan),
    ("grad x_dst", one_nan),
    ("alpha", torch.zeros_like),
    ("grad att", torch.neg),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_wrong_result_is_named(install, name, change):
    install(*changed(name, change))
    failure = selfcheck.compare_with_reference("cpu", CPU, torch.float32)
    assert failure is not None
    assert f"{name} of 3 x 20 is off by" in failure


def test_a_gradient_that_depends_on_the_hub_alone_is_seen(install):
    """Errors in small rows are not measured by the largest row."""

    def lost(value):
        largest = value.flatten(1).norm(dim=1).argmax()
        kept = torch.zeros_like(value)
        kept[largest] = value[largest]
        return kept

    install(*changed("grad x_src", lost))
    assert "grad x_src" in selfcheck.compare_with_reference("cpu", CPU, torch.bfloat16)


@pytest.mark.parametrize(("size", "error"), [(3.0, 0.01), (0.2, 0.01), (0.01, 0.001)])
def test_a_row_is_judged_by_its_own_size_or_a_tenth_of_the_usual_one(size, error):
    want = torch.ones(1000, 4, dtype=torch.float64)
    want[7] *= size
    found = want.clone()
    found[7] *= 1.01
    wrong, apart = selfcheck._judge(found, found, want, 0.5 * error)
    assert apart == pytest.approx(error, rel=0.01)
    assert wrong == f"is off by {error:.1e}"


def test_an_exception_is_the_failure(install):
    def forward(*args):
        raise RuntimeError("no such instruction")

    install(forward)
    failure = selfcheck.compare_with_reference("cpu", CPU, torch.float32)
    assert failure == "RuntimeError: no such instruction"


def test_an_exception_in_backward_is_the_failure(install):
    def backward(*args):
        raise ValueError("out of registers")

    install(backward=backward)
    failure = selfcheck.compare_with_reference("cpu", CPU, torch.float32)
    assert failure == "ValueError: out of registers"


def test_a_missing_gradient_is_the_failure(monkeypatch):
    run = selfcheck._run

    def forgetful(kernels, *args):
        found = run("reference", *args)
        return found if kernels == "reference" else found | {"grad att": None}

    monkeypatch.setattr(selfcheck, "_run", forgetful)
    failure = selfcheck.compare_with_reference("cpu", CPU, torch.float32)
    assert "grad att of 3 x 20 is missing" in failure


def test_a_race_is_the_failure(install):
    """Results that differ by a rounding from run to run."""
    calls = []

    def forward(*args):
        outputs = reference.forward(*args)
        calls.append(None)
        return outputs._replace(out=outputs.out * (1 + 1e-6 * len(calls)))

    install(forward)
    failure = selfcheck.compare_with_reference("cpu", CPU, torch.float32)
    assert "out of 3 x 20 is not the same in a second run" in failure


def test_it_leaves_no_trace():
    """Neither the mode nor the state of the generator changes a check, or is changed by one."""
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert selfcheck.compare_with_reference("reference", CPU, torch.float32) is None
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), state)


# What auto does with it


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device on which Triton's kernels would run, as far as can be told beforehand."""
    monkeypatch.setattr(backends, "_unavailable", lambda name: None)
    monkeypatch.setattr(backends, "_triton_refusal", lambda *_: None)
    monkeypatch.setattr(backends, "_missing", lambda name: "it is not here")
    backends._checked.clear()
    yield torch.device("cuda:0")
    backends._checked.clear()


def test_auto_takes_kernels_that_pass(cuda, monkeypatch):
    monkeypatch.setattr(backends, "compare_with_reference", lambda *_: None)
    chosen = backends.select_backend("auto", cuda, torch.float32)
    assert chosen.name == "fused"
    assert chosen.kernels == "triton"


def test_auto_leaves_kernels_that_fail_and_says_why(cuda, monkeypatch):
    asked = []

    def compare(kernels, device, dtype):
        asked.append((kernels, device, dtype))
        return "out of 3 x 20 is off by 2.0e-01" if dtype == torch.bfloat16 else None

    monkeypatch.setattr(backends, "compare_with_reference", compare)
    for _ in range(2):
        assert backends.select_backend("auto", cuda, torch.float32).name == "fused"
        chosen = backends.select_backend("auto", cuda, torch.bfloat16)
        assert chosen.name == "reference"
        assert (
            "not fused: on cuda:0 its kernels failed their self-check (out of 3 x 20 is off by "
            "2.0e-01)" in chosen.reason
        )
    # Once a device and dtype.
    assert asked == [("triton", cuda, torch.float32), ("triton", cuda, torch.bfloat16)]
    assert backends.select_backend("fused", cuda, torch.bfloat16).name == "fused"


def test_a_device_that_fails_altogether_is_a_failed_check(cuda):
    """Here torch can't put a tensor on the device at all."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    chosen = backends.select_backend("auto", cuda, torch.float32)
    assert chosen.name == "reference"
    assert "failed their self-check" in chosen.reason
