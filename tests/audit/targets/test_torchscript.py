# SPDX-License-Identifier: Apache-2.0
"""TorchScript archives and pickled modules as targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.torchscript import read_torchscript
from monai_adversarial.utils.hashing import file_hash
from tests.audit.targets.exported_networks import WINDOW, Blob, attacked, input_of, model_of, write_image

TOLD = {"window": WINDOW, "orientation": "file", "roi_size": (16, 16, 16)}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "scan.nii.gz")


def scripted(path: Path, network: nn.Module, trace: torch.Tensor | None = None, **extra: str) -> Path:
    module = torch.jit.script(network) if trace is None else torch.jit.trace(network, trace)
    torch.jit.save(module, str(path), _extra_files={f"{name}.json": text for name, text in extra.items()})
    return path


def test_a_scripted_network_is_read_and_attacked_by_gradients(tmp_path: Path, image: Path) -> None:
    file = scripted(tmp_path / "model.ts", Blob())
    parts = read_torchscript(file, {**TOLD, "overlap": 0.5, "blending": "gaussian"})
    assert (parts.kind, parts.name, parts.differentiable, list(parts.missing)) == ("TorchScript", "model.ts", True, [])
    assert parts.hashes == {"weights": file_hash(file)}
    assert parts.told["activation"] == "softmax"
    result = attacked(parts, image, budget=16)
    assert float(result.adversarial_dice) < 0.3 and float(result.clean_dice) == 1
    assert parts.reference_prediction is not None
    assert parts.reference_prediction(str(image)).shape == (24, 20, 18)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
@pytest.mark.parametrize("traced", [False, True])
def test_saturated_probabilities_are_attacked_at_what_goes_into_them(
    tmp_path: Path, image: Path, end: str, traced: bool
) -> None:
    """In float32 the probabilities are 0 and 1 and their gradient is zero: only the logits show a way."""
    network = Blob(classes=1 if end == "sigmoid" else 2, end=end, steepness=2000.0)
    trace = torch.rand(1, 1, 16, 16, 16) if traced else None
    parts = read_torchscript(scripted(tmp_path / "model.pt", network, trace), TOLD)
    assert parts.told["activation"] == end and parts.told["output_values"] == "probabilities"
    with torch.no_grad():
        noise = torch.rand(2, 1, 16, 16, 16)
        assert torch.equal(parts.network(noise), network(noise))
        assert float(((network(noise) == 0) | (network(noise) == 1)).float().mean()) > 0.7
    model = model_of(parts)
    result = PGD(16, units="HU", steps=5)(model, input_of(parts, image))
    assert float(result.adversarial_dice) < 0.3 and float(result.zero_gradient_fraction.max()) < 0.5
    assert f"what goes into its final {end}" in " ".join(model.findings)


def test_a_network_without_derivative_is_queried(tmp_path: Path) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blob = Blob()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.blob((image * 8).round() / 8)

    parts = read_torchscript(scripted(tmp_path / "model.ts", Rounded()), TOLD)
    assert not parts.differentiable
    assert "gradients: no: its gradient is zero everywhere; attacked by queries (an image of noise)" in map(
        str, parts.facts
    )
    before = parts.network.samples
    assert not parts.network(torch.rand(3, 1, 8, 8, 8, requires_grad=True)).requires_grad
    assert parts.network.samples - before == 3


def test_names_of_classes_come_from_the_metadata_of_a_bundle_export(tmp_path: Path) -> None:
    channels = {"0": "background", "1": "liver", "2": "tumor"}
    metadata = {"version": "1.2.3", "network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    file = scripted(tmp_path / "model.ts", Blob(classes=3), metadata=json.dumps(metadata))
    parts = read_torchscript(file, TOLD)
    assert parts.told["class_names"] == ["background", "liver", "tumor"] and not parts.missing
    with pytest.raises(TargetError, match="class_names from --class-names are 2 .*3 output channels"):
        read_torchscript(file, {**TOLD, "class_names": ("background", "liver")})
    bare = read_torchscript(scripted(tmp_path / "bare.ts", Blob(classes=3)), TOLD)
    assert ["--class-names" in missing.option for missing in bare.missing] == [True]


def test_one_of_several_outputs_is_attacked(tmp_path: Path, image: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blob = Blob()

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.nn.functional.avg_pool3d(self.blob(image), 2), self.blob(image)

    parts = read_torchscript(scripted(tmp_path / "model.ts", Two()), TOLD)
    assert "output: 1 of several is attacked" in " ".join(map(str, parts.facts))
    assert float(attacked(parts, image, budget=16).adversarial_dice) < 0.3


def test_samples_that_are_not_apart_go_alone(tmp_path: Path) -> None:
    """A BatchNorm that was exported in training mode mixes the windows of a batch."""
    training = Blob().train()
    parts = read_torchscript(scripted(tmp_path / "model.ts", training, torch.rand(2, 1, 16, 16, 16)), TOLD)
    pair = torch.stack([torch.rand(1, 16, 16, 16), 2 + torch.rand(1, 16, 16, 16)])
    assert torch.equal(parts.network(pair)[:1], parts.network(pair[:1]))
    assert "1 at a time" in " ".join(map(str, parts.facts))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Sequential(Blob(), nn.Flatten()), "on the image's grid"),
        (nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 2)), "on the image's grid"),
        (nn.Sequential(nn.Conv3d(3, 2, 1)), "in_channels is 1, but .* takes 3"),
    ],
)
def test_what_is_no_segmentation_is_refused(tmp_path: Path, network: nn.Module, sentence: str) -> None:
    file = scripted(tmp_path / "model.ts", network.eval())
    with pytest.raises(TargetError, match=sentence):
        read_torchscript(file, {**TOLD, "in_channels": 1})


def test_a_finished_segmentation_is_refused(tmp_path: Path) -> None:
    class Finished(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (image > 0.5).float()

    with pytest.raises(TargetError, match="a finished segmentation: an audit needs the logits"):
        read_torchscript(scripted(tmp_path / "model.ts", Finished()), TOLD)


def test_a_pickled_module_needs_trust(tmp_path: Path, image: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(Blob(), file)
    with pytest.raises(TargetError, match="runs any Python when it is loaded.*--trust"):
        read_torchscript(file, TOLD)
    parts = read_torchscript(file, TOLD, trust=True)
    assert parts.kind == "pickled module" and parts.differentiable
    assert float(attacked(parts, image, budget=16).adversarial_dice) < 0.3


def test_weights_without_a_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(Blob().state_dict(), file)
    with pytest.raises(TargetError, match="weights without a network"):
        read_torchscript(file, TOLD)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_archive_is_one_sentence(tmp_path: Path, share: float) -> None:
    file = scripted(tmp_path / "model.ts", Blob())
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(TargetError, match="model.ts is (empty|neither)"):
        read_torchscript(file, TOLD)
    with pytest.raises(TargetError, match="there is no file absent.ts"):
        read_torchscript(tmp_path / "absent.ts", TOLD)
