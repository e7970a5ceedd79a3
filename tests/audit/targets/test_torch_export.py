# SPDX-License-Identifier: Apache-2.0
"""Archives of torch.export as targets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.torch_export import read_torch_export
from tests.audit.targets.exported_networks import WINDOW, Blob, attacked, model_of, write_image

TOLD = {"window": WINDOW, "orientation": "file"}
ANY = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO, 4: torch.export.Dim.AUTO}


def exported(path: Path, network: nn.Module, dynamic: Any = None, size: int = 16, batch: int = 1) -> Path:
    image = torch.rand(batch, 1, size, size, size)
    program = torch.export.export(network, (image,), dynamic_shapes=None if dynamic is None else (dynamic,))
    torch.export.save(program, path)
    return path


def rewrite(path: Path, change: Any) -> None:
    """An archive with some entries changed; None leaves one as it is."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content) or content)


def test_fixed_axes_become_the_size_of_the_windows(tmp_path: Path) -> None:
    parts = read_torch_export(exported(tmp_path / "model.pt2", Blob()), TOLD)
    assert parts.kind == "torch.export" and parts.differentiable and not parts.missing
    assert tuple(parts.inferer.roi_size) == (16, 16, 16)  # type: ignore[union-attr]
    assert "input shape: 1 x 1 x 16 x 16 x 16 (the graph's signature)" in map(str, parts.facts)
    assert parts.network(torch.rand(3, 1, 16, 16, 16)).shape == (3, 2, 16, 16, 16)
    for told in ({"roi_size": (24, 24, 24)}, {"whole_size": (16, 16, 24)}):
        with pytest.raises(TargetError, match="told as .*, but the network takes 16 x 16 x 16 voxels"):
            read_torch_export(tmp_path / "model.pt2", {**TOLD, **told})


def test_it_is_attacked_by_gradients(tmp_path: Path) -> None:
    parts = read_torch_export(exported(tmp_path / "model.pt2", Blob()), TOLD)
    result = attacked(parts, write_image(tmp_path / "scan.nii.gz"), budget=16)
    assert float(result.adversarial_dice) < 0.3 and float(result.clean_dice) == 1


def test_free_axes_need_a_told_size(tmp_path: Path) -> None:
    file = exported(tmp_path / "model.pt2", Blob(), dynamic=ANY, batch=2)
    assert [missing.what for missing in read_torch_export(file, TOLD).missing] == ["input size"]
    parts = read_torch_export(file, {**TOLD, "roi_size": (20, 16, 12)})
    assert parts.network(torch.rand(2, 1, 20, 16, 12)).shape == (2, 2, 20, 16, 12)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_a_final_activation_in_the_graph_is_left_out_of_the_attack(tmp_path: Path, end: str) -> None:
    network = Blob(classes=1 if end == "sigmoid" else 2, end=end, steepness=2000.0)
    parts = read_torch_export(exported(tmp_path / "model.pt2", network), TOLD)
    noise = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(parts.network(noise), network(noise))
    assert parts.differentiable and parts.told["activation"] == end
    image = write_image(tmp_path / "scan.nii.gz")
    assert float(attacked(parts, image, budget=16).adversarial_dice) < 0.3
    assert model_of(parts).precision == "float32"


def test_the_network_stays_in_float32_under_autocast(tmp_path: Path) -> None:
    """Exported graphs hold assertions on types, which fail in bfloat16."""

    class Casts(Blob):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).to(image.dtype)

    parts = read_torch_export(exported(tmp_path / "model.pt2", Casts()), TOLD)
    noise = torch.rand(1, 1, 16, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = parts.network(noise)
    assert answer.dtype == torch.float32 and torch.equal(answer, parts.network(noise))


def test_pickled_objects_need_trust(tmp_path: Path) -> None:
    """An archive can name entries that are loaded by an unrestricted pickle; here one that holds nothing but a size."""
    file = exported(tmp_path / "model.pt2", Blob())

    def mark(name: str, content: bytes) -> bytes | None:
        if not name.endswith("_weights_config.json"):
            return None
        listed = json.loads(content)
        next(iter(listed["config"].values()))["use_pickle"] = True
        return json.dumps(listed).encode()

    rewrite(file, mark)
    with pytest.raises(TargetError, match="holds pickled objects .*--trust"):
        read_torch_export(file, TOLD)


def test_a_broken_archive_is_one_sentence(tmp_path: Path) -> None:
    file = exported(tmp_path / "model.pt2", Blob())
    rewrite(file, lambda name, content: b"{}" if name.endswith("models/model.json") else None)
    with pytest.raises(TargetError, match="model.pt2 cannot be loaded by torch.export of torch"):
        read_torch_export(file, TOLD)
    file.write_bytes(b"no archive")
    with pytest.raises(TargetError, match="is no archive of torch.export.save"):
        read_torch_export(file, TOLD)


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, image: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
            return torch.cat([image, prior], dim=1)

    image = torch.rand(1, 1, 8, 8, 8)
    torch.export.save(torch.export.export(Two(), (image, image)), tmp_path / "model.pt2")
    with pytest.raises(TargetError, match=r"takes 2 inputs \(image, prior\), expected one image"):
        read_torch_export(tmp_path / "model.pt2", TOLD)
