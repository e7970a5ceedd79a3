# SPDX-License-Identifier: Apache-2.0
"""Volume, surface and extent of organs by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, OrganShapes, SegmentationPlausibility
from monai_adversarial.models import AttackedModel
from tests.detection.conftest import scores_of_attacks


class Sign(torch.nn.Module):
    """Class 1 where the image is above 0."""

    def forward(self, image):
        return torch.cat([-40 * image, 40 * image], dim=1)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_box_by_hand(smooth) -> None:
    image = -torch.ones(1, 1, 10, 10, 10)
    image[..., 2:6, 3:6, 4:6] = 1
    like = MetaTensor(image, affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    found = OrganShapes(AttackedModel(Sign()))(image, like, smooth)[0]
    voxel, count = 6.0, 4 * 3 * 2
    volume = (count + 1) * voxel
    faces = 2 * (3 * 2 * 6.0 + 4 * 2 * 3.0 + 4 * 3 * 2.0) + 2 * (6.0 + 3.0 + 2.0)  # of the box and of one voxel
    assert float(found[0]) == pytest.approx(math.log(volume / 1000), rel=1e-4)
    assert float(found[1]) == pytest.approx(math.log(faces / volume), rel=1e-4)
    for number, (length, spacing) in enumerate([(4, 1.0), (3, 2.0), (2, 3.0)]):
        variance = (length**2 - 1) / 12 * count / (count + 1) + 1 / 12
        assert float(found[2 + number]) == pytest.approx(math.log(spacing * math.sqrt(variance)), abs=1e-4)


def test_a_missing_organ_has_numbers_and_a_classifier_none() -> None:
    image = -torch.ones(1, 1, 6, 6, 6)
    assert bool(OrganShapes(AttackedModel(Sign()))(image, image).isfinite().all())
    flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2))
    with pytest.raises(ValueError, match="a classifier's answer has no volumes"):
        OrganShapes(AttackedModel(flat))(image, image)


def test_the_attacker_lowers_the_score(tmp_path) -> None:
    pytest.importorskip("sklearn")
    model, image, label = example_case(16)
    detector = SegmentationPlausibility(model).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    unaware, adaptive = scores_of_attacks(detector, model, image, label, weight=10.0, steps=6)
    assert adaptive < unaware
    detector.save(tmp_path / "shapes.npz")
    assert torch.equal(Detector.load(tmp_path / "shapes.npz", model).score(image), detector.score(image))


@pytest.mark.parametrize("sized", [True, False], ids=["fitted with sizes", "fitted without"])
def test_voxel_sizes_are_known_of_all_images_or_of_none(sized: bool, tmp_path) -> None:
    """Volumes in ml beside volumes in voxels would make all images suspicious, which looks like a perfect detector."""
    model = example_case(16)[0]
    with_sizes = [example_case(16, seed)[1] for seed in range(1, 9)]
    assert isinstance(with_sizes[0], MetaTensor)
    without = [image.as_tensor() for image in with_sizes]
    same, other = (with_sizes, without) if sized else (without, with_sizes)
    fitted = SegmentationPlausibility(model).fit(same)
    said = f"image came {'without' if sized else 'with'} voxel sizes"
    fitted.save(tmp_path / "detector")
    for detector in (fitted, Detector.load(tmp_path / "detector", model)):
        with pytest.raises(ValueError, match=said):
            detector.score(other[0])
        assert detector.score(same[0]).isfinite().all()
    with pytest.raises(ValueError, match="must all have voxel sizes"):
        SegmentationPlausibility(model).fit([*same, other[0]])
