# SPDX-License-Identifier: Apache-2.0
"""The networks of the learned purifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from monai.utils import OptionalImportError
from torch import nn

from monai_adversarial.networks.denoising_unet import DenoisingUNet
from monai_adversarial.networks.diffusion_denoiser import PURIFICATION_SCHEDULE, DiffusionDenoiser
from monai_adversarial.networks.masked_reconstruction import MaskedReconstructionUNet
from monai_adversarial.utils.weights import load_weights, save_weights
from tests.helpers import random_image

Network = TypeVar("Network", bound=nn.Module)


def shake(network: Network, seed: int = 0) -> Network:
    """Random weights everywhere: outputs that start at zero would hide what a network depends on."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


@pytest.mark.parametrize("make", [DenoisingUNet, MaskedReconstructionUNet, DiffusionDenoiser])
def test_default_weights_stay_below_one_and_a_half_megabytes(make: type[nn.Module]) -> None:
    assert sum(value.numel() * value.element_size() for value in make().state_dict().values()) <= 1.5e6


@pytest.mark.parametrize("sizes", [(9, 12, 7), (10, 11)])
def test_shapes_are_kept_whatever_the_size(sizes: tuple[int, ...]) -> None:
    image = random_image((2, 1, *sizes))
    dimensions = len(sizes)
    assert DenoisingUNet(dimensions, (4, 4, 8)).eval()(image).shape == image.shape
    assert MaskedReconstructionUNet(dimensions, (4, 4, 8)).eval()(image).shape == image.shape
    diffusion = DiffusionDenoiser(dimensions, (4, 4), norm_num_groups=2).eval()
    assert diffusion(image, torch.tensor([3, 5])).shape == image.shape


def test_an_untrained_denoiser_is_the_identity() -> None:
    image = random_image((1, 1, 8, 8, 8))
    assert torch.equal(DenoisingUNet(3, (4, 4)).eval()(image), image)


def test_denoiser_needs_two_levels() -> None:
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3 and channels at least two levels"):
        DenoisingUNet(1, (4, 4))
    with pytest.raises(ValueError, match="at least two levels"):
        DenoisingUNet(3, (4,))


def test_diffusion_network_has_no_attention() -> None:
    network = DiffusionDenoiser(3, (4, 4), norm_num_groups=2)
    assert not [name for name, _ in network.named_parameters() if "attention" in name or "attn" in name]


def test_schedule_reaches_60_hu_in_proportion_to_time() -> None:
    alphas = DDPMScheduler(**PURIFICATION_SCHEDULE).alphas_cumprod.double()
    noise = ((1 - alphas) / alphas).sqrt() * 400  # HU of a window of 400 HU
    assert float(noise[-1]) == pytest.approx(60, abs=0.5)
    assert float(noise[500]) == pytest.approx(30, abs=0.5)
    assert bool((noise.diff()[10:] > 0).all())


@pytest.mark.parametrize(("block_size", "parts"), [(1, 2), (2, 4), (3, 3), (4, 5)])
def test_partition_covers_everything_and_keeps_blocks_with_a_common_face_apart(block_size: int, parts: int) -> None:
    network = MaskedReconstructionUNet(3, (4, 4), block_size=block_size, parts=parts)
    part = network.partition(torch.zeros(1, 1, 24, 20, 16))
    assert sorted(part.unique().tolist()) == list(range(parts))
    blocks = part[::block_size, ::block_size, ::block_size]
    whole = blocks
    for axis in range(3):
        whole = whole.repeat_interleave(block_size, axis)
    assert torch.equal(whole[:24, :20, :16], part)
    for axis in range(3):
        size = blocks.shape[axis]
        assert bool((blocks.narrow(axis, 1, size - 1) != blocks.narrow(axis, 0, size - 1)).all())


def test_no_output_depends_on_its_own_block() -> None:
    network = shake(MaskedReconstructionUNet(3, (4, 4, 8))).double()
    image = random_image((1, 1, 12, 12, 12), dtype=torch.float64).requires_grad_()
    block = network(image)[..., 4:6, 4:6, 4:6].sum()
    gradient = torch.autograd.grad(block, image)[0]
    assert float(gradient[..., 4:6, 4:6, 4:6].abs().max()) == 0.0
    assert float(gradient[..., 6:8, 4:6, 4:6].abs().max()) > 0.0


def test_training_replaces_one_part_of_each_sample() -> None:
    network = shake(MaskedReconstructionUNet(3, (4, 4))).train()
    image = random_image((6, 1, 8, 8, 8))
    torch.manual_seed(0)
    out = network(image)
    part = network.partition(image)
    replaced = set()
    for given, changed in zip(image[:, 0], out[:, 0] != image[:, 0], strict=True):
        parts = part[changed].unique().tolist()
        assert len(parts) == 1 and int(changed.sum()) == int((part == parts[0]).sum()), given.shape
        replaced.add(parts[0])
    assert len(replaced) > 1


def test_saved_weights_come_back_and_leave_nothing_else(tmp_path: Path) -> None:
    network = shake(DenoisingUNet(2, (4, 4)))
    path = tmp_path / "models" / "purifier.pt"
    assert save_weights(network, path) == str(path)
    again = load_weights(DenoisingUNet(2, (4, 4)), path)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert [item.name for item in path.parent.iterdir()] == ["purifier.pt"]


def test_a_failed_save_keeps_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, path = DenoisingUNet(2, (4, 4)), tmp_path / "purifier.pt"
    save_weights(network, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="cannot write .*purifier.pt: No space left"):
        save_weights(network, path)
    assert path.read_bytes() == before and [item.name for item in tmp_path.iterdir()] == ["purifier.pt"]


def test_the_diffusion_network_names_the_extra_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> object:
        raise OptionalImportError("import einops (No module named 'einops')")

    monkeypatch.setattr("monai.networks.blocks.selfattention.Rearrange", missing)
    with pytest.raises(ImportError, match=r"install the extra 'diffusion' \(pip install einops\)\."):
        DiffusionDenoiser(3, (4, 4), norm_num_groups=2)
