"""``python -m gatv2_pyg.env``."""

from __future__ import annotations

import json

import pytest
import torch

from gatv2_pyg import backends, env, selfcheck


def test_text(capsys):
    assert env.main([]) == 0
    out = capsys.readouterr().out
    for word in ("python", "torch_geometric", "cpu (", "fused", "triton", "auto", "float64"):
        assert word in out
    assert "checked" not in out


def test_json(capsys):
    assert env.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == env.report()
    cpu = found["devices"]["cpu"]
    assert set(cpu["backends"]) == {"fused", "triton", "scatter", "reference"}
    dtypes = [dtype for group in cpu["auto"] for dtype in group["dtypes"]]
    assert sorted(dtypes) == ["bfloat16", "float16", "float32", "float64"]


def test_a_reason_is_printed_once(monkeypatch, capsys):
    monkeypatch.setattr(backends, "_unavailable", lambda name: "it rained; the roof leaked")
    monkeypatch.setattr(backends, "_scatter_refusal", lambda device: "it snowed")
    assert env.main([]) == 0
    captured = capsys.readouterr()
    fused, auto = (
        line for line in captured.out.splitlines() if line.strip().startswith(("fused ", "auto "))
    )
    assert fused.endswith("it rained; the roof leaked")
    assert auto.endswith(
        "reference for float32, float64, bfloat16, float16: not fused; not scatter"
    )
    assert captured.out.count("it snowed") == 1
    assert captured.err == ""


def test_dtypes_of_different_backends_are_apart(monkeypatch):
    refused = {torch.float64: "too wide"}
    monkeypatch.setattr(backends, "refusal", lambda name, _, dtype, *__: refused.get(dtype))
    groups = env.auto("cpu")
    assert [(group["backend"], group["dtypes"]) for group in groups] == [
        ("fused", ["float32", "bfloat16", "float16"]),
        ("reference", ["float64"]),
    ]
    assert "too wide" in groups[1]["reason"]


@pytest.fixture
def only_cpu_kernels(monkeypatch):
    def refusal(name, device, dtype, channels=1):
        return None if name in ("fused", "reference") else "not asked"

    monkeypatch.setattr(env, "refusal", refusal)
    monkeypatch.setattr(env, "devices", lambda: {"cpu": "here"})


def test_check(only_cpu_kernels, capsys):
    if backends.refusal("fused", torch.device("cpu"), torch.float32) is not None:
        pytest.skip("no fused kernels")
    assert env.main(["--check"]) == 0
    table = capsys.readouterr().out.split("checked against")[1]
    lines = [line.split() for line in table.splitlines() if line.endswith("  ok")]
    assert [line[:2] for line in lines] == [
        [name, dtype]
        for name in ("fused", "reference")
        for dtype in ("float32", "float64", "bfloat16", "float16")
    ]
    for line in lines:
        errors = [float(cell) for cell in line[2:-1]]
        assert len(errors) == 8
        assert all(0 <= error < 1e-2 for error in errors)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failed_check_exits_with_1(only_cpu_kernels, monkeypatch, capsys, as_json):
    def compare(kernels, device, dtype):
        failure = "out is wrong" if (kernels, dtype) == ("cpu", torch.float64) else None
        return selfcheck.Comparison({"out": 0.5}, failure)

    monkeypatch.setattr(selfcheck, "compare", compare)
    assert env.main(["--check"] + ["--json"] * as_json) == 1
    out = capsys.readouterr().out
    if as_json:
        entries = json.loads(out)["devices"]["cpu"]["check"]
        assert [entry["dtype"] for entry in entries if entry["failure"]] == ["float64"]
    else:
        assert "FAILED: out is wrong" in out
        assert out.count("FAILED") == 1


def test_why_there_is_no_fused_kernel(monkeypatch, capsys):
    monkeypatch.setattr(env, "refusal", lambda name, *_: "it rained" if name == "fused" else None)
    assert env.main([]) == 0
    assert "it rained" in capsys.readouterr().out
