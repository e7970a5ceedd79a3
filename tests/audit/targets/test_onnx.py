# SPDX-License-Identifier: Apache-2.0
"""ONNX models as targets, by queries."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.onnx import read_onnx
from monai_adversarial.audit.targets.torch_export import read_torch_export
from tests.audit.targets.exported_networks import WINDOW, Blob, attacked_by_queries, write_image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TOLD = {"window": WINDOW, "orientation": "file"}


def exported(path: Path, network: nn.Module, size: int = 16, dynamic: bool = False, external: bool = False) -> Path:
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto, 4: auto},) if dynamic else None
    image = torch.rand(2 if dynamic else 1, 1, size, size, size)
    program = torch.onnx.export(network, (image,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(str(path), external_data=external)
    return path


def test_it_answers_as_the_network_did(tmp_path: Path) -> None:
    network = Blob()
    parts = read_onnx(exported(tmp_path / "model.onnx", network), TOLD)
    assert (parts.kind, parts.differentiable, list(parts.missing)) == ("ONNX", False, [])
    assert tuple(parts.inferer.roi_size) == (16, 16, 16)  # type: ignore[union-attr]
    assert parts.told["precision"] == "float32"
    noise = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(parts.network(noise), network(noise), atol=1e-4)
    assert not parts.network(noise.requires_grad_()).requires_grad


def test_queries_are_counted_exactly(tmp_path: Path) -> None:
    """The export fixes a batch of one, so that three samples are three calls."""
    parts = read_onnx(exported(tmp_path / "model.onnx", Blob()), TOLD)
    network = parts.network
    assert f"queries while it was read: {network.samples} (an image of noise)" in map(str, parts.facts)
    before = (network.calls, network.samples)
    network(torch.rand(3, 1, 16, 16, 16))
    assert (network.calls - before[0], network.samples - before[1]) == (3, 3)


def test_free_axes_take_batches_and_any_size(tmp_path: Path) -> None:
    file = exported(tmp_path / "model.onnx", Blob(), dynamic=True)
    assert [missing.what for missing in read_onnx(file, TOLD).missing] == ["input size"]
    network = read_onnx(file, {**TOLD, "roi_size": (20, 16, 12)}).network
    before = network.calls
    assert network(torch.rand(3, 1, 20, 16, 12)).shape == (3, 2, 20, 16, 12)
    assert network.calls - before == 1


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_an_attack_by_queries_lowers_its_dice(tmp_path: Path, precision: str) -> None:
    parts = read_onnx(exported(tmp_path / "model.onnx", Blob()), TOLD)
    parts.told = {**parts.told, "precision": precision}
    image = write_image(tmp_path / "scan.nii.gz")
    before = parts.network.samples
    result = attacked_by_queries(parts, image)
    assert float(result.adversarial_dice) < float(result.clean_dice) == 1
    windows = 8  # of 16 x 16 x 16 in 24 x 20 x 18 voxels that overlap by a quarter
    assert parts.network.samples - before == result.forwards * windows


def test_it_is_the_same_as_the_torch_export_of_the_same_network(tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.nii.gz")
    torch.export.save(torch.export.export(Blob(), (torch.rand(1, 1, 16, 16, 16),)), tmp_path / "model.pt2")
    one = read_onnx(exported(tmp_path / "model.onnx", Blob()), TOLD).reference_prediction
    other = read_torch_export(tmp_path / "model.pt2", TOLD).reference_prediction
    assert one is not None and other is not None
    assert torch.equal(one(str(image)), other(str(image)))


def test_external_data_is_hashed_and_must_be_there(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Conv3d(1, 256, 1), nn.Conv3d(256, 2, 1)).eval()
    file = exported(tmp_path / "model.onnx", wide, external=True)
    data = tmp_path / "model.onnx.data"
    assert data.is_file()
    parts = read_onnx(file, TOLD)
    assert set(parts.hashes) == {"weights", "weights in model.onnx.data"}
    data.unlink()
    with pytest.raises(TargetError, match="needs its external data 'model.onnx.data' beside it"):
        read_onnx(file, TOLD)


def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    wide = nn.Sequential(nn.Conv3d(1, 256, 1), nn.Conv3d(256, 2, 1)).eval()
    file = exported(folder / "model.onnx", wide, external=True)
    model = onnx.load(str(file), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.onnx.data"
    onnx.save(model, str(file))
    with pytest.raises(TargetError, match="outside of its folder"):
        read_onnx(file, TOLD)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_what_it_ends_in_is_read_from_its_graph(tmp_path: Path, end: str) -> None:
    network = Blob(classes=1 if end == "sigmoid" else 2, end=end)
    parts = read_onnx(exported(tmp_path / "model.onnx", network), TOLD)
    assert (parts.told["output_values"], parts.told["activation"]) == ("probabilities", end)


def test_half_precision_models_get_half_precision(tmp_path: Path) -> None:
    file = exported(tmp_path / "half.onnx", Blob().half().float())
    model = onnx.load(str(file))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(file))
    parts = read_onnx(file, TOLD)
    noise = torch.rand(1, 1, 16, 16, 16)
    answer = parts.network(noise)
    assert answer.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(answer, Blob()(noise), atol=0.05)


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no model at all")
    with pytest.raises(TargetError, match="model.onnx cannot be loaded as ONNX"):
        read_onnx(file, TOLD)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported(tmp_path / "model.onnx", Blob())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetError, match=r'pip install "monai-adversarial\[onnx\]"'):
        read_onnx(file, TOLD)
