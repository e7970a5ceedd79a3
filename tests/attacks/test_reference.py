"""What counts of a label: ignored voxels, scored classes, overlapping masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.models import AttackedModel


class Thresholds(nn.Module):
    """Softmax: class k where the smoothed value is near k / (classes - 1); exact and differentiable."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.smooth = nn.Conv3d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.smooth.weight, 1 / 27)
        self.centers = [k / (classes - 1) for k in range(classes)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = self.smooth(image)
        return torch.cat([-48.0 * (seen - center) ** 2 for center in self.centers], dim=1)


class Regions(nn.Module):
    """Independent overlapping channels: the value above 0.3 and above 0.6."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.scale * (image - 0.3), self.scale * (image - 0.6)], dim=1)


@pytest.fixture
def ball() -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-1, 1, 16)
    radius = sum(part**2 for part in torch.meshgrid(axis, axis, axis, indexing="ij")).sqrt()
    label = (radius < 0.6)[None, None].long()
    noise = 0.03 * torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    return torch.where(label > 0, 0.8, 0.2) + noise, label


@pytest.mark.parametrize("value", [255, -1])
def test_ignored_voxels_count_in_no_score_and_no_objective(ball: tuple[torch.Tensor, torch.Tensor], value: int) -> None:
    image, label = ball
    partly = label.clone()
    partly[..., :4] = value
    model = AttackedModel(Thresholds(), ignore_index=value)
    result = PGD(0.1, steps=2)(model, image, partly)
    inside = slice(4, None)
    with torch.no_grad():
        found = model.network(image).argmax(dim=1, keepdim=True)[..., inside]
        true = label[..., inside]
    expected = 2.0 * (found & true).sum() / (found.sum() + true.sum())
    assert result.clean_dice.item() == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(result.label, partly), "ignored voxels keep their value"
    # Where the reference is not known nothing is gained: the gradient there is that of neighbors in the window only.
    other = label.clone()
    other[..., :4] = value
    other[..., 0, 0, 0] = value
    assert torch.equal(PGD(0.1, steps=2)(model, image, other).adversarial, result.adversarial)


def test_ignored_voxels_do_not_depend_on_what_the_network_says_there(ball: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = ball
    ignored = torch.where(torch.arange(16) < 4, 255, label)
    reference = Reference.read(AttackedModel(Thresholds(), ignore_index=255), ignored, 2)
    prediction = label.clone()
    first = reference.score(prediction)
    prediction[..., :4] = 1 - prediction[..., :4]
    assert torch.equal(first, reference.score(prediction))
    assert reference.score(label).item() == 1.0


def test_ignored_voxels_move_with_the_anatomy(ball: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = ball
    partly = label.clone()
    partly[:, :, 6:9, 6:9, 6:9] = 255
    attack = ElasticAttack(max_displacement=3.0, control_spacing=8.0, steps=2)
    result = attack(AttackedModel(Thresholds(), ignore_index=255), image, partly, spacing=1.0)
    assert set(result.label.unique().tolist()) == {0, 1, 255}
    assert not torch.equal(result.label == 255, partly == 255)


def test_an_ignore_value_that_was_not_told_is_refused(ball: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = ball
    label = label.clone()
    label[..., :2] = 255
    with pytest.raises(ValueError, match="label must hold class indices 0 to 1"):
        PGD(0.1, steps=1)(Thresholds(), image, label)


def test_masks_that_overlap_are_independent_channels(ball: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, _ = ball
    regions = torch.cat([image > 0.35, image > 0.78], dim=1).long()
    model = AttackedModel(Regions())
    result = PGD(0.05, steps=2)(model, image, regions)
    scores = []
    for channel, threshold in enumerate((0.3, 0.6)):
        found, true = image[:, 0] > threshold, regions[:, channel] > 0
        scores.append(2.0 * (found & true).sum() / (found.sum() + true.sum()))
    assert result.clean_dice.item() == pytest.approx(float(torch.stack(scores).mean()), abs=1e-6)
    assert model.found_activation == "sigmoid"
    with pytest.raises(ValueError, match=r"overlap.*activation='sigmoid'"):
        PGD(0.05, steps=2)(AttackedModel(Regions(), activation="softmax"), image, regions)


def test_only_scored_classes_count(ball: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = ball
    organs = label * 2  # class 1 is labelled nowhere, as in data sets of one organ, but the network finds it
    network = Thresholds(3)
    everything = PGD(0.1, steps=1)(AttackedModel(network), image, organs)
    named = AttackedModel(network, class_names=["background", "spleen", "liver"], scored_classes=["liver"])
    liver = PGD(0.1, steps=1)(named, image, organs)
    with torch.no_grad():
        found = network(image).argmax(dim=1) == 2
    true = organs[:, 0] == 2
    dice = float(2.0 * (found & true).sum() / (found.sum() + true.sum()))
    assert liver.clean_dice.item() == pytest.approx(dice, abs=1e-6)
    assert everything.clean_dice.item() == pytest.approx(dice / 2, abs=1e-6)
    with pytest.raises(ValueError, match="kidney"):
        PGD(0.1, steps=1)(named.replace(scored_classes=["kidney"]), image, organs)
