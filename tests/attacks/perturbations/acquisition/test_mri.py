# SPDX-License-Identifier: Apache-2.0
"""Each MRI block against NumPy's Fourier transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_adversarial.attacks import Ghosting, LineMotion, MRIAcquisition, SpikeArtifact
from monai_adversarial.utils.scene import Scene


def body(shape: tuple[int, ...] = (12, 10, 6)) -> torch.Tensor:
    """Bright voxels in the middle, nothing around them."""
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    inner = tuple(slice(n // 3, n - n // 3) for n in shape)
    generator = torch.Generator().manual_seed(0)
    size = [part.stop - part.start for part in inner]
    image[(0, 0, *inner)] = 100 + 20 * torch.rand(size, generator=generator, dtype=torch.float64)
    return image


def scene_of(image: torch.Tensor) -> Scene:
    return Scene(image, (0,), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), image_units="HU")


@pytest.mark.parametrize(("period", "length"), [(2, 12), (3, 12), (4, 12)])
def test_ghosts_lie_a_period_of_the_field_of_view_away(period: int, length: int) -> None:
    image = body((length, 6, 4))
    bound = Ghosting(0.3, periods=(period,)).bind(scene_of(image))
    ghost = bound.apply(image, (torch.tensor([[0.2]], dtype=torch.float64),))[0, 0].numpy()
    clean, shift = image[0, 0].numpy(), length // period
    expected = np.abs(clean + 0.1 * np.roll(clean, shift, axis=0) + 0.1 * np.roll(clean, -shift, axis=0))
    np.testing.assert_allclose(ghost, expected, atol=1e-9)


def test_ghosting_scales_lines_of_k_space() -> None:
    image = body((11, 6, 4))  # odd, and no period divides it
    bound = Ghosting(0.3, periods=(3, 5), phase_axis=0).bind(scene_of(image))
    amplitudes = np.array([0.2, -0.1])
    found = bound.apply(image, (torch.as_tensor(amplitudes)[None],))[0, 0].numpy()
    lines = np.rint(np.fft.fftfreq(11) * 11)
    factor = 1 + 0.2 * np.cos(2 * np.pi * lines / 3) - 0.1 * np.cos(2 * np.pi * lines / 5)
    expected = np.abs(np.fft.ifftn(np.fft.fftn(image[0, 0].numpy()) * factor[:, None, None]))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
def test_motion_takes_lines_from_the_moved_body(axis: int) -> None:
    """Whole voxels, so that the moved body is known: lines of the shots before and after the center of k-space."""
    image = body()
    bound = LineMotion(4.0, 3.0, shots=3, phase_axis=axis).bind(scene_of(image))
    translations = torch.tensor([[[1.0, -2.0, 0.0], [-2.0, 0.0, 3.0]]], dtype=torch.float64)  # mm
    found = bound.apply(image, (translations, torch.zeros(1, 2, 3, dtype=torch.float64)))[0, 0].numpy()
    clean = image[0, 0].numpy()
    length = clean.shape[axis]
    shot = np.arange(length) * 3 // length  # of the lines from the lowest to the highest frequency
    k_space = np.fft.fftshift(np.fft.fft(clean, axis=axis), axes=axis)
    for number, moved in ((0, np.roll(clean, (-1, 1), (0, 1))), (2, np.roll(clean, (2, -1), (0, 2)))):
        lines = [slice(None)] * 3
        lines[axis] = np.flatnonzero(shot == number)
        k_space[tuple(lines)] = np.fft.fftshift(np.fft.fft(moved, axis=axis), axes=axis)[tuple(lines)]
    assert shot[length // 2] == 1
    expected = np.abs(np.fft.ifft(np.fft.ifftshift(k_space, axes=axis), axis=axis))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_motion_turns_the_body() -> None:
    """By a right angle, which needs no interpolation, in all lines but that of zero frequency."""
    image = body((12, 12, 3))
    image[:, :, 6:] *= 0.3
    scene = Scene(image, (0,), torch.ones(1, 3, dtype=torch.float64), image_units="HU")
    bound = LineMotion(1.0, 90.0, shots=12).bind(scene)
    rotation = torch.zeros(1, 11, 3, dtype=torch.float64)
    rotation[..., 2] = 90.0
    moved = bound.change_of_signal(image, (torch.zeros(1, 11, 3, dtype=torch.float64), rotation)).real + image
    largest = []
    for turns in (1, 3):
        lines = torch.fft.fft(torch.rot90(image, turns, (2, 3)), dim=2)
        lines[:, :, 0] = torch.fft.fft(image, dim=2)[:, :, 0]
        largest.append(float((moved - torch.fft.ifft(lines, dim=2).real).abs().max()))
    assert min(largest) < 1e-9 < 1 < max(largest)


def test_spikes_are_points_of_k_space() -> None:
    image = torch.full((1, 1, 16, 8, 8), 500.0, dtype=torch.float64)
    image[..., :4, :, :] = 400.0
    bound = SpikeArtifact(0.2, frequencies=((0.125, -0.25, 0.0),)).bind(scene_of(image))
    amplitude = torch.tensor([[[0.1, -0.15]]], dtype=torch.float64)
    change = (bound.apply(image, (amplitude,)) - image)[0, 0].numpy()
    spectrum = np.fft.fftn(change) / change.size
    peaks = np.argwhere(np.abs(spectrum) > 1e-9)
    assert sorted(map(tuple, peaks.tolist())) == [(2, 6, 0), (14, 2, 0)]
    # Of the range of 100 between the percentiles: (a - ib) / 2 at the frequency itself.
    np.testing.assert_allclose(spectrum[2, 6, 0], 100 * (0.1 + 0.15j) / 2, rtol=1e-6)


def test_no_signal_is_where_the_image_is_lowest() -> None:
    """Of a normalized image the magnitude counts from its background, not from zero."""
    raw = body()
    normalized = raw / 50 - 1.5
    parameters = (torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64),)
    first = Ghosting().bind(scene_of(raw)).apply(raw, parameters)
    second = Ghosting().bind(Scene(normalized, (0,))).apply(normalized, parameters)
    torch.testing.assert_close(second, first / 50 - 1.5, atol=1e-9, rtol=0)


def test_center_of_k_space_is_still_and_errors_are_said() -> None:
    bound = LineMotion(shots=4).bind(scene_of(body()))
    assert not any(bool(lines[0]) for lines in bound.lines_of)  # the line of zero frequency
    assert sum(int(lines.sum()) for lines in bound.lines_of) == 9
    with pytest.raises(ValueError, match="shots must be at most the 12 lines"):
        LineMotion(shots=13).bind(scene_of(body()))
    with pytest.raises(ValueError, match="phase_axis must be one of"):
        Ghosting(phase_axis=4).bind(scene_of(body()))
    with pytest.raises(ValueError, match="at least one period"):
        Ghosting(periods=())
    with pytest.raises(ValueError, match="-0.5 to 0.5"):
        SpikeArtifact(frequencies=((0.7, 0, 0),))
    with pytest.raises(ValueError, match="must give 3 numbers"):
        SpikeArtifact(frequencies=((0.1, 0.1),)).bind(scene_of(body()))
    assert len(MRIAcquisition().bind(scene_of(body())).zeros()) == 5
