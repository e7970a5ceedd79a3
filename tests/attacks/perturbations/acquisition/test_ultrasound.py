# SPDX-License-Identifier: Apache-2.0
"""The ultrasound pipeline against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import hilbert

from monai_adversarial.attacks import (
    RandomSearch,
    UltrasoundReconstruction,
    UltrasoundReconstructionAttack,
)
from monai_adversarial.attacks.perturbations.acquisition.ultrasound import envelope
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.helpers import random_label, tiny_segmentation_network

SHAPE = (24, 6, 5)
SPACING = 0.5


def echoes(seed: int = 0, batch: int = 1) -> np.ndarray:
    """Pulses of 5 MHz with random amplitudes."""
    random = np.random.default_rng(seed)
    carrier = np.cos(2 * np.pi * 0.2 * np.arange(SHAPE[0]))[:, None, None]
    return carrier * random.exponential(1.0, (batch, 1, *SHAPE))


def b_mode(amplitude: np.ndarray, dynamic_range: float = 60.0, gain: float = 0.0) -> np.ndarray:
    largest = amplitude.max(axis=(1, 2, 3, 4), keepdims=True)
    level = 20 * np.log10(np.maximum(amplitude / largest, 1e-30)) + gain
    return np.clip((level + dynamic_range) / dynamic_range, 0, 1)


def scene_of(image: np.ndarray) -> Scene:
    spacing = torch.full((len(image), 3), SPACING, dtype=torch.float64)
    return Scene(torch.as_tensor(image), tuple(range(len(image))), spacing, intensity=None)


@pytest.mark.parametrize("length", [23, 24])
def test_envelope_is_that_of_the_analytic_signal(length: int) -> None:
    data = echoes()[:, :, :length]
    np.testing.assert_allclose(envelope(torch.as_tensor(data), 2).numpy(), np.abs(hilbert(data, axis=2)), atol=1e-12)


@pytest.mark.parametrize("kind", ["rf", "envelope"])
def test_reconstruction_from_data(kind: str) -> None:
    data = echoes(batch=2)
    amplitude = np.abs(hilbert(data, axis=2))
    given = data if kind == "rf" else amplitude
    image = b_mode(amplitude)
    bound = UltrasoundReconstruction(given, kind, knots=3).bind(scene_of(image))
    rows = [[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]]
    curve = torch.tensor(rows, dtype=torch.float64)
    attenuation, dynamic_range, gain = (
        torch.tensor(values, dtype=torch.float64)[:, None] for values in ([0.2, -0.1], [10.0, -5.0], [1.0, -2.0])
    )
    found = bound._shown((curve, attenuation, dynamic_range, gain)).numpy()
    depth = np.arange(24)
    for n in range(2):
        tgc = np.interp(depth / 23, [0, 0.5, 1], rows[n])
        factor = 10 ** ((tgc + float(attenuation[n]) * depth * SPACING / 10 * 5.0) / 20)
        amplified = amplitude[n : n + 1] * factor[:, None, None]
        expected = b_mode(amplified, 60 + float(dynamic_range[n]), float(gain[n]))
        np.testing.assert_allclose(found[n : n + 1], expected, atol=1e-9)


def test_without_data_the_image_says_what_the_echoes_were() -> None:
    image = b_mode(np.abs(hilbert(echoes(), axis=2)), 25.0)  # some of it is black
    assert (image == 0).any() and image.max() == 1
    scene = scene_of(image)
    bound = UltrasoundReconstruction(dynamic_range=25.0, dynamic_ranges=(20.0, 40.0)).bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
    zero, wider = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 10.0, dtype=torch.float64)
    changed = bound.apply(scene.image, (torch.zeros(1, 5, dtype=torch.float64), zero, wider, zero))
    black = image == 0
    np.testing.assert_allclose(changed.numpy()[~black], 1 - (1 - image[~black]) * 25 / 35, atol=1e-9)
    assert bool((changed[torch.as_tensor(black)] == 0).all())


def test_data_of_another_image_are_refused() -> None:
    image = b_mode(np.abs(hilbert(echoes(), axis=2)))
    for data, kind, message in (
        (echoes(1), "rf", "it differs from the image"),
        (echoes()[..., :4], "rf", "on the image's grid"),
        (echoes(), "envelope", "pass kind='rf'"),
        (np.zeros_like(echoes()), "rf", "an echo in every sample"),
    ):
        with pytest.raises(ValueError, match=message):
            UltrasoundReconstruction(data, kind).bind(scene_of(image))
    with pytest.raises(ValueError, match="gray_scale must hold the image"):
        UltrasoundReconstruction().bind(scene_of(255 * image))
    with pytest.raises(ValueError, match="black < white"):
        UltrasoundReconstruction(gray_scale=(1.0, 0.0))
    large = UltrasoundReconstruction(echoes(), "rf", gray_scale=(0.0, 255.0)).bind(scene_of(255 * image))
    small = UltrasoundReconstruction(echoes(), "rf").bind(scene_of(image))
    parameters = small.random(small.scene.generators())
    torch.testing.assert_close(
        large.apply(large.scene.image, parameters), 255 * small.apply(small.scene.image, parameters)
    )
    with pytest.raises(ValueError, match="depth_axis must be one of"):
        UltrasoundReconstruction(depth_axis=3).bind(scene_of(image))
    with pytest.raises(ValueError, match="dynamic_ranges must be"):
        UltrasoundReconstruction(dynamic_range=90.0)


def test_by_queries_and_by_gradients() -> None:
    """Zeroth-order optimization finds more than random draws, and the gradient what 40 queries do not."""
    network = tiny_segmentation_network()
    image = torch.as_tensor(b_mode(np.abs(hilbert(echoes(), axis=2)))).float()
    label = random_label((1, 1, *SHAPE))
    model = AttackedModel(network)
    asked = UltrasoundReconstructionAttack(queries=40)(model, image, label, spacing=SPACING)
    assert asked.forwards == 42 and asked.backwards == 0
    drawn = UltrasoundReconstructionAttack(queries=40, search=RandomSearch())(model, image, label, spacing=SPACING)
    assert drawn.forwards == 42 and float(asked.objective) > float(drawn.objective)
    by_gradients = UltrasoundReconstructionAttack(queries=None, steps=10, objective="dice_ce")
    found = by_gradients(model, image, label, spacing=SPACING)
    assert found.backwards == 30 and float(found.objective) >= float(asked.objective) * 0.999
