# SPDX-License-Identifier: Apache-2.0
"""Each CT block against a formula of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import shift

from monai_adversarial.attacks import (
    ContrastPhase,
    Cupping,
    DoseReduction,
    GantryTilt,
    MetalStreaks,
    ReconstructionKernel,
    RingArtifact,
    SliceThickness,
    WindowShift,
)
from monai_adversarial.utils.scene import Scene
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene

SPACING = (1.0, 2.0, 3.0)


def scene_of(image: torch.Tensor, spacing: tuple[float, ...] = SPACING) -> Scene:
    return Scene(image, (0,), torch.tensor([spacing], dtype=torch.float64), None, WINDOW, "HU")


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def flat(shape: tuple[int, ...], value: float = 40.0) -> torch.Tensor:
    return torch.full((1, 1, *shape), value, dtype=torch.float64)


def test_window_shift_is_the_map_of_the_other_window() -> None:
    """What the network sees of the changed image is what it would have seen through the other window."""
    scene = hounsfield_scene(dtype=torch.float64)
    bound = WindowShift(50, 0.5).bind(scene)
    level, width = 37.5 + 20, 425 * 1.1
    changed = bound.apply(scene.image, (one(20.0), one(0.1)))
    expected = ((scene.image - (level - width / 2)) / width).clamp(0, 1)
    torch.testing.assert_close(WINDOW(changed), expected, atol=1e-12, rtol=0)


def test_kernel_scales_waves_by_its_response() -> None:
    """A cosine of the mirrored grid comes out times one plus the response at its frequency, in mm."""
    n, m = 16, 8
    bound = ReconstructionKernel(0.5, bands=4).bind(scene_of(flat((n, m, 2))))
    response = torch.tensor([[0.1, -0.2, 0.3, 0.4]], dtype=torch.float64)
    for i, j in ((0, 0), (4, 0), (0, 3), (7, 2), (15, 7)):
        wave = np.cos(np.pi * i * (np.arange(n) + 0.5) / n)[:, None] * np.cos(np.pi * j * (np.arange(m) + 0.5) / m)
        image = torch.as_tensor(wave)[None, None, :, :, None].expand(1, 1, n, m, 2) * 100
        cycles_per_mm = np.hypot(i / (2 * n * SPACING[0]), j / (2 * m * SPACING[1]))
        share = cycles_per_mm / (1 / (2 * SPACING[0]))  # of the Nyquist frequency of the finer axis
        factor = 1 + np.interp(share, np.arange(5) / 4, [0.0, 0.1, -0.2, 0.3, 0.4])
        np.testing.assert_allclose(bound.apply(image, (response,)).numpy(), image.numpy() * factor, atol=1e-9)


def test_dose_adds_noise_of_the_size_that_the_dose_says() -> None:
    image = flat((48, 48, 8))
    for texture in ("ramp", "white"):
        bound = DoseReduction(0.25, noise=12, texture=texture).bind(scene_of(image, (1.0, 1.0, 3.0)))
        assert float(bound.radii[0]) == pytest.approx(12 * 3**0.5)
        added = (bound.apply(image, (one(12.0),)) - image)[0, 0].numpy()
        assert added.std() == pytest.approx(12.0, rel=1e-6)
        measured = bound.measure_parameters((one(12.0),))
        assert float(measured["dose"].values) == pytest.approx(0.5)  # twice the variance in all
        again = DoseReduction(0.25, texture=texture).bind(scene_of(image, (1.0, 1.0, 3.0)))
        assert torch.equal(again.field, bound.field)
        power = np.abs(np.fft.fft2(added, axes=(0, 1))) ** 2
        low, middle = power[:2, :2].mean(), power[9:13, :4].mean()
        assert (middle > 3 * low) == (texture == "ramp")
    full = DoseReduction(1.0).bind(scene_of(image))
    assert torch.equal(full.apply(image, full.random(full.scene.generators())), image)


@pytest.mark.parametrize("thickness", [3.0, 4.0, 9.0, 10.5])
def test_thickness_is_a_box_in_mm(thickness: float) -> None:
    """Against a mean over 300 points per slice of the image that is constant within slices."""
    image = hounsfield_scene((3, 2, 9), dtype=torch.float64).image
    bound = SliceThickness(12.0).bind(scene_of(image))
    changed = bound.apply(image, (one(thickness - 3.0),))
    points = 300
    fine = np.repeat(np.pad(image[0, 0].numpy(), ((0, 0), (0, 0), (6, 6)), mode="edge"), points, axis=2)
    half = round(thickness / 3.0 * points / 2)
    for z in range(9):
        center = (z + 6) * points + points // 2
        expected = fine[..., center - half : center + half].mean(axis=2)
        np.testing.assert_allclose(changed[0, 0, :, :, z].numpy(), expected, atol=1e-9)
    assert float(bound.radii[0]) == 9.0
    assert float(SliceThickness(2.0).bind(scene_of(image)).radii[0]) == 0.0


def test_cupping_is_a_paraboloid() -> None:
    image = flat((9, 7, 4))
    bound = Cupping(30, radius=5.0).bind(scene_of(image))
    change = (bound.apply(image, (one(-20.0),)) - image)[0, 0].numpy()
    x, y = (np.arange(9) - 4) * 1.0, (np.arange(7) - 3) * 2.0
    radius = np.hypot(x[:, None], y[None, :])
    expected = np.where(radius < 5, -20 * (1 - radius**2 / 25), 0.0)
    np.testing.assert_allclose(change, np.repeat(expected[:, :, None], 4, axis=2), atol=1e-9)
    assert change[4, 3, 0] == pytest.approx(-20)


def test_rings_are_round_in_mm() -> None:
    image = flat((41, 21, 2))
    bound = RingArtifact(20, rings=2, width=2.0).bind(scene_of(image))
    heights = torch.tensor([[12.0, -7.0]], dtype=torch.float64)
    change = (bound.apply(image, (heights,)) - image)[0, 0].numpy()
    radius = np.hypot(np.arange(41)[:, None] - 20.0, 2.0 * (np.arange(21)[None, :] - 10.0))
    expected = np.zeros_like(radius)
    for height, place in ((12.0, 41 / 2 * 0.25), (-7.0, 41 / 2 * 0.75)):
        expected += height * np.clip(1 - np.abs(radius - place) / 2.0, 0, None)
    np.testing.assert_allclose(change[..., 0], expected, atol=1e-9)
    np.testing.assert_array_equal(change[..., 0], change[..., 1])


def test_streaks_go_through_the_metal() -> None:
    image = flat((31, 31, 3))
    block = MetalStreaks(100, position=(5.0, -4.0, 2.0), streaks=2, width=0.5, reach=50.0, extent=2.0)
    bound = block.bind(scene_of(image, (1.0, 1.0, 2.0)))
    heights = torch.tensor([[80.0, -60.0]], dtype=torch.float64)
    change = (bound.apply(image, (heights,)) - image)[0, 0].numpy()
    assert change[20, 11, 2] == pytest.approx(20.0)  # both at full height in the metal's slice
    assert change[30, 11, 2] == pytest.approx(80 * np.exp(-10 / 50))  # the first runs along the first axis
    assert change[20, 1, 2] == pytest.approx(-60 * np.exp(-10 / 50))
    assert change[20, 1, 1] == pytest.approx(-60 * np.exp(-10 / 50 - 0.5))
    assert abs(change[27, 18, 2]) < 1e-9
    with pytest.raises(ValueError, match="position must give 3 numbers"):
        MetalStreaks(position=(0.0, 0.0)).bind(scene_of(image))


def test_contrast_phase_moves_organs_as_a_whole() -> None:
    image = flat((4, 4, 4))
    masks = torch.zeros(2, 4, 4, 4)
    masks[0, :2] = 1
    masks[1, 2:] = 0.25
    bound = ContrastPhase(masks, 40).bind(scene_of(image))
    change = bound.apply(image, (torch.tensor([[10.0, -20.0]], dtype=torch.float64),)) - image
    assert bool((change[:, :, :2] == 10).all()) and bool((change[:, :, 2:] == -5).all())
    for wrong, message in (
        (torch.zeros(1, 4, 4, 4), "organ 0 is empty"),
        (torch.ones(1, 4, 4, 5), "masks must be"),
        (torch.ones(3, 1, 4, 4, 4), "masks must be"),
    ):
        with pytest.raises(ValueError, match=message):
            ContrastPhase(wrong).bind(scene_of(image))
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        ContrastPhase(torch.full((1, 4, 4, 4), 2.0))


def test_tilt_shifts_slices_and_moves_the_label() -> None:
    scene = hounsfield_scene((6, 12, 5), dtype=torch.float64)
    bound = GantryTilt(40).bind(scene)
    angle = float(np.degrees(np.arctan(2 / 3)))  # one voxel of 2 mm for each slice of 3 mm
    moved = bound.apply(scene.image, (one(angle),))
    label = torch.zeros(1, 1, 6, 12, 5)
    label[:, :, :, 4:8] = 1
    tilted = bound.move_label(label, (one(angle),))
    for z in range(5):
        expected = shift(scene.image[0, 0, :, :, z].numpy(), (0, 2 - z), order=1, mode="nearest")
        np.testing.assert_allclose(moved[0, 0, :, :, z].numpy(), expected, atol=1e-9)
        assert tilted[0, 0, 0, :, z].nonzero().flatten().tolist() == list(range(6 - z, 10 - z))
    back = bound.pull_back(tilted, (one(angle),), "nearest")
    assert torch.equal(back[:, :, :, 4:8], label[:, :, :, 4:8])
    measured = bound.measure(scene.image, moved, (one(angle),))
    assert float(measured["displacement_euclidean"].values) == pytest.approx(4.0, rel=1e-6)


def test_what_is_missing_or_wrong_is_said() -> None:
    image = flat((6, 6, 4))
    nowhere = Scene(image, (0,), None, None, WINDOW, "HU")
    for block in (Cupping(), RingArtifact(), ReconstructionKernel(), SliceThickness(), MetalStreaks(), GantryTilt()):
        with pytest.raises(ValueError, match="spacing is missing"):
            block.bind(nowhere)
    unknown = Scene(image, (0,), torch.ones(1, 3, dtype=torch.float64))
    for block in (Cupping(), RingArtifact(), MetalStreaks(), DoseReduction(texture="white")):
        with pytest.raises(ValueError, match="pass intensity="):
            block.bind(unknown)
    slice_ = Scene(image[..., 0], (0,), torch.ones(1, 2, dtype=torch.float64), None, WINDOW, "HU")
    for block in (SliceThickness(), GantryTilt()):
        with pytest.raises(ValueError, match="must be a volume"):
            block.bind(slice_)
    with pytest.raises(ValueError, match="axial_axis must be one of the 3"):
        Cupping(axial_axis=3).bind(scene_of(image))
    for make, message in (
        (lambda: WindowShift(max_width=1.0), "max_width must be below 1"),
        (lambda: ReconstructionKernel(1.0), "max_change must be below 1"),
        (lambda: DoseReduction(1.5), "least_dose must be at most 1"),
        (lambda: GantryTilt(45), "max_angle must be below 45"),
        (lambda: Cupping(-1), "max_depth"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    region = torch.ones(1, 1, 6, 6, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="region must be None"):
        GantryTilt().bind(replace(scene_of(image), region=region))


def test_slices_may_lie_along_the_first_axis() -> None:
    scene = hounsfield_scene((5, 7, 9), spacing=(3.0, 2.0, 2.0), dtype=torch.float64)
    turned = replace(scene, image=scene.image.movedim(2, 4), spacing=scene.spacing[:, [1, 2, 0]])  # type: ignore[index]
    for make in (Cupping, RingArtifact, ReconstructionKernel, SliceThickness):
        first, last = make(axial_axis=0).bind(scene), make(axial_axis=-1).bind(turned)
        parameters = first.random(scene.generators())
        changed = first.apply(scene.image, parameters).movedim(2, 4)
        torch.testing.assert_close(changed, last.apply(turned.image, parameters))
