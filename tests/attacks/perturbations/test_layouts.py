# SPDX-License-Identifier: Apache-2.0
"""Equal voxels are the same image, however they lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from monai_adversarial.attacks import PGD, Attack, ElasticAttack
from monai_adversarial.attacks.perturbations import (
    AdditiveNoise,
    AffineTransform,
    BiasField,
    Chain,
    ElasticDeformation,
    Perturbation,
    warp_class_map,
    warp_linear,
    warp_nearest,
)
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.plain import standard_layout
from monai_adversarial.utils.scene import case_seeds
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene

SHAPE = (10, 9, 8)


def fortran(volume: torch.Tensor) -> torch.Tensor:
    """The first axis fastest, as nibabel gives it."""
    order = tuple(reversed(range(volume.ndim)))
    return volume.permute(order).contiguous().permute(order)


def sliced(volume: torch.Tensor) -> torch.Tensor:
    wide = volume.repeat_interleave(2, dim=-1)
    return wide[..., ::2]


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels_last": lambda volume: volume.contiguous(memory_format=torch.channels_last_3d),
    "fortran": fortran,
    "sliced": sliced,
    "expanded": lambda volume: volume[:1].clone().expand(volume.shape),
}
PERTURBATIONS: dict[str, Perturbation] = {
    **{f"noise_{norm}": AdditiveNoise(6.0, norm, "HU") for norm in ("linf", "l2", "rms")},
    "legendre": BiasField(0.2),
    "bspline": BiasField(0.2, basis="bspline", control_spacing=10.0),
    "euclidean": ElasticDeformation(4.0, 10.0),
    "per_axis": ElasticDeformation(4.0, 10.0, diffeomorphic=False, norm="per_axis"),
    "affine": AffineTransform(),
    "chain": Chain([ElasticDeformation(4.0, 10.0), AdditiveNoise(6.0, units="HU")]),
}


def two_channels() -> torch.Tensor:
    return torch.cat([hounsfield_scene(SHAPE, batch=2, seed=seed).image for seed in (0, 5)], dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_perturbation_draws_and_makes_the_same(kind: str, layout: str) -> None:
    lay, perturbation = LAYOUTS[layout], PERTURBATIONS[kind]
    image = two_channels()
    if layout == "expanded":
        image = image[:1].repeat(2, 1, 1, 1, 1)
    label = (image[:, :1] / 100).round().clamp(0, 2).long()
    region = None if "noise" not in kind else image[:, :1] > -100
    found = []
    for change in (lambda volume: volume, lay):
        clean = change(image)
        scene = replace(
            hounsfield_scene(SHAPE, batch=2),
            image=clean,
            seeds=case_seeds(clean, 3),
            region=None if region is None else change(region),
        )
        bound = perturbation.bind(scene)
        drawn = bound.random(scene.generators())
        moved = bound.apply(scene.image, drawn)
        found.append(
            [
                *drawn,
                *bound.random_control(scene.generators(1), drawn),
                moved,
                bound.quantize(scene.image, moved, drawn),
                bound.move_label(change(label), drawn),
                bound.pull_back(change(image), drawn),
                *([bound.move_class_map(change(label)[:, 0], 3, drawn)] if bound.geometric else []),
                *[one.values for one in bound.verify(scene.image, moved, drawn).values()],
            ]
        )
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "attack", [PGD(8, "HU", steps=3), ElasticAttack(4.0, control_spacing=10.0, steps=2)], ids=["pgd", "elastic"]
)
def test_an_attack_finds_the_same(attack: Attack, layout: str) -> None:
    torch.manual_seed(0)
    convolutions = torch.nn.Conv3d(2, 8, 3, padding=1), torch.nn.Conv3d(8, 3, 3, padding=1)
    network = torch.nn.Sequential(convolutions[0], torch.nn.ReLU(), convolutions[1])
    model = AttackedModel(network, intensity=WINDOW, image_units="HU", precision="float32")
    image = two_channels()
    if layout == "expanded":
        image = image[:1].repeat(2, 1, 1, 1, 1)
    label = (image[:, :1] / 100).round().clamp(0, 2).long()
    lay = LAYOUTS[layout]
    plain = attack(model, image, label, spacing=2.0)
    other = attack(model, lay(image), lay(label), spacing=2.0)
    assert torch.equal(plain.adversarial, other.adversarial)
    assert torch.equal(plain.objective_history, other.objective_history)
    trained = [attack.perturb(model, change(image), change(label), spacing=2.0) for change in (lambda v: v, lay)]
    assert torch.equal(trained[0].adversarial, trained[1].adversarial)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_warps_take_every_layout(layout: str) -> None:
    lay = LAYOUTS[layout]
    image = two_channels()
    if layout == "expanded":
        image = image[:1].repeat(2, 1, 1, 1, 1)
    label = (image[:, 0] / 100).round().clamp(0, 2).long()
    displacement = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    if layout == "expanded":
        displacement = displacement[:1].repeat(2, 1, 1, 1, 1)
    laid = lay(label[:, None])[:, 0]
    assert torch.equal(warp_nearest(lay(image), lay(displacement)), warp_nearest(image, displacement))
    grads = []
    for one, moved, classes in ((image, displacement, label), (lay(image), lay(displacement), laid)):
        leaves = [one.detach().requires_grad_(), moved.detach().requires_grad_()]
        out = warp_linear(*leaves)
        soft = warp_class_map(classes, 3, leaves[1])
        grads.append([out, soft, *torch.autograd.grad((out.sum() + (soft[:, 1] * 3).sum()), leaves)])
    for plain, other in zip(*grads, strict=True):
        assert torch.equal(plain, other)


def test_the_standard_layout_copies_only_what_lies_otherwise() -> None:
    volume = torch.rand(2, 1, 3, 4, 5)
    assert standard_layout(volume) is volume
    # One channel: contiguous in both senses, with strides that make torch prefer channels last.
    last = volume.contiguous(memory_format=torch.channels_last_3d)
    assert standard_layout(last).stride() == volume.stride()
    assert torch.equal(standard_layout(fortran(volume)), volume)
