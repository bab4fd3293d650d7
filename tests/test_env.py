"""``python -m gatv2_pyg.env``."""

from __future__ import annotations

import json

from gatv2_pyg import env


def test_text(capsys):
    env.main([])
    out = capsys.readouterr().out
    for word in ("python", "torch_geometric", "cpu (", "fused", "triton", "auto, float64"):
        assert word in out


def test_json(capsys):
    env.main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == env.report()
    assert set(found["devices"]["cpu"]["backends"]) >= {"fused", "scatter", "reference"}


def test_why_there_is_no_fused_kernel(monkeypatch, capsys):
    monkeypatch.setattr(env, "refusal", lambda name, *_: "it rained" if name == "fused" else None)
    env.main([])
    assert "it rained" in capsys.readouterr().out
