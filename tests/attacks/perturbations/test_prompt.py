# SPDX-License-Identifier: Apache-2.0
"""Prompts that move: MONAI's click maps, closed forms, budgets in mm, gradients and queries, VISTA3D's point head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.apps.deepedit.transforms import AddGuidanceSignalDeepEditd
from monai.metrics import compute_surface_dice
from monai.networks.nets.vista3d import PointMappingSAM
from torch import nn

from monai_adversarial.attacks import BudgetError, Dice, PromptAttack, PromptPerturbation, SurfaceDice
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks import PointPromptedNetwork
from monai_adversarial.utils.point_channel import read_points, write_points
from monai_adversarial.utils.scene import Scene

SIZE = 24
SPACING = (1.0, 2.0, 1.5)


def click_map(clicks: list[list[int]], background: list[list[int]], sigma: int = 3) -> torch.Tensor:
    """(1, 2, SIZE...) by MONAI's transform: clicks inside the organ, clicks outside."""
    guidance = {"organ": clicks, "background": background}
    transform = AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", sigma=sigma, number_intensity_ch=1)
    made = transform({"image": torch.zeros(1, SIZE, SIZE, SIZE), "guidance": guidance})
    return torch.as_tensor(made["image"])[None, 1:].float()


def scene(channels: torch.Tensor, spacing: tuple[float, ...] = SPACING) -> Scene:
    return Scene(channels, seeds=(0,) * len(channels), spacing=torch.tensor([spacing] * len(channels)))


class Ball(nn.Module):
    """Segments what is within ``radius`` voxels of the point: Dice has a closed form."""

    def __init__(self, radius: float = 5.0) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius))

    def forward(self, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(batch, 1, spatial...)."""
        axes = torch.meshgrid(*[torch.arange(n, dtype=image.dtype) for n in image.shape[2:]], indexing="ij")
        away = torch.stack(axes)[None] - points[:, 0].view(-1, 3, 1, 1, 1)
        return self.radius - (away.square().sum(dim=1, keepdim=True) + 1e-3).sqrt()


class Grows(nn.Module):
    """Clicks in the first map are the organ, those in the second are not; bright voxels join."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([8.0, 8.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, spatial...)."""
        bright, inside, outside = x[:, :1] - 0.5, x[:, 1:2], x[:, 2:]
        return self.weights[0] * inside - self.weights[1] * outside + self.weights[2] * bright - 2


@pytest.mark.parametrize("sigma", [2, 3])
def test_the_clicks_of_monais_maps_are_found_and_drawn_again(sigma: int) -> None:
    clicks, background = [[6, 6, 6], [15, 17, 9]], [[20, 3, 12]]
    channels = click_map(clicks, background, sigma)
    bound = PromptPerturbation(3.0, sigma=sigma).bind(scene(channels))
    found = sorted(bound.places[0].int().tolist())
    assert found == sorted([*clicks, *background])
    drawn = bound.apply(channels, bound.zeros())
    assert (drawn - channels).abs().max() < 0.01
    assert torch.equal(bound.finished(channels, bound.zeros()), channels), "what does not move keeps its bits"


def test_moved_clicks_are_what_monai_would_draw_there() -> None:
    channels = click_map([[6, 6, 6]], [[20, 3, 12]])
    bound = PromptPerturbation(4.0).bind(scene(channels, (1.0, 1.0, 1.0)))
    first = int((bound.places[0, :, 0] == 6).nonzero())
    (way,) = bound.zeros()
    way[0, :, first] = torch.tensor([2.0, 0.0, -3.0])
    moved = bound.finished(channels, (way,))
    assert (moved - click_map([[8, 6, 3]], [[20, 3, 12]])).abs().max() < 0.01
    measured = bound.verify(channels, moved, (way,))
    assert measured["prompt_displacement"].values.item() == pytest.approx(13**0.5)


def test_the_budget_is_in_mm_whatever_the_spacing() -> None:
    channels = click_map([[12, 12, 12]], [[3, 20, 5]])
    bound = PromptPerturbation(4.0).bind(scene(channels))
    far = bound.project((torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)) * 50,))
    assert far[0].norm(dim=1).max() <= 4.0 * (1 + 1e-6)
    assert bound.distances(far).max() <= 4.0
    for number in range(20):
        draw = bound.random([torch.Generator().manual_seed(number)])
        voxels = bound._clicked(draw)
        assert torch.equal(voxels, voxels.round()) and bound.distances(draw).max() <= 4.0
        assert ((voxels >= 0) & (voxels <= SIZE - 1)).all()
    beyond = (torch.full((1, 3, 2), 6.0),)
    with pytest.raises(BudgetError, match="prompt_displacement of sample 0 is .* mm, above the budget of 4 mm"):
        bound.verify(channels, bound.finished(channels, beyond), beyond)
    assert PromptPerturbation(4.0).scaled(0.5).max_displacement == 2.0


