# SPDX-License-Identifier: Apache-2.0
"""An object outside the organs: its place, its materials, its movement, and the harm that it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_adversarial.attacks import Attack, LocalizedPatch, PatchAttack
from monai_adversarial.attacks.perturbations import MATERIALS, BoundLocalizedPatch, BudgetError
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.draws import random_draw
from tests.attacks.perturbations.scenes import hounsfield_scene

SPACING = (3.0, 3.0, 4.0)


class WideNetwork(torch.nn.Module):
    """Foreground where the image is above 100 HU; a wide mean of bright voxels nearby turns it off."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        near = torch.nn.functional.avg_pool3d(image, 9, stride=1, padding=4, count_include_pad=False)
        score = (image - 100) - 2.0 * (near - 120).clamp_min(0)
        return self.weight * torch.cat([-score, score], dim=1) / 100


MODEL = AttackedModel(WideNetwork(), image_units="HU", output_values="logits", precision="float32")


def case(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, label and the voxels outside the organ."""
    label = torch.zeros(batch, 1, 20, 16, 14, dtype=torch.long)
    label[:, :, 10:16, 5:11, 4:10] = 1
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(label > 0, 150.0, 40.0) + noise, label, label == 0


def harm(materials: dict[str, tuple[float, float]] | None = None, **options: Any) -> Any:
    image, label, outside = case()
    attack = PatchAttack(9.0, materials=materials, **{"jitter": 3.0, "placements": 3, "steps": 6, **options})
    return attack, attack(MODEL, image, label, region=outside, spacing=SPACING)


@pytest.mark.parametrize("shape", ["cube", "cylinder"])
def test_the_object_is_of_materials_and_outside_the_organs(shape: str) -> None:
    image, label, outside = case()
    _, result = harm(shape=shape)
    change = result.adversarial != image
    assert change.any() and not change[label > 0].any()
    values = result.adversarial[change]
    distance = torch.stack([(values - values.clamp(low, high)).abs() for low, high in MATERIALS.values()]).amin(dim=0)
    assert float(distance.max()) < 2e-3
    box = change[0, 0].nonzero()
    assert (box.amax(dim=0) - box.amin(dim=0) + 1 <= torch.tensor([3, 3, 2])).all()
    assert 0 < int(change.sum()) <= int(result.bound.inside.sum())
    assert float(result.budgets["change_outside_patch"].values) == 0.0
    assert result.budgets["patch_volume"].units == "ml"
    assert float(result.budgets["patch_volume"].values) == pytest.approx(18 * 0.036)
    scene = hounsfield_scene((14, 12, 10), spacing=(1.0, 1.0, 1.0))
    inside = LocalizedPatch((5.0, 5.0, 2.0), shape, center=(7, 6, 5), jitter=0.0).bind(scene).inside
    assert inside[2, 0].all() and inside[2, 2].all() and bool(inside[0, 0].any()) == (shape == "cube")


def test_the_place_is_the_nearest_one_to_the_organs_with_room_to_move() -> None:
    image, label, outside = case(2)
    outside[1, :, :, :, 10:] = False  # in the second sample there is no room on that side
    attack = PatchAttack(9.0, jitter=3.0, steps=1, placements=1)
    result = attack(MODEL, image, label, region=outside, spacing=SPACING)
    bound = result.bound
    assert isinstance(bound, BoundLocalizedPatch)
    assert bound.box == (3, 3, 2) and bound.reach == (1, 1, 0)
    assert bound.support is not None
    for sample in range(2):
        reached = bound.support[sample, 0]
        assert outside[sample, 0][reached].all() and int(reached.sum()) == 5 * 5 * 2
        grown = torch.nn.functional.max_pool3d(reached[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert (~outside[sample, 0])[grown].any()  # it touches what is outside the region


def test_draws_move_it_within_its_reach_and_the_result_has_it_at_its_center() -> None:
    scene = hounsfield_scene((14, 12, 10), spacing=(1.0, 2.0, 3.0), batch=2)
    bound = LocalizedPatch((3.0, 4.0, 3.0), center=(7, 6, 5), jitter=2.0).bind(scene)
    assert bound.box == (3, 2, 1) and bound.reach == (2, 1, 0)
    parameters = bound.random(scene.generators(1))
    seen = set()
    for draw in range(40):
        with random_draw(draw):
            seen.update(bound.offsets())
            again = bound.offsets()
            moved = bound.apply(scene.image, parameters)
            assert torch.equal(moved, bound.placed(scene.image, parameters, again))
            assert torch.equal(
                bound.finished(scene.image, parameters), bound.placed(scene.image, parameters, [(0,) * 3] * 2)
            )
        assert not ((moved != scene.image) & ~bound.support).any()
    assert {offset[0] for offset in seen} == {-2, -1, 0, 1, 2} and {offset[2] for offset in seen} == {0}
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_gradients_and_projection() -> None:
    scene = hounsfield_scene((10, 9, 8), spacing=(3.0, 3.0, 3.0), dtype=torch.float64)
    bound = LocalizedPatch(
        6.0, center=(5, 5, 5), jitter=0.0, materials={"a": (-1000.0, -900.0), "b": (0.0, 50.0)}
    ).bind(scene)
    start = tuple(p.requires_grad_() for p in bound.random(scene.generators()))
    assert torch.autograd.gradcheck(lambda p: bound.apply(scene.image, (p,)), start)
    with torch.no_grad():
        wanted = torch.tensor([-2000.0, -950.0, -451.0, -449.0, 25.0, 60.0, 3000.0, 0.0], dtype=torch.float64)
        (projected,) = bound.project((wanted.view(1, 1, 2, 2, 2) - bound.base,))
        expected = torch.tensor([-1000.0, -950.0, -900.0, 0.0, 25.0, 50.0, 50.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close((bound.base + projected).flatten(), expected)
        assert bound.support is not None
        metal = torch.where(bound.support, 2500.0, scene.image)
        with pytest.raises(BudgetError, match="distance_from_materials"):
            bound.verify(scene.image, metal, (projected,))
        with pytest.raises(BudgetError, match="change_outside_patch of sample 0 is 1 HU"):
            bound.verify(scene.image, scene.image + 1, (projected,))


def test_it_harms_more_than_random_objects_at_its_place_and_beside_it() -> None:
    attack, result = harm(steps=10)
    image, label, _ = case()
    control, _ = result.random_control()
    with torch.no_grad():
        by_chance = MODEL.network(control).argmax(dim=1)
    kept = (by_chance[label[:, 0] > 0] == 1).double().mean()
    ours = (result.prediction[label > 0] == 1).double().mean()
    assert float(result.adversarial_dice) < float(result.clean_dice) - 0.05
    assert float(ours) < float(kept) - 0.02
    elsewhere = attack.dice_over_placements(result, label, placements=5)
    assert elsewhere.shape == (5, 1)
    assert float(elsewhere.mean()) < float(result.clean_dice) - 0.05
    # Materials decide: air and plastic do not turn the network off.
    _, harmless = harm({"air": (-1024.0, -900.0)}, steps=10)
    assert float(harmless.adversarial_dice) > float(result.adversarial_dice)


def test_samples_do_not_depend_on_each_other() -> None:
    image, label, outside = case(2)
    image[1] += 3.0
    attack = PatchAttack(9.0, jitter=3.0, placements=2, steps=3)
    together = attack(MODEL, image, label, region=outside, spacing=SPACING)
    alone = attack(MODEL, image[1:], label[1:], region=outside[1:], spacing=SPACING)
    torch.testing.assert_close(alone.adversarial, together.adversarial[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalizedPatch(0.0), "size must be a finite number > 0"),
        (lambda: LocalizedPatch(9.0, "ball"), "shape must be one of 'cube', 'cylinder'"),
        (lambda: LocalizedPatch(9.0, materials={}), "materials must name at least one"),
        (lambda: LocalizedPatch(9.0, materials={"a": (5.0, 1.0)}), "lowest and the highest HU of 'a'"),
        (lambda: LocalizedPatch((9.0, 9.0)), "size must give 3 lengths"),
        (lambda: LocalizedPatch(300.0), "size must leave room"),
        (lambda: LocalizedPatch(21.0, jitter=9.0), "region must have room"),
        (lambda: LocalizedPatch(9.0, center=(0, 5, 5)), "must leave room for"),
        (lambda: LocalizedPatch(9.0, center=(12, 8, 7)), "must keep the patch inside the region"),
        (lambda: LocalizedPatch(9.0, center=(5, 5)), "center must give 3 voxel indices"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make: Any, message: str) -> None:
    image, label, outside = case()
    with pytest.raises(ValueError, match=message):
        Attack(make(), steps=1)(MODEL, image, label, region=outside, spacing=SPACING)


def test_it_needs_hu_a_spacing_and_a_place() -> None:
    image, label, outside = case()
    with pytest.raises(ValueError, match="spacing is missing"):
        PatchAttack(9.0, steps=1)(MODEL, image, label, region=outside)
    with pytest.raises(ValueError, match="center= is missing"):
        PatchAttack(9.0, steps=1)(MODEL, image, label, spacing=SPACING)
    window = {"a_min": -1000.0, "a_max": 1000.0}
    network = AttackedModel(WideNetwork(), intensity=window, output_values="logits")
    with pytest.raises(ValueError, match="image_units='HU'"):
        Attack(LocalizedPatch(9.0))(network, image / 2000 + 0.5, label, region=outside, spacing=SPACING)
