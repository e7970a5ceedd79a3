# SPDX-License-Identifier: Apache-2.0
"""How an ultrasound image was made of echoes, as what an attack changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.base import Parameters, per_sample
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.intensity_map import Value
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import shown_window, window_share
from monai_adversarial.utils.smooth_basis import linear_matrix
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["BoundUltrasoundReconstruction", "UltrasoundReconstruction", "envelope"]

KINDS = ("envelope", "rf")
# Share of the gray scale by which a given image may differ from the reconstruction of its data.
SAME = 0.02


def envelope(echoes: torch.Tensor, axis: int) -> torch.Tensor:
    """Magnitude of the analytic signal of radio-frequency echoes along an axis, as ``abs(scipy.signal.hilbert(x))``."""
    length = echoes.shape[axis]
    weights = torch.zeros(length, dtype=echoes.dtype, device=echoes.device)
    weights[0] = 1.0
    weights[1 : (length + 1) // 2] = 2.0
    if length % 2 == 0:
        weights[length // 2] = 1.0
    shape = [1] * echoes.ndim
    shape[axis] = length
    return torch.fft.ifft(torch.fft.fft(echoes, dim=axis) * weights.view(shape), dim=axis).abs()


class UltrasoundReconstruction(AcquisitionBlock):
    """Time-gain compensation, attenuation, dynamic range and gain of a B-mode image.

    The envelope is amplified along the depth, brought to a largest value of 0 dB per sample, amplified by the overall
    gain and shown from ``-dynamic_range`` (black) to 0 dB (white). Without ``data`` the envelope is what the image
    says: echoes that the compression has made black stay black.

    >>> import torch
    >>> from monai_adversarial.attacks import Attack, UltrasoundReconstruction
    >>> from monai_adversarial.models import AttackedModel
    >>> network = torch.nn.Conv3d(1, 2, 3, padding=1)
    >>> image = torch.rand(1, 1, 16, 16, 16)  # B-mode, from 0 (black) to 1 (white)
    >>> attack = Attack(UltrasoundReconstruction(), "dice", steps=2)
    >>> result = attack(AttackedModel(network), image, spacing=0.3)
    >>> sorted(name for name in result.budgets if name != "outside_valid_range")[:3]
    ['attenuation', 'dynamic_range', 'gain']

    Args:
        data: envelope or radio-frequency echoes on the image's grid, (channel, spatial...) for all samples of a batch
            or (batch, channel, spatial...); None for the envelope that the image shows.
        kind: of ``data``: ``"envelope"`` or ``"rf"``.
        depth_axis: spatial axis along the beam; its first voxel is at the transducer.
        max_compensation: largest change of each knot of the time-gain curve in dB.
        knots: of the curve, evenly spaced over the depth, linear between them; at least 2.
        max_attenuation: largest change of the attenuation that is compensated, in dB / (cm * MHz).
        frequency: of the pulse in MHz.
        dynamic_range: with which the image was made, in dB.
        dynamic_ranges: lowest and highest one that an attack may choose, in dB.
        max_gain: largest change of the overall gain in dB.
        gray_scale: value of black and of white in the image; None for the window of the intensity map, and 0 and 1
            where none is known.

    Raises:
        ValueError: for a number out of range; when an image is known, for data on another grid, or whose reconstruction
            is not the image.

    Survey entry: A14 (reconstruction).

    Source: Byra et al. 2020, whose abstract alone was read: reconstruction parameters of radio-frequency data, attacked
    by zeroth-order optimization, with an attack success rate of 48 % on a classifier of fatty liver. The survey calls
    that a loss of accuracy, which it is not. Pipeline and ranges are ours.
    """

    budget_attributes = ("max_compensation", "max_attenuation", "max_gain")

    def __init__(
        self,
        data: Any = None,
        kind: str = "envelope",
        depth_axis: int = 0,
        max_compensation: float = 3.0,
        knots: int = 5,
        max_attenuation: float = 0.3,
        frequency: float = 5.0,
        dynamic_range: float = 60.0,
        dynamic_ranges: Sequence[float] = (40.0, 80.0),
        max_gain: float = 3.0,
        gray_scale: Sequence[float] | None = None,
    ) -> None:
        self.data = None if data is None else as_plain(as_tensor("data", data))
        self.kind = check_choice("kind", kind, KINDS)
        self.depth_axis = depth_axis
        self.max_compensation = check_positive("max_compensation", max_compensation, allow_zero=True)
        self.knots = check_count("knots", knots, minimum=2)
        self.max_attenuation = check_positive("max_attenuation", max_attenuation, allow_zero=True)
        self.frequency = check_positive("frequency", frequency)
        self.dynamic_range = check_positive("dynamic_range", dynamic_range)
        self.dynamic_ranges = tuple(check_positive("dynamic_ranges", one) for one in dynamic_ranges)
        if len(self.dynamic_ranges) != 2 or not self.dynamic_ranges[0] <= dynamic_range <= self.dynamic_ranges[1]:
            raise ValueError(
                f"dynamic_ranges must be (lowest, highest) in dB around dynamic_range={dynamic_range}, got "
                f"{tuple(dynamic_ranges)}."
            )
        self.max_gain = check_positive("max_gain", max_gain, allow_zero=True)
        self.gray_scale = None if gray_scale is None else tuple(float(one) for one in gray_scale)
        if self.gray_scale is not None and not (len(self.gray_scale) == 2 and self.gray_scale[0] < self.gray_scale[1]):
            raise ValueError(f"gray_scale must be (black, white) with black < white, got {tuple(gray_scale or ())}.")

    def scaled(self, factor: float) -> UltrasoundReconstruction:
        """The same reconstruction with ``factor`` times the range of every setting."""
        made = super().scaled(factor)
        assert isinstance(made, UltrasoundReconstruction)
        nominal = self.dynamic_range
        made.dynamic_ranges = tuple(max(nominal + factor * (edge - nominal), 1.0) for edge in self.dynamic_ranges)
        return made

    def bind(self, scene: Scene) -> BoundUltrasoundReconstruction:
        """Tie the reconstruction to a batch; ValueError where the spacing along the depth is not known."""
        return BoundUltrasoundReconstruction(self, scene)


def _gray_scale(block: UltrasoundReconstruction, scene: Scene) -> tuple[Value, Value]:
    """Black and white in image units."""
    low: Value = 0.0
    high: Value = 1.0
    if block.gray_scale is not None:
        low, high = block.gray_scale
    elif scene.intensity is not None and scene.intensity.window is not None:
        low, high = shown_window(scene)
    room = (high - low) * 1e-4
    if bool(((scene.image < low - room) | (scene.image > high + room)).any()):
        raise ValueError(
            "gray_scale must hold the image from black to white, but its values lie within "
            f"{float(scene.image.min()):.6g} to {float(scene.image.max()):.6g}: pass gray_scale=(black, white)."
        )
    return low, high


class BoundUltrasoundReconstruction(BoundAcquisitionBlock):
    """Changes of the curve in dB (batch, knots), of the attenuation in dB / (cm * MHz), of the dynamic range in dB and
    of the gain in dB, (batch, 1) each."""

    def __init__(self, block: UltrasoundReconstruction, scene: Scene) -> None:
        curve, attenuation, gain = block.max_compensation, block.max_attenuation, block.max_gain
        lowest, highest = (edge - block.dynamic_range for edge in block.dynamic_ranges)
        super().__init__(
            scene,
            (
                Variable("time_gain_compensation", "dB", (block.knots,), -curve, curve),
                Variable("attenuation", "dB / (cm * MHz)", (1,), -attenuation, attenuation),
                Variable("dynamic_range", "dB", (1,), lowest, highest),
                Variable("gain", "dB", (1,), -gain, gain),
            ),
        )
        dimensions = len(scene.spatial_shape)
        if not -dimensions <= block.depth_axis < dimensions:
            raise ValueError(f"depth_axis must be one of the {dimensions} spatial axes, got {block.depth_axis}.")
        axis = block.depth_axis % dimensions
        image, length = scene.image, scene.spatial_shape[axis]
        self.dynamic_range = block.dynamic_range
        self.low, self.high = _gray_scale(block, scene)
        self._shape = [1] * dimensions
        self._shape[axis] = length
        self.matrix = linear_matrix(length, block.knots).to(image)
        spacing = scene.require_spacing("the depth of ultrasound")[:, axis].to(image)
        # dB of one dB / (cm * MHz) at each depth, (batch, depth).
        self.depth = torch.arange(length, device=image.device) * spacing[:, None] / 10 * block.frequency
        shown = window_share(image, self.low, self.high)
        self.black: torch.Tensor | None = None
        if block.data is None:
            self.level = (shown - 1) * self.dynamic_range
            self.black = shown <= 0
        else:
            self.level = self._level(block, scene, axis)
        self.nominal = self._shown(self.zeros())
        if block.data is not None:
            difference = float((self.nominal - shown).abs().max())
            if difference > SAME:
                raise ValueError(
                    f"data must be what the image was made of: reconstructed with {self.dynamic_range:g} dB it differs "
                    f"from the image by {difference:.0%} of the gray scale."
                )

    def _level(self, block: UltrasoundReconstruction, scene: Scene, axis: int) -> torch.Tensor:
        """The envelope in dB below its largest value."""
        assert block.data is not None
        data = block.data.to(scene.image)
        data = data[None] if data.ndim == scene.image.ndim - 1 else data
        if data.shape[1:] != scene.image.shape[1:] or data.shape[0] not in (1, scene.batch):
            raise ValueError(
                f"data must be on the image's grid {tuple(scene.image.shape)}, got shape {tuple(block.data.shape)}."
            )
        amplitude = envelope(data, 2 + axis) if block.kind == "rf" else data
        if bool((amplitude < 0).any()):
            raise ValueError("data must be amplitudes >= 0, got negative ones: pass kind='rf' for echoes.")
        largest = amplitude.flatten(1).amax(dim=1)
        if bool((largest == 0).any()):
            raise ValueError("data must hold an echo in every sample, got one of zeros.")
        relative = amplitude / per_sample(largest, amplitude)
        return 20 * relative.clamp_min(torch.finfo(relative.dtype).tiny).log10()

    def _shown(self, parameters: Parameters) -> torch.Tensor:
        """The B-mode image, from 0 to 1."""
        curve, attenuation, dynamic_range, gain = parameters
        decibel = curve @ self.matrix.T + attenuation * self.depth
        level = self.level + decibel.view(-1, 1, *self._shape)
        level = level - per_sample(level.flatten(1).amax(dim=1), level) + per_sample(gain, level)
        width = self.dynamic_range + per_sample(dynamic_range, level)
        shown = ((level + width) / width).clamp(0, 1)
        return shown if self.black is None else torch.where(self.black, 0.0, shown)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return (self._shown(parameters) - self.nominal) * (self.high - self.low)