def test_prompts_stay_inside_the_volume() -> None:
    channel = write_points(torch.zeros(1, 1, SIZE, SIZE, SIZE), torch.tensor([[[0.0, 1.0, 23.0]]]))
    bound = PromptPerturbation(5.0, prompts="points").bind(scene(channel))
    (way,) = bound.project((torch.tensor([[[-9.0], [-9.0], [9.0]]]),))
    places = read_points(bound.apply(channel, (way,)), 1)[0, 0]
    assert (places >= 0).all() and (places <= SIZE - 1).all()


def test_gradients_of_drawn_clicks_and_points() -> None:
    small = torch.zeros(1, 1, 9, 9, 9, dtype=torch.float64)
    small[0, 0, 4, 4, 4] = 1
    bound = PromptPerturbation.__new__(PromptPerturbation)
    PromptPerturbation.__init__(bound, 2.0, sigma=1.5)
    axis = torch.arange(9, dtype=torch.float64) - 4
    line = 0.5 * (torch.erf((axis + 0.5) * 0.5**0.5 / 1.5) - torch.erf((axis - 0.5) * 0.5**0.5 / 1.5))
    drawn = torch.einsum("i,j,k->ijk", line, line, line)
    channel = ((drawn - drawn.min()) / (drawn.max() - drawn.min()))[None, None]
    tied = bound.bind(scene(channel, (1.0, 1.0, 1.0)))
    way = torch.tensor([[[0.3], [-0.2], [0.4]]], dtype=torch.float64, requires_grad=True)
    inner = (..., *[slice(2, 7)] * 3)
    assert torch.autograd.gradcheck(lambda w: tied.draw(tied._moved((w,)))[inner], way, atol=1e-6)
    points = write_points(small, torch.tensor([[[4.0, 4.0, 4.0]]], dtype=torch.float64))
    other = PromptPerturbation(2.0, prompts="points").bind(scene(points))
    assert torch.autograd.gradcheck(lambda w: other.draw(other._moved((w,))), way)
    # Applied are whole voxels, with the gradient of the drawing there: also where the nearest voxel is the clean one.
    for whole, near in ((way.detach().round(), way), (torch.ones_like(way), way + 1)):
        weights = torch.rand_like(channel)
        exact = whole.requires_grad_()
        (expected,) = torch.autograd.grad((weights * tied.draw(tied._moved((exact,)))).sum(), exact)
        image = tied.apply(channel, (near,))
        (found,) = torch.autograd.grad((weights * image).sum(), way)
        assert torch.equal(image, tied.finished(channel, (exact,))) and torch.allclose(found, expected)
    assert torch.equal(tied.apply(channel, (way,)), channel)


def test_the_objective_is_of_the_prompt_that_is_handed_back() -> None:
    """It was of a point between voxels, which nobody can click: .557 where the finished one had .433."""
    network = PointPromptedNetwork(Ball(), count=1)
    joined = network.join(torch.zeros(1, 1, SIZE, SIZE, SIZE), torch.tensor([[[12.0, 11.0, 12.0]]]))
    model = AttackedModel(network, image_channels=[1])
    asked = PromptAttack(3.0, "points", steps=1, random_start=False)
    for spacing in ((1.0, 1.0, 1.0), (1.0, 2.0, 1.5)):
        result = PromptAttack(3.0, "points", steps=5)(model, joined, spacing=spacing)
        of_the_finished = asked(model, result.adversarial, result.label, spacing=spacing).objective_history[0]
        assert torch.allclose(result.objective, of_the_finished)


def test_a_point_moves_by_its_whole_budget_and_costs_what_two_balls_share() -> None:
    """The farther the point, the less both balls share: the worst point lies on the border of the budget."""
    network = PointPromptedNetwork(Ball(), count=1)
    image = torch.rand(2, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[12.0, 12.0, 12.0]], [[9.0, 13.0, 11.0]]])
    joined = network.join(image, points)
    model = AttackedModel(network, image_channels=[1])
    with torch.no_grad():
        label = (network(joined) > 0).long()
    left = []
    for budget in (0.0, 2.0, 4.0):
        result = PromptAttack(budget, "points", steps=8)(model, joined, label, spacing=1.0)
        assert torch.equal(result.adversarial[:, :1], image), "the image keeps its bits"
        way = (read_points(result.adversarial[:, 1:], 1) - points).norm(dim=2)
        assert (way <= budget + 1e-5).all() and (way >= 0.7 * budget).all()
        with torch.no_grad():
            again = network(result.adversarial) > 0
        dice = 2 * (again & (label > 0)).flatten(1).sum(1) / (again.flatten(1).sum(1) + label.flatten(1).sum(1))
        assert torch.allclose(result.adversarial_dice, dice)
        left.append(float(dice.mean()))
    assert left[0] == 1.0 > left[1] > left[2] > 0


