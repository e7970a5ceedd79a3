# SPDX-License-Identifier: Apache-2.0
"""Which reader takes which target, and a real network."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.archives import archive_kind
from monai_adversarial.audit.targets.exported import read_exported
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from tests.audit.targets.exported_networks import WINDOW, Blob, attacked, model_of

TOLD = {"window": WINDOW, "orientation": "file", "roi_size": (16, 16, 16)}
DOCS = Path(__file__).parents[3] / "docs" / "audit_targets_exported.md"
IMAGE = torch.rand(1, 1, 16, 16, 16)


def test_a_file_is_what_its_archive_says(tmp_path: Path) -> None:
    """Nothing is unpickled to find out, and a ``.pt`` may be anything."""
    script, program, weights, text = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt", "d.pt"))
    torch.jit.save(torch.jit.script(Blob()), str(script))
    torch.export.save(torch.export.export(Blob(), (IMAGE,)), tmp_path / "b.pt2")
    program.write_bytes((tmp_path / "b.pt2").read_bytes())
    torch.save(Blob().state_dict(), weights)
    text.write_text("no archive")
    kinds = [archive_kind(file) for file in (script, program, weights, text)]
    assert kinds == ["TorchScript", "torch.export", "pickle", "unknown"]
    assert read_exported(script, TOLD).kind == "TorchScript"
    assert read_exported(str(program), TOLD).kind == read_exported(tmp_path / "b.pt2", TOLD).kind == "torch.export"
    assert read_exported(Blob(), TOLD, device="cpu", trust=True).kind == "callable"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("model.h5", "model.h5 ends in none of .pt2, .onnx, .*and is no URL"),
        ("model.pt2", "there is no file model.pt2"),
        ("model.onnx", "there is no file model.onnx|pip install"),
        ("ftp://host/model", "reached by http or https|pip install"),
        (3, "must be a path, a URL or a callable, got int"),
    ],
)
def test_what_is_no_target_is_one_sentence(target: object, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        read_exported(target, TOLD)  # type: ignore[arg-type]


def test_the_code_of_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    torch.jit.save(torch.jit.script(Blob()), str(tmp_path / "model.pt"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102
    assert "network: model.pt (TorchScript)" in capsys.readouterr().out
    assert names["model"].activation == "softmax"


def test_every_option_stands_on_the_page() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [one.name for one in fields(PipelineOptions) if f"`{one.name}`" not in text] == []


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_spleen_network_falls_to_a_small_attack(shared_data: Path) -> None:
    """TorchScript of MONAI's tutorials on a real scan; without a label, against its own clean prediction."""
    told = {"window": (-57, 164), "orientation": "file", "crop_foreground": True, "whole_size": (96, 96, 96)}
    parts = read_exported(shared_data / "spleen_torchscript" / "model.pt", told)
    assert parts.differentiable and not parts.missing and parts.told["output_values"] == "logits"
    scan = shared_data / "abdomen_ct" / "portal_venous_ct_unlabelled.nii.gz"
    assert parts.reference_prediction is not None
    found = parts.reference_prediction(str(scan))
    assert found.shape == (512, 512, 41) and int((found > 0).sum()) > 1000
    result = attacked(parts, scan, budget=4, steps=5)
    assert float(result.clean_dice) == 1  # the same prediction, twice
    assert float(result.adversarial_dice) < 0.2
    assert "-57..164 HU -> 0..1" in " ".join(model_of(parts).facts)
