# SPDX-License-Identifier: Apache-2.0
"""Normalized surface Dice as an objective: MONAI's number, closed forms, gradients, and what it does to a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.metrics import compute_surface_dice

from monai_adversarial.attacks import PGD, ElasticAttack, SurfaceDice
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.objectives.soft_surface import ball_in_mm, surfaces
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel

PROGRESS = Progress(0, 1)
ANISOTROPIC = (1.0, 1.5, 3.0)


def blobs(seed: int, classes: int = 3, shape: tuple[int, ...] = (9, 8, 7), batch: int = 1) -> torch.Tensor:
    """Smooth random class maps, (batch, spatial...)."""
    noise = torch.randn(batch, classes, *shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool3d(noise, 3, 1, 1).argmax(dim=1)


def prepared(
    objective: SurfaceDice,
    index: torch.Tensor,
    spacing: Any = ANISOTROPIC,
    classes: int = 3,
    prediction: torch.Tensor | None = None,
    **options: Any,
) -> Target:
    target = Target(classes, index=index, **options)
    table = torch.tensor([spacing] * len(index) if isinstance(spacing[0], float) else spacing, dtype=torch.float64)
    clean = index[:, None] if prediction is None else prediction[:, None]
    return objective.prepare(target, CleanBatch(torch.zeros_like(clean).float(), clean, "softmax", table, lambda _: 1))


def decided(index: torch.Tensor, classes: int = 3, scale: float = 1.0) -> torch.Tensor:
    """Logits of a class map."""
    return scale * torch.nn.functional.one_hot(index, classes).movedim(-1, 1).double()


def cube(grown: int = 0) -> torch.Tensor:
    made = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    made[:, 4 : 10 + grown, 4:10, 4:10] = 1
    return made


@pytest.mark.parametrize("tolerance", [0.9, 1.0, 1.5, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), ANISOTROPIC])
def test_the_rank_is_monais_surface_dice(tolerance: float, spacing: tuple[float, ...]) -> None:
    objective = SurfaceDice(tolerance)
    for seed in range(3):
        reference, found = blobs(seed), blobs(seed + 10)
        _, rank = objective.value_and_rank(decided(found), prepared(objective, reference, spacing), PROGRESS)
        wanted = [
            compute_surface_dice(
                (found == n)[:, None].float(),
                (reference == n)[:, None].float(),
                [tolerance],
                include_background=True,
                spacing=spacing,
            )
            for n in (1, 2)
        ]
        torch.testing.assert_close(1 - rank, torch.stack(wanted).mean().view(1).double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("spacing", "tolerance", "kept"),
    [
        # The cube of 6 voxels has a surface of 152, grown at one face by 2 voxels one of 192. Of the new face 36 voxels
        # are 2 voxels away, and of the old one the 4 in its middle.
        ((1.0, 1.0, 1.0), 1.9, 304 / 344),
        ((1.0, 1.0, 1.0), 2.0, 1.0),
        # The old face is 2 mm from the sides of the grown cube, the new one 4 mm from the old one.
        ((2.0, 1.0, 1.0), 3.9, 308 / 344),
        ((2.0, 1.0, 1.0), 4.0, 1.0),
    ],
)
def test_a_face_of_a_cube_that_moves(spacing: tuple[float, ...], tolerance: float, kept: float) -> None:
    objective = SurfaceDice(tolerance, cross_entropy_weight=0.0, first_sharpness=1.0, last_sharpness=1.0)
    target = prepared(objective, cube(), spacing, classes=2)
    value, rank = objective.value_and_rank(decided(cube(2), 2, 60.0), target, PROGRESS)
    torch.testing.assert_close(rank, torch.tensor([1 - kept], dtype=torch.float64), rtol=0, atol=1e-6)
    # Confident probabilities are masks, whose soft surfaces are their surfaces.
    torch.testing.assert_close(value, rank, rtol=0, atol=1e-6)


def test_soft_surfaces_are_probabilities_minus_the_least_neighbor() -> None:
    masks = torch.rand(2, 2, 4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = torch.nn.functional.pad(masks, (1,) * 6)
    inner = (slice(None), slice(None))
    least = masks
    for axis in range(3):
        for box in (slice(0, -2), slice(2, None)):
            where = [slice(1, -1)] * 3
            where[axis] = box
            least = torch.minimum(least, padded[(*inner, *where)])
    torch.testing.assert_close(surfaces(masks), masks - least)
    turned = masks.transpose(1, 4).contiguous().transpose(1, 4)  # another memory layout
    torch.testing.assert_close(surfaces(turned), masks - least)


def test_a_ball_is_in_mm_along_each_axis() -> None:
    ball = ball_in_mm(3.0, [ANISOTROPIC, (3.0, 3.0, 3.0)])
    assert ball.shape == (2, 7, 5, 3)
    expected = sum(
        (a**2 + (1.5 * b) ** 2 + (3 * c) ** 2) <= 9 for a in range(-3, 4) for b in range(-2, 3) for c in range(-1, 2)
    )
    assert int(ball[0].sum()) == expected and int(ball[1].sum()) == 7


@pytest.mark.parametrize("region", [False, True])
def test_gradients_are_those_of_finite_differences(region: bool) -> None:
    index = blobs(3, shape=(3, 4, 3))
    weight = torch.rand(1, 3, 4, 3, generator=torch.Generator().manual_seed(1)) > 0.3 if region else None
    objective = SurfaceDice(1.6)
    target = prepared(objective, index, weight=weight)
    logits = torch.randn(1, 3, 3, 4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: objective.value(z, target, Progress(2, 5)), logits.requires_grad_(), eps=1e-7, atol=1e-5
    )


def test_an_organ_that_is_missing_is_left_out_and_one_that_is_invented_counts_as_nothing() -> None:
    objective = SurfaceDice(1.0)
    reference = cube()  # organ 2 is not there
    target = prepared(objective, reference)
    assert objective.value_and_rank(decided(reference), target, PROGRESS)[1].item() == 0.0
    invented = reference.clone()
    invented[:, 12:14, 12:14, 12:14] = 2
    torch.testing.assert_close(
        objective.value_and_rank(decided(invented), target, PROGRESS)[1], torch.tensor([0.5], dtype=torch.float64)
    )
    gone = torch.zeros_like(reference)
    assert objective.value_and_rank(decided(gone), target, PROGRESS)[1].item() == 1.0
    # No organ at all in the reference: inventing one is the only loss, and it has a gradient.
    nothing = prepared(objective, gone)
    logits = torch.randn(1, 3, 16, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, _ = objective.value_and_rank(logits.requires_grad_(), nothing, PROGRESS)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all() and gradient.isfinite().all() and (gradient != 0).any()
    assert objective.value_and_rank(decided(gone), nothing, PROGRESS)[1].item() == 0.0
    assert not objective.succeeded(gone[:, None], nothing).any()


def test_samples_of_a_batch_have_their_own_spacing() -> None:
    objective, references, found = SurfaceDice(2.5), blobs(1, batch=2), blobs(20, batch=2)
    spacing = [list(ANISOTROPIC), [2.0, 0.8, 1.1]]
    logits = decided(found, scale=2.0)
    together = objective.value_and_rank(logits, prepared(objective, references, spacing), PROGRESS)
    for row in range(2):
        target = prepared(objective, references[row : row + 1], spacing[row : row + 1])
        alone = objective.value_and_rank(logits[row : row + 1], target, PROGRESS)
        for one, both in zip(alone, together, strict=True):
            torch.testing.assert_close(one, both[row : row + 1])


def test_with_sigmoid_each_channel_is_an_organ() -> None:
    objective, reference, found = SurfaceDice(1.5), blobs(2), blobs(30)
    masks = [torch.stack([index == 1, index == 2], dim=1) for index in (reference, found)]
    table = torch.tensor([ANISOTROPIC], dtype=torch.float64)
    clean = CleanBatch(torch.zeros(1, 1, *reference.shape[1:]), masks[0].byte(), "sigmoid", table, lambda _: masks[0])
    target = objective.prepare(Target(2, soft=masks[0].byte(), activation="sigmoid"), clean)
    _, rank = objective.value_and_rank(masks[1].double() * 2 - 1, target, PROGRESS)
    _, softmax = objective.value_and_rank(decided(found), prepared(objective, reference), PROGRESS)
    torch.testing.assert_close(rank, softmax)
    assert objective.succeeded(masks[1].byte(), target).tolist() == [float(1 - rank) < 0.5]


def test_voxels_outside_the_region_have_no_surface() -> None:
    objective = SurfaceDice(1.0)
    inside = torch.ones(1, 16, 16, 16, dtype=torch.bool)
    inside[:, 10:] = False
    target = prepared(objective, cube(), (1.0, 1.0, 1.0), classes=2, weight=inside)
    near = objective.value_and_rank(decided(cube(2), 2), target, PROGRESS)[1]
    whole = objective.value_and_rank(
        decided(cube(2), 2), prepared(objective, cube(), (1.0, 1.0, 1.0), classes=2), PROGRESS
    )[1]
    # What is left is the middle of the old face: 2 x 2 of its voxels lie 2 mm from the nearest side.
    torch.testing.assert_close(near, torch.tensor([4 / (152 + 136)], dtype=torch.float64), rtol=0, atol=1e-6)
    assert near < whole


def _nsd(result: Any, tolerance: float, spacing: Any, classes: int = 4) -> float:
    parts = [
        compute_surface_dice(
            (result.prediction == n).float(),
            (result.label == n).float(),
            [tolerance],
            include_background=True,
            spacing=spacing,
        )
        for n in range(1, classes)
        if (result.prediction == n).any() and (result.label == n).any()
    ]
    present = [n for n in range(1, classes) if (result.prediction == n).any() or (result.label == n).any()]
    return float(sum(parts)) / len(present)


def test_an_attack_takes_more_of_the_surface_than_one_along_dice() -> None:
    model, image, label = example_case(24)
    model = model.replace(precision="float32")
    plain = image.as_tensor()
    results = [
        PGD(6, "HU", steps=8, objective=objective)(model, plain, label, spacing=(3.0, 3.0, 3.0))
        for objective in (SurfaceDice(3.0), "dice")
    ]
    left = [_nsd(result, 3.0, (3.0, 3.0, 3.0)) for result in results]
    assert results[0].backwards == results[1].backwards == 8
    assert left[0] < left[1] - 0.01, left
    assert float(1 - results[0].objective) == pytest.approx(left[0], abs=1e-4)
    assert results[0].success_rule == "normalized surface Dice at 3 mm below 50% of the clean one"


def test_mm_are_those_of_the_affine() -> None:
    model, image, label = example_case(16)
    attack = PGD(10, "HU", steps=2, objective=SurfaceDice(4.0))
    affine = torch.diag(torch.tensor([2.0, 5.0, 3.0, 1.0], dtype=torch.float64))
    told = attack(model, image.as_tensor(), label, spacing=(2.0, 5.0, 3.0))
    read = attack(model, MetaTensor(image.as_tensor(), affine=affine), label.as_tensor())
    assert torch.equal(told.objective, read.objective)
    other = attack(model, image.as_tensor(), label, spacing=(5.0, 2.0, 3.0))
    assert not torch.equal(told.objective, other.objective)


def test_windows_give_the_same_as_the_whole_volume() -> None:
    model, image, label = example_case(16)
    attack = PGD(10, "HU", steps=3, objective=SurfaceDice(4.0))
    inferer = SlidingWindowInferer((16, 16, 16), 1, 0.0)
    windowed = AttackedModel(model.network, inferer, intensity=model.intensity, image_units=model.image_units)
    whole, parts = (attack(one, image.as_tensor(), label, spacing=3.0) for one in (model, windowed))
    torch.testing.assert_close(parts.objective, whole.objective, rtol=0, atol=1e-3)


def test_what_it_cannot_do_is_said() -> None:
    model, image, label = example_case(16)
    plain = image.as_tensor()
    with pytest.raises(ValueError, match="spacing is missing: SurfaceDice"):
        PGD(10, "HU", objective=SurfaceDice())(model, plain, label)
    with pytest.raises(ValueError, match="targeted must be False with SurfaceDice"):
        PGD(10, "HU", objective=SurfaceDice(), targeted=True)(model, plain, label, spacing=3.0)
    with pytest.raises(ValueError, match="SurfaceDice needs a perturbation that leaves the anatomy"):
        ElasticAttack(objective=SurfaceDice())(model, plain, label, spacing=3.0)
    with pytest.raises(ValueError, match="tolerance must be"):
        SurfaceDice(0.0)
    with pytest.raises(ValueError, match="left must be"):
        SurfaceDice(left=1.5)
