# SPDX-License-Identifier: Apache-2.0
"""The network fits its released weights and refuses others in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from monai_adversarial.networks import AllConvolutionalUNet

NARROW = (2, 3, 4, 5, 6, 7)


def test_default_size_is_the_published_one() -> None:
    network = AllConvolutionalUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 883_740
    assert len([name for name in network.state_dict() if not name.endswith("num_batches_tracked")]) == 98
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    assert all(module.kernel_size == (3, 3, 3) for module in convolutions)
    assert not isinstance(list(network.children())[-1], nn.BatchNorm3d)  # the last convolution is not normalized


@pytest.mark.parametrize("size", [(16, 16, 16), (9, 12, 5), (2, 3, 2)])
def test_logits_lie_on_the_images_grid(size: tuple[int, int, int]) -> None:
    network = AllConvolutionalUNet(in_channels=2, out_channels=4, widths=NARROW).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 2, *size)).shape == (2, 4, *size)


def test_weights_survive_a_file_with_and_without_counters(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = AllConvolutionalUNet(widths=NARROW)
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    trained.eval()
    image = torch.randn(1, 1, 8, 8, 8)
    state = trained.state_dict()
    old_style = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for name, content in (("new", state), ("old", old_style)):
        torch.save(content, tmp_path / f"{name}.pth")
        network = AllConvolutionalUNet(widths=NARROW)
        assert network.load_weights(tmp_path / f"{name}.pth") is network
        assert not network.training
        with torch.no_grad():
            assert torch.equal(network(image), trained(image))


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.pth"):
        AllConvolutionalUNet().load_weights(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="no file"):
        AllConvolutionalUNet().load_weights(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "readable file of tensors"),
        (b"not a checkpoint", "readable file of tensors"),
        (Malicious(), "readable file of tensors"),
        ([1, 2], "state dict of AllConvolutionalUNet, got list"),
        ({"conv0.weight": torch.zeros(5, 1, 3, 3, 3)}, "missing"),
        ("wider", r"'batch0\.bias' with shape"),
        ("extra", r"'surplus' is unknown"),
    ],
)
def test_wrong_file_is_one_sentence_and_changes_nothing(
    tmp_path: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "wider":
        torch.save(AllConvolutionalUNet(widths=(3, *NARROW[1:])).state_dict(), path)
    elif content == "extra":
        torch.save({**AllConvolutionalUNet(widths=NARROW).state_dict(), "surplus": torch.zeros(1)}, path)
    else:
        torch.save(content, path)
    network = AllConvolutionalUNet(widths=NARROW)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        network.load_weights(path)
    assert "\n" not in str(caught.value)
    assert "wrong.pth" in str(caught.value)
    assert "executed" not in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_widths_must_be_six() -> None:
    with pytest.raises(ValueError, match="six positive"):
        AllConvolutionalUNet(widths=(4, 8))


@pytest.mark.real_data
@pytest.mark.parametrize("fold", [1, 2])
def test_released_weights_fit(shared_data: Path, fold: int) -> None:
    network = AllConvolutionalUNet().load_weights(shared_data / "abdomen_unet" / f"allconvunet_tcia_fold{fold}.pth")
    assert float(network.get_parameter("conv0.weight").detach().abs().sum()) > 0
    assert float(network.get_buffer("batch55.running_var").std()) > 0  # trained, not the initial ones
