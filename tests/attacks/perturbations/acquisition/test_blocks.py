# SPDX-License-Identifier: Apache-2.0
"""What holds for every block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_adversarial.attacks import Acquisition, BiasField, BudgetError, Chain, ElasticDeformation, Perturbation
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.acquisition.blocks import SHAPE, all_blocks, ct_blocks, mri_blocks, name_of
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene, leaves

EVERY = pytest.mark.parametrize("block", all_blocks(), ids=name_of)
INTENSITIES = pytest.mark.parametrize("block", [b for b in all_blocks() if name_of(b) != "GantryTilt"], ids=name_of)


def scene_of(batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0) -> Scene:
    return hounsfield_scene(SHAPE, batch=batch, dtype=dtype, seed=seed)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_is_the_identity_to_the_last_bit(block: Perturbation, dtype: torch.dtype) -> None:
    scene = scene_of(batch=2, dtype=dtype)
    bound = block.bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
    network = replace(scene, image=WINDOW(scene.image), image_units="network")
    bound = block.bind(network)
    assert torch.equal(bound.apply(network.image, bound.zeros()), network.image)


@EVERY
def test_gradcheck(block: Perturbation) -> None:
    """In the parameters and in the image, away from where a window or a range clips."""
    scene = scene_of(dtype=torch.float64)
    scene = replace(scene, image=(scene.image * 0.2 + 20).clamp(-100, 150))
    bound = block.bind(scene)
    parameters = leaves(tuple(0.37 * part for part in bound.random(scene.generators())))
    image = scene.image.clone().requires_grad_()
    # In single entries the same derivatives would take a minute.
    assert torch.autograd.gradcheck(
        lambda image, *given: bound.apply(image, given), (image, *parameters), fast_mode=True, atol=1e-4, eps=1e-6
    )


@EVERY
@pytest.mark.parametrize("size", [0.3, 1.0, 50.0])
@pytest.mark.parametrize("stored", [False, True])
def test_budget_holds_on_the_finished_image(block: Perturbation, size: float, stored: bool) -> None:
    scene = scene_of(batch=2)
    if stored:
        scene = replace(scene, image=scene.image.round(), stored=StoredGrid(low=-1024, high=3071))
    bound = block.bind(scene)
    generator = torch.Generator().manual_seed(0)
    wild = tuple(
        torch.randn(part.shape, generator=generator) * size * radius
        for part, radius in zip(bound.zeros(), bound.radii, strict=True)
    )
    parameters = bound.project(wild)
    finished = bound.finished(scene.image, parameters)
    measured = bound.verify(scene.image, finished, parameters)
    assert all(torch.isfinite(one.values).all() for one in measured.values())
    assert not torch.equal(finished, scene.image)
    assert not stored or torch.equal(finished, finished.round())
    again = bound.project(parameters)
    assert all(torch.equal(a, b) for a, b in zip(again, parameters, strict=True))


@EVERY
def test_too_much_is_refused(block: Perturbation) -> None:
    scene = scene_of()
    bound = block.bind(scene)
    inside = bound.random(scene.generators())
    beyond = tuple(2 * radius * torch.ones_like(part) for part, radius in zip(inside, bound.radii, strict=True))
    names = set(bound.measure_parameters(inside))  # type: ignore[attr-defined]
    with pytest.raises(BudgetError) as error:
        bound.verify(scene.image, bound.apply(scene.image, beyond), beyond)
    assert str(error.value).split()[0] in names
    changed = bound.apply(scene.image, inside)
    changed[0, 0, 4, 3, 2] += 30.0
    with pytest.raises(BudgetError, match="unexplained_change"):
        bound.verify(scene.image, changed, inside)


@EVERY
def test_a_sample_does_not_depend_on_its_neighbors(block: Perturbation) -> None:
    scene = scene_of(batch=3)
    bound = block.bind(scene)
    parameters = bound.random(scene.generators())
    together = bound.apply(scene.image, parameters)
    alone = scene.select([1])
    one = block.bind(alone)
    drawn = one.random(alone.generators())
    assert all(torch.equal(a[0], b[1]) for a, b in zip(drawn, parameters, strict=True))
    torch.testing.assert_close(one.apply(alone.image, drawn)[0], together[1], atol=1e-3, rtol=1e-5)


@INTENSITIES
def test_region_padding_and_clipped_voxels_keep_their_bits(block: Perturbation) -> None:
    scene = scene_of()
    image = scene.image.clone()
    image[..., 0] = -2000.0
    region = torch.ones(1, 1, *SHAPE, dtype=torch.bool)
    region[:, :, 0] = False
    scene = replace(scene, image=image, region=region)
    bound = block.bind(scene)
    changed = bound.finished(image, bound.random(scene.generators()))
    assert torch.equal(changed[..., 0], image[..., 0]) and torch.equal(changed[:, :, 0], image[:, :, 0])
    network = replace(scene, image=WINDOW(image), image_units="network", region=None)
    bound = block.bind(network)
    changed = bound.finished(network.image, bound.random(network.generators()))
    clipped = (network.image <= 0) | (network.image >= 1)
    assert bool(clipped.any()) and torch.equal(changed[clipped], network.image[clipped])
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1


@pytest.mark.parametrize("block", ct_blocks()[:4] + ct_blocks()[6:8], ids=name_of)
def test_network_values_are_hu_in_other_units(block: Perturbation) -> None:
    scene = scene_of(dtype=torch.float64)
    scene = replace(scene, image=(scene.image * 0.1 + 20).clamp(-100, 150))
    network = replace(scene, image=WINDOW(scene.image), image_units="network")
    first, second = block.bind(scene), block.bind(network)
    parameters = tuple(0.2 * part for part in first.random(scene.generators()))
    expected = WINDOW(first.apply(scene.image, parameters))
    torch.testing.assert_close(second.apply(network.image, parameters), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scaled", [0.0, 0.5])
def test_scaled_blocks_allow_so_much_of_it(scaled: float) -> None:
    scene = scene_of()
    for block in all_blocks():
        if name_of(block) == "SliceThickness":
            continue  # its thickness is scaled, and what is below the distance of slices adds nothing
        before, after = block.bind(scene), block.scaled(scaled).bind(scene)
        for wide, narrow in zip(before.radii, after.radii, strict=True):
            torch.testing.assert_close(narrow, wide * scaled, atol=1e-5, rtol=1e-5)


def test_an_acquisition_is_its_blocks_in_order() -> None:
    scene = scene_of(batch=2)
    blocks = [*ct_blocks(), *mri_blocks(), BiasField(0.2, domain="image")]
    bound = Acquisition(blocks).bind(scene)
    parameters = bound.random(scene.generators())
    expected, rest = scene.image, list(parameters)
    for block in blocks:
        one = block.bind(scene)
        own = tuple(rest.pop(0) for _ in one.zeros())
        expected = one.apply(expected, own)
    torch.testing.assert_close(bound.apply(scene.image, parameters), expected)
    measured = bound.verify(scene.image, bound.finished(scene.image, parameters), parameters)
    assert {"cupping", "dose", "5_dose", "gain_of_parameters", "ghost_amplitude"} <= set(measured)
    stored = replace(scene, image=scene.image.round(), stored=StoredGrid())
    bound = Acquisition(blocks).bind(stored)
    finished = bound.finished(stored.image, parameters)
    nearest = bound.apply(stored.image, parameters).round()
    assert float((finished - nearest).abs().max()) <= 1  # rounded once, not once for each block
    assert float((finished != nearest).float().mean()) < 0.01


def test_blocks_are_members_of_any_chain() -> None:
    scene = scene_of()
    mixed = Chain([ct_blocks()[2], ElasticDeformation(2.0, control_spacing=8.0)])
    bound = mixed.bind(scene)
    parameters = bound.random(scene.generators())
    measured = bound.verify(scene.image, bound.finished(scene.image, parameters), parameters)
    assert "0_Cupping_cupping" in measured
    with pytest.raises(TypeError, match="use a Chain"):
        Acquisition([ElasticDeformation(2.0)]).bind(scene)
