# SPDX-License-Identifier: Apache-2.0
"""The library of natural variations: every name and severity runs, and more severe ones change more."""

from __future__ import annotations

import sys

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandSimulateLowResolution

from monai_adversarial.attacks import NATURAL_VARIATIONS, WorstOf, natural_variation, scan_rescan
from monai_adversarial.models import AttackedModel
from tests.attacks.black_boxes import SmoothThreshold, bright_boxes

OF_TORCHIO = {"motion", "ghosting", "spikes"}
VARIATIONS = [(name, modality) for name in NATURAL_VARIATIONS for modality in ("CT", "MRI")]
VARIATIONS.remove(("window", "MRI"))
SPACING = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def case(modality: str) -> tuple[AttackedModel, MetaTensor, torch.Tensor]:
    """A model, images with structure everywhere in HU or on a scanner's own scale, labels."""
    image, label = bright_boxes(size=16)
    waves = torch.sin(torch.arange(16.0))[:, None, None] * torch.cos(torch.arange(16.0))[None, :, None]
    image = image + 0.03 * waves
    if modality == "CT":
        window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}
        model = AttackedModel(SmoothThreshold(), intensity=window, image_units="HU")
        return model, MetaTensor(image * 400 - 160, affine=SPACING), label
    return AttackedModel(SmoothThreshold()), MetaTensor(image, affine=SPACING), label


@pytest.mark.parametrize(("name", "modality"), VARIATIONS)
def test_more_severe_draws_change_more(name: str, modality: str) -> None:
    if name in OF_TORCHIO:
        pytest.importorskip("torchio")
    model, image, label = case(modality)
    sizes = []
    for severity in (1, 5):
        attack = natural_variation(name, severity, modality, draws=4)
        assert isinstance(attack, WorstOf)
        result = attack(model, image, label)
        assert result.draw_dice.shape == (4, 2) and result.forwards == 2 * 6
        changes = []
        for stream in range(4):
            parameters = result.bound.random(result.bound.scene.generators(stream))
            changes.append((result.bound.apply(result.image, parameters) - result.image).square().mean().sqrt())
        sizes.append(float(torch.stack(changes).mean()))
        assert all(not found.exceeded() for found in result.budgets.values())
    assert 0 < sizes[0] < sizes[1], sizes


def test_noise_of_ct_is_in_hounsfield_units() -> None:
    model, image, label = case("CT")
    result = natural_variation("noise", 2, draws=1)(model, image, label)
    torch.testing.assert_close(
        result.budgets["rms_change"].values, torch.tensor([20.0, 20.0]).double(), rtol=0.03, atol=0
    )
    assert result.budgets["rms_change"].units == "HU"


def center(image: torch.Tensor) -> float:
    """Center of mass along the first axis, in voxels."""
    line = image[0, 0].sum(dim=(1, 2))
    return float((line * torch.arange(len(line))).sum() / line.sum())


def test_low_resolution_does_not_move_the_image() -> None:
    line = torch.exp(-((torch.arange(32.0) - 15.5) ** 2) / 32)
    image = (line[:, None, None] * line[None, :, None] * line[None, None])[None, None]
    attack = natural_variation("low_resolution", 5, "MRI", draws=1)
    bound = attack(SmoothThreshold(), image, (image > 0.5).long(), spacing=1.0).bound
    centers = [center(bound.apply(image, bound.random(bound.scene.generators(stream)))) for stream in range(4)]
    assert max(abs(found - 15.5) for found in centers) < 0.1
    # MONAI's default takes the first of the voxels that become one, which moves everything.
    default = RandSimulateLowResolution(prob=1.0, zoom_range=(0.25, 0.25))
    assert abs(center(default(image[0])[None]) - 15.5) > 1.0


def test_scan_rescan_moves_a_little_and_reports_the_variation_of_volumes() -> None:
    model, image, label = case("CT")
    result = scan_rescan(draws=6)(model, image, label)
    assert result.volume_units == "ml" and result.volume_variation.shape == (2, 2)
    assert bool((result.volume_variation[:, 1] > 0).all()) and bool((result.volume_variation[:, 1] < 0.2).all())
    assert float(result.budgets["0_AffineTransform_rotation_0"].values.max()) <= 2.0
    assert not torch.equal(result.label, label)
    alone = scan_rescan(draws=6)(model, image[1:], label[1:])
    assert torch.equal(alone.draw_volumes[:, 0], result.draw_volumes[:, 1])
    small = scan_rescan(0.2, 0.1, noise=1.0, draws=6)(model, image, label)
    assert bool((small.volume_variation[:, 1] < result.volume_variation[:, 1]).all())


def test_scan_rescan_of_mri_is_in_shares_of_its_range() -> None:
    model, image, label = case("MRI")
    result = scan_rescan(noise=0.02, units="percentile", draws=2)(model, image, label)
    assert "units='percentile'" in repr(result.attack)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog",), "name must be one of"),
        (("noise", 6), "severity must be 1 to 5, got 6"),
        (("noise", 0), "severity must be"),
        (("noise", 3, "PET"), "modality must be one of"),
        (("window", 3, "MRI"), "is a variation of CT"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        natural_variation(*arguments)


def test_ct_noise_needs_the_map_of_an_image_in_network_values() -> None:
    model, image, label = case("MRI")
    with pytest.raises(ValueError, match="it looks already scaled"):
        natural_variation("noise")(model, image, label)


@pytest.mark.parametrize("name", sorted(OF_TORCHIO))
def test_a_missing_torchio_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(ImportError, match=r'pip install "monai-adversarial\[torchio\]"'):
        natural_variation(name)
