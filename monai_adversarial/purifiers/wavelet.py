# SPDX-License-Identifier: Apache-2.0
"""Wavelet shrinkage with a noise level in HU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["WaveletDenoise", "WaveletDenoiseD", "WaveletDenoiseDict", "WaveletDenoised"]

#: median of the absolute values of noise with standard deviation 1
_MEDIAN_OF_NOISE = 0.6744897501960817
#: HU that an attack is taken to change a coefficient by (the transform is orthonormal: as much as a voxel)
_ATTACK_SPREAD = 6.0


class WaveletDenoise(Purifier):
    """Shrinks the detail coefficients of a wavelet transform with symmetric borders.

    By ``ptwt``'s separable transforms; on the CPU, where no gradient is asked for, by PyWavelets, which is faster. With
    ``strength=1`` equal to ``skimage.restoration.denoise_wavelet(rescale_sigma=False)`` to 1e-9 HU in float64 (5e-3 HU
    in float32).

    Differentiable almost everywhere: an attacker goes through it exactly, including through thresholds and the
    estimate of the noise, which depend on the image. With ``noise=None`` and for attacks of several HU that is a bad
    guide: the whole derivative of the estimate rests on the one or two coefficients that are the median. So there is a
    ``surrogate``: the shrinkage is replaced by its expectation when coefficients carry normal noise of 6 HU (at most
    a third of the threshold). So those below the threshold pass some gradient, and the derivative of the median is
    shared among the coefficients within about 3 HU of it. On noise of 10 HU plus an edge its derivative agrees better
    with what steps of 6 HU do than the exact derivative does, with soft shrinkage and ``noise=None`` much better
    (correlation 0.97 to 0.99 instead of 0 to 0.76); it does not with hard shrinkage of noise of 5 HU or less.

    >>> from monai_adversarial.transforms import WaveletDenoise
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> liver = label[0] == 2
    >>> told, estimated = (WaveletDenoise(noise=noise)(image[0])[liver].std() for noise in (10.0, None))
    >>> bool(told < 0.7 * image[0][liver].std()), bool((told - estimated).abs() < 0.5)  # HU
    (True, True)

    Args:
        wavelet: name of a discrete wavelet of PyWavelets; orthogonal ones (``"db2"``, ``"sym4"``) suit.
        levels: of the transform; None for three less than the image allows, but at least one. At most as many as
            leave one voxel of the longest axis (4 for 10 voxels), or 2.
        noise: standard deviation of the noise in HU; None to estimate it in each image and channel, as the median
            absolute value of the finest diagonal details over 0.67.
        mode: ``"soft"`` (all coefficients move towards zero by the threshold) or ``"hard"`` (those below it are cut).
        method: ``"VisuShrink"`` (one threshold, ``noise * sqrt(2 log(voxels))``) or ``"BayesShrink"`` (a threshold for
            each band, ``noise^2`` over the standard deviation of the signal; milder, and close to nothing on CT in HU,
            where air and bone make up that deviation).
        strength: factor on the thresholds; 1 as published. VisuShrink is known to smooth too much with 1.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Raises:
        ImportError: where ``ptwt`` is not installed.
        ValueError: for an argument out of range, and for more levels than the image allows.

    Source: Chang, Yu and Vetterli, 2000 (BayesShrink); Donoho and Johnstone, 1994 (VisuShrink). The surrogate is a
    reconstruction.

    Survey entry: P05 (adapted).
    """

    gradient = "exact"

    def __init__(
        self,
        wavelet: str = "sym4",
        levels: int | None = 2,
        noise: float | None = None,
        mode: str = "soft",
        method: str = "VisuShrink",
        strength: float = 0.7,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        if wavelet not in _libraries()[1].wavelist(kind="discrete"):
            raise ValueError(f"wavelet must be a discrete wavelet of PyWavelets such as 'sym4', got {wavelet!r}.")
        self.wavelet = wavelet
        self.levels = None if levels is None else check_count("levels", levels)
        self.noise = None if noise is None else check_positive("noise", noise)
        self.mode = check_choice("mode", mode, ("soft", "hard"))
        self.method = check_choice("method", method, ("BayesShrink", "VisuShrink"))
        self.strength = check_positive("strength", strength)

    @property
    def in_hounsfield(self) -> bool:
        """Only if the noise is given; otherwise it is estimated."""
        return self.noise is not None

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Denoise all samples and channels at once."""
        return self._denoise(image, _estimated_noise, self._shrink)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The same with smooth shrinkage, and the derivative of the noise estimate shared among many coefficients."""
        spread = self.hounsfield(_ATTACK_SPREAD)
        return self._denoise(
            image,
            lambda details: _smoothly_estimated_noise(details, spread / 2.0),
            lambda values, threshold: _smooth_shrinkage(values, threshold, spread, self.mode),
        )

    def _denoise(
        self,
        image: torch.Tensor,
        estimated_noise: Callable[[torch.Tensor], torch.Tensor],
        shrink: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        size = image.shape[2:]
        volumes = image.reshape(-1, *size)
        decompose, reconstruct = _transforms(volumes)
        approximation, *details = decompose(volumes, self.wavelet, self._levels(size))
        if self.noise is None:
            noise = estimated_noise(details[-1]["d" * len(size)])
        else:
            noise = volumes.new_full(volumes.shape[:1], self.hounsfield(self.noise))
        noise = noise.reshape(-1, *(1,) * len(size))
        visu = noise * math.sqrt(2.0 * math.log(math.prod(size))) if self.method == "VisuShrink" else None
        shrunk = [
            {
                band: shrink(values, self.strength * (_bayes_threshold(values, noise) if visu is None else visu))
                for band, values in level.items()
            }
            for level in details
        ]
        out = reconstruct([approximation, *shrunk], self.wavelet)
        return out[(slice(None), *(slice(length) for length in size))].reshape(image.shape)

    def _levels(self, size: torch.Size) -> int:
        if self.levels is not None:
            most = max(2, math.ceil(math.log2(max(size))))
            if self.levels > most:
                raise ValueError(
                    f"levels must be at most {most} for an image of {tuple(size)} voxels, got {self.levels}."
                )
            return self.levels
        return max(_libraries()[1].dwtn_max_level(tuple(size), self.wavelet) - 3, 1)

    def _shrink(self, values: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        if self.mode == "soft":
            return values - torch.maximum(torch.minimum(values, threshold), -threshold)
        return values.where(values.abs() >= threshold, 0.0)


def _libraries() -> tuple[Any, Any]:
    """``ptwt`` and the PyWavelets that it stands on; imported late, as they are optional."""
    try:
        import ptwt
        import pywt
    except ImportError as error:
        raise ImportError("WaveletDenoise needs ptwt: install the extra 'wavelet' (pip install ptwt).") from error
    return ptwt, pywt


def _transforms(volumes: torch.Tensor) -> tuple[Callable[..., list[Any]], Callable[..., torch.Tensor]]:
    """Decomposition into an approximation and one mapping of bands per level, coarsest first, and its inverse."""
    ptwt, _ = _libraries()
    if volumes.is_cpu and not (torch.is_grad_enabled() and volumes.requires_grad):
        return _decompose_on_cpu, _reconstruct_on_cpu
    rank = volumes.ndim - 1
    forward, inverse = {
        1: (ptwt.wavedec, ptwt.waverec),
        2: (ptwt.fswavedec2, ptwt.fswaverec2),
        3: (ptwt.fswavedec3, ptwt.fswaverec3),
    }[rank]

    def decompose(volumes: torch.Tensor, wavelet: str, levels: int) -> list[Any]:
        approximation, *details = forward(volumes, wavelet, mode="symmetric", level=levels)
        return [approximation, *(details if rank > 1 else ({"d": values} for values in details))]

    def reconstruct(coefficients: list[Any], wavelet: str) -> torch.Tensor:
        approximation, *details = coefficients
        return inverse((approximation, *(details if rank > 1 else (level["d"] for level in details))), wavelet)

    return decompose, reconstruct


def _decompose_on_cpu(volumes: torch.Tensor, wavelet: str, levels: int) -> list[Any]:
    """The same by PyWavelets, which is faster on the CPU."""
    _, pywt = _libraries()
    axes = tuple(range(1, volumes.ndim))
    approximation, details = volumes.detach().numpy(), []
    for _ in range(levels):
        bands = pywt.dwtn(approximation, wavelet, mode="symmetric", axes=axes)
        approximation = bands.pop("a" * len(axes))
        details.append({band: torch.from_numpy(values) for band, values in bands.items()})
    return [torch.from_numpy(approximation), *reversed(details)]


def _reconstruct_on_cpu(coefficients: list[Any], wavelet: str) -> torch.Tensor:
    _, pywt = _libraries()
    out = coefficients[0].numpy()
    axes = tuple(range(1, out.ndim))
    for level in coefficients[1:]:
        bands = {band: values.numpy() for band, values in level.items()}
        # an odd size has come back one longer
        bands["a" * len(axes)] = out[tuple(slice(length) for length in bands["d" * len(axes)].shape)]
        out = pywt.idwtn(bands, wavelet, mode="symmetric", axes=axes)
    return torch.from_numpy(out)


def _estimated_noise(details: torch.Tensor) -> torch.Tensor:
    """Robust standard deviation of each sample, without coefficients that are exactly zero (constant regions)."""
    estimates = []
    for values in details.abs().flatten(1):
        values = values[values > 0]
        if len(values) == 0:
            estimates.append(details.new_zeros(()))
            continue
        lower, upper = (values.kthvalue(k).values for k in ((len(values) + 1) // 2, len(values) // 2 + 1))
        estimates.append((lower + upper) / (2.0 * _MEDIAN_OF_NOISE))
    return torch.stack(estimates)


def _smoothly_estimated_noise(details: torch.Tensor, width: float) -> torch.Tensor:
    """The same values; their derivative is the mean over the coefficients within about ``width`` of the median."""
    estimate = _estimated_noise(details.detach())
    size = details.abs().flatten(1)
    away = (size.detach() - _MEDIAN_OF_NOISE * estimate[:, None]) / width
    weight = torch.exp(-0.5 * away.square()) * (size > 0)
    mean = (weight * (size - size.detach())).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-12)
    return estimate + mean / _MEDIAN_OF_NOISE


def _smooth_shrinkage(values: torch.Tensor, threshold: torch.Tensor, spread: float, mode: str) -> torch.Tensor:
    """Expectation of the shrinkage when ``values`` carry normal noise of ``spread``, at most a third of the threshold
    (then the noise of the attack is not small against the image's own)."""
    largest = values.detach().abs().amax(dim=tuple(range(1, values.ndim)), keepdim=True)
    threshold = threshold.minimum(largest + 10.0 * spread)  # infinite ones
    width = (threshold.detach() / 3.0).clamp(0.01 * spread, spread)
    above, below = (values - threshold) / width, (-values - threshold) / width
    passed, passed_below = torch.special.ndtr(above), torch.special.ndtr(below)
    density = torch.exp(-0.5 * above.square()) - torch.exp(-0.5 * below.square())
    density = density / math.sqrt(2.0 * math.pi)
    soft = width * (above * passed - below * passed_below + density)
    return soft if mode == "soft" else soft + threshold * (passed - passed_below)


def _bayes_threshold(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noise variance over standard deviation of the signal, for each sample; infinite where all is noise."""
    variance = noise.square()
    signal = values.square().mean(dim=tuple(range(1, values.ndim)), keepdim=True) - variance
    some = signal > 0
    return torch.where(some, variance / signal.where(some, 1.0).sqrt(), math.inf)


WaveletDenoiseD = WaveletDenoiseDict = WaveletDenoised = dictionary_form(
    WaveletDenoise,
    """
    >>> from monai_adversarial.transforms import WaveletDenoised
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> hard = WaveletDenoised("image", wavelet="db2", noise=10.0, mode="hard", levels=1)({"image": image[0]})["image"]
    >>> bool(hard.std() < image.std())
    True
    >>> WaveletDenoised("image", wavelet="sym400")
    Traceback (most recent call last):
    ValueError: wavelet must be a discrete wavelet of PyWavelets such as 'sym4', got 'sym400'.
    """,
)
