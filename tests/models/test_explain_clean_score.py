# SPDX-License-Identifier: Apache-2.0
"""A low clean score is compared with that of other readings of the same image."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_adversarial.models import AttackedModel, explain_clean_score, predict
from monai_adversarial.models.input_probes import input_probes
from tests.helpers import LinearNetwork

SHAPE = (12, 12, 12)


class OneRegion(nn.Module):
    """Bright voxels of one region alone: it knows where the organ lies, as trained networks do."""

    def __init__(self, threshold: float = 0.5, divisor: int = 1) -> None:
        super().__init__()
        self.threshold, self.divisor, self.calls = threshold, divisor, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if any(size % self.divisor for size in image.shape[2:]):
            raise RuntimeError("sizes of tensors must match")
        x, y, z = (torch.arange(size) for size in image.shape[2:])
        inside = (x < 2)[:, None, None] & ((y >= 3) & (y < 6))[:, None] & ((z >= 4) & (z < 11))
        logit = torch.where(inside, image - self.threshold, -1.0)
        return torch.cat([-logit, logit], dim=1)


def case() -> tuple[torch.Tensor, torch.Tensor]:
    """An organ of three different extents, none of which is in the middle."""
    label = torch.zeros(1, 1, *SHAPE)
    label[..., :2, 3:6, 4:11] = 1
    return label, label.long()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x.flip(2), "the image is mirrored along axis 0"),
        (lambda x: x.flip(2, 3, 4), "the image is mirrored along axes 0, 1, 2"),
        (lambda x: x.permute(0, 1, 4, 3, 2), "the image is given with its axes in the order (2, 1, 0)"),
    ],
)
def test_a_scan_in_another_orientation_is_named(change, expected) -> None:
    image, label = case()
    found = explain_clean_score(OneRegion(), change(image), change(label))
    assert found.is_explained and found.best == 1.0 and found.reading == expected
    assert str(found).startswith(f"the clean Dice is {found.score:.3f}, but 1.000 when {expected}")


def test_axes_both_exchanged_and_mirrored_are_compared_when_asked() -> None:
    image, label = (volume.permute(0, 1, 3, 2, 4).flip(2) for volume in case())
    assert not explain_clean_score(OneRegion(), image, label).is_explained
    found = explain_clean_score(OneRegion(), image, label, most_passes=56)
    assert found.best == 1.0
    assert str(found.reading).startswith("the image is given with its axes in the order (1, 0, 2) and mirrored along")


def test_a_label_that_was_mirrored_alone_costs_no_pass() -> None:
    image, label = case()
    network = OneRegion()
    found = explain_clean_score(network, image, label.flip(3))
    assert found.reading == "the label is mirrored along axis 1" and found.best == 1.0
    assert (found.passes, network.calls) == (0, 1)


def test_stored_values_without_their_intercept_are_named() -> None:
    ramp = torch.linspace(-100, 200, SHAPE[0]).view(1, 1, -1, 1, 1).expand(1, 1, *SHAPE)
    model = AttackedModel(
        LinearNetwork(biases=(0.85, -0.85)), intensity={"a_min": -160, "a_max": 240}, image_units="HU"
    )
    label = predict(model, ramp)
    for offset, expected in ((1024, "the image is taken minus 1024"), (-1024, "the image is taken plus 1024")):
        found = explain_clean_score(model, ramp + offset, label)
        assert found.is_explained and found.best == 1.0 and str(found.reading).startswith(expected)


def test_an_image_in_hu_for_a_network_of_windowed_values_is_named() -> None:
    organ, label = case()
    found = explain_clean_score(LinearNetwork(biases=(0.6, -0.6)), 60 + 150 * organ, label)
    assert found.best == 1.0 and found.reading == "the image is windowed from -160..240 to 0..1"


def test_other_voxel_sizes_are_named() -> None:
    image, label = (volume.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4) for volume in case())
    found = explain_clean_score(OneRegion(), image, label)
    assert found.best == 1.0 and found.reading == "the image is resampled to 0.5 times as many voxels along each axis"


def test_a_good_score_costs_one_pass_and_a_low_one_a_bounded_number() -> None:
    image, label = case()
    network = OneRegion()
    assert explain_clean_score(network, image, label).passes == 0 and network.calls == 1
    network = OneRegion(threshold=5.0)
    found = explain_clean_score(network, image, label, most_passes=4)
    assert (found.score, found.is_explained, found.passes, network.calls) == (0.0, False, 4, 5)


def test_sizes_that_the_network_refuses_are_left_out() -> None:
    image, label = case()
    found = explain_clean_score(OneRegion(threshold=1e6, divisor=4), image, label, most_passes=56)
    assert not found.is_explained and found.passes > 21


def test_voxel_sizes_go_with_their_axes() -> None:
    image, _ = case()
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    probes = {probe.text: probe for probe in input_probes(AttackedModel(LinearNetwork()), image)}
    made = probes["given with its axes in the order (2, 1, 0)"].image(MetaTensor(image, affine=affine))
    assert torch.equal(torch.as_tensor(made.affine).diagonal(), torch.tensor([-3.0, 2.0, 1.0, 1.0]).double())


def test_a_classifier_and_an_empty_label() -> None:
    image, label = case()

    def classifier(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))], dim=1)

    with pytest.raises(TypeError, match="explain_clean_score needs a segmentation network, got a classifier"):
        explain_clean_score(classifier, image, label)
    with pytest.raises(ValueError, match="label must have shape"):
        explain_clean_score(OneRegion(), image, label[..., 1:])
    found = explain_clean_score(OneRegion(threshold=5.0), image, label * 0)
    assert found.score != found.score and found.passes == 0  # NaN: nothing to find, and nothing found