def test_the_worst_point_for_the_surface_moves_it_beyond_the_tolerance() -> None:
    network = PointPromptedNetwork(Ball(), count=1)
    joined = network.join(torch.zeros(1, 1, SIZE, SIZE, SIZE), torch.tensor([[[12.0, 11.0, 12.0]]]))
    model = AttackedModel(network, image_channels=[1])
    left = []
    for budget in (0.5, 2.0, 4.0):
        result = PromptAttack(budget, "points", steps=6, objective=SurfaceDice(1.0))(model, joined, spacing=1.0)
        assert torch.equal(result.adversarial[:, :1], joined[:, :1]), "the image keeps its bits"
        left.append(
            compute_surface_dice(
                result.prediction.float(),
                result.clean_prediction.float(),
                [1.0],
                include_background=True,
                spacing=[1.0, 1.0, 1.0],
            ).item()
        )
    # Half a voxel stays within the tolerance of 1 mm, and the ball of 4 mm away shares little of its surface.
    assert left[0] == 1.0 > left[1] > left[2] and left[2] < 0.6, left


def test_clicks_by_gradients_and_by_queries_are_worse_than_a_random_click() -> None:
    channels = click_map([[12, 8, 12]], [[4, 20, 4]])
    image = 0.4 + 0.2 * torch.rand(1, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image[..., 9:16, 5:12, 9:16] += 0.3
    joined = torch.cat([image, channels], dim=1)
    network = Grows()
    with torch.no_grad():
        label = (network(joined) > 0).long()
    assert label.sum() > 100
    model = AttackedModel(network, image_channels=[1, 2])
    gradients = PromptAttack(4.0, steps=10)(model, joined, label, spacing=1.0)
    queries = PromptAttack(4.0, steps=30, by_queries=True)(model, joined, label, spacing=1.0)
    chance = []
    for stream in range(8):
        with torch.no_grad():
            found = network(gradients.random_control(stream)[0]) > 0
        chance.append(float(2 * (found & (label > 0)).sum() / (found.sum() + label.sum())))
    assert queries.backwards == 0 and gradients.backwards == 10
    assert max(float(gradients.adversarial_dice), float(queries.adversarial_dice)) < sum(chance) / len(chance)
    assert torch.equal(gradients.adversarial[:, :1], image)
    alone = PromptAttack(4.0, steps=10)(model, joined.repeat(2, 1, 1, 1, 1), label.repeat(2, 1, 1, 1, 1), spacing=1.0)
    assert torch.allclose(alone.adversarial[:1], gradients.adversarial, atol=1e-5)


class BoxPrompted(nn.Module):
    """An encoder and the point head of VISTA3D with random weights: corners of a box are points of kind 2 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(1, 8, 3, padding=1)
        self.head = PointMappingSAM(feature_size=8, n_classes=4, last_supported=2)

    def forward(self, image: torch.Tensor, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(batch, 1, spatial...): one image after the other, as VISTA3D does."""
        features = self.encoder(image).split(1)
        rows = zip(features, points.split(1), labels.split(1), strict=True)
        return torch.cat([self.head(one, where, kinds) for one, where, kinds in rows])


def test_the_box_of_vista3ds_point_head() -> None:
    torch.manual_seed(0)
    network = PointPromptedNetwork(BoxPrompted(), count=2, labels=(2, 3)).eval()
    image = torch.rand(1, 1, 16, 16, 16)
    joined = network.join(image, torch.tensor([[[4.0, 4.0, 4.0], [11.0, 12.0, 11.0]]]))
    model = AttackedModel(network, image_channels=[1])
    result = PromptAttack(3.0, "points", steps=6, objective=Dice())(model, joined, spacing=(1.0, 1.0, 1.5))
    assert result.budgets["prompt_displacement"].values.max() <= 3.0
    assert result.adversarial_dice < result.clean_dice == 1.0
    assert torch.equal(result.adversarial[:, :1], image)
    assert (result.objective >= result.objective_history[0]).all()


@pytest.mark.parametrize(
    ("perturbation", "channels", "says"),
    [
        (PromptPerturbation(3.0), torch.zeros(1, 1, 8, 8, 8), "must hold at least one prompt, got none in sample 0"),
        (PromptPerturbation(3.0), torch.rand(1, 1, 12, 12, 12), "must be Gaussians of sigma=3 voxels around clicks"),
        (PromptPerturbation(3.0, sigma=2), click_map([[12, 12, 12]], [[3, 3, 3]]), "must be Gaussians of sigma=2"),
        (PromptPerturbation(3.0, "points"), torch.rand(1, 1, 8, 8, 8), "must be made by write_points"),
        (PromptPerturbation(3.0, "points"), torch.zeros(1, 2, 8, 8, 8), "needs the one channel that holds them, got 2"),
    ],
)
def test_what_are_no_prompts_is_one_sentence(perturbation: Any, channels: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        perturbation.bind(scene(channels))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="prompts must be one of 'clicks', 'points', got 'boxes'"):
        PromptPerturbation(3.0, "boxes")
    with pytest.raises(ValueError, match="labels must be one for each of the 2 points"):
        PointPromptedNetwork(Ball(), 2, labels=(1,))
    with pytest.raises(ValueError, match="points must be 1 for each image, got 2"):
        PointPromptedNetwork(Ball(), 1).join(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="spacing"):
        network = PointPromptedNetwork(Ball(), 1)
        joined = network.join(torch.zeros(1, 1, 8, 8, 8), torch.full((1, 1, 3), 4.0))
        PromptAttack(2.0, "points")(AttackedModel(network, image_channels=[1]), joined)
