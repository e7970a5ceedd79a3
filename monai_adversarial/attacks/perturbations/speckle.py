# SPDX-License-Identifier: Apache-2.0
"""Speckle: noise in proportion to the signal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.gain import DOMAINS, BoundGain, check_domain_window
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["BoundSpeckleNoise", "SpeckleNoise"]

TRUNCATE = 3.0  # standard deviations of the grain


class SpeckleNoise(Perturbation):
    """Multiplicative noise of each voxel, ``value * (1 + n)`` with ``|n|`` at most ``rho``; zero stays zero.

    >>> from monai_adversarial.attacks import Attack, RandomSearch, SpeckleNoise
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> worst = Attack(SpeckleNoise(0.05, looks=4), "dice", RandomSearch(), steps=5)(model, image, label)  # worst of 5
    >>> best = Attack(SpeckleNoise(0.05), "dice", steps=5)(model, image, label)  # optimized
    >>> bool(best.adversarial_dice < worst.adversarial_dice)
    True

    Args:
        rho: largest relative change of a value, at most 1; 0 is the identity.
        grain: standard deviation in voxels of a Gaussian that smooths the noise; 0 for none.
        looks: random draws are those of multi-look ultrasound or radar, ``Gamma(looks, 1 / looks) - 1``, clipped to the
            budget; None for uniform ones. It changes random starts and random searches, not what an attack may do.
        domain: what is multiplied. ``"window"``: the value within the network's intensity window, from 0 to 1, voxels
            outside the window do not change. ``"attenuation"``: the linear attenuation, HU + 1000, so that air stays
            air; needs an image in HU. ``"image"``: the image's own values (ultrasound, MRI, network values).
        window: (low, high) in HU for ``domain="window"``; by default the window of the attack's intensity map.

    Raises:
        ValueError: for a number out of range, an unknown domain, or a window that is not low < high.

    Survey entry: A12 (adapted).

    Source: the speckle attack of Lal et al. 2021 (fundus photographs), ``x + x * n`` with random ``n``. Its variance
    could not be read, and rho 0.1 is ours, as are the domains for CT and the bound that an attack needs.
    """

    budget_attributes = ("rho",)

    def __init__(
        self,
        rho: float = 0.1,
        grain: float = 0.0,
        looks: float | None = None,
        domain: str = "window",
        window: Sequence[float] | None = None,
    ) -> None:
        self.rho = check_positive("rho", rho, allow_zero=True)
        if self.rho > 1:
            raise ValueError(f"rho must be at most 1, got {rho}.")
        self.grain = check_positive("grain", grain, allow_zero=True)
        self.looks = None if looks is None else check_positive("looks", looks)
        self.domain = check_choice("domain", domain, DOMAINS)
        self.window = check_domain_window(window)

    @property
    def units(self) -> str | None:
        """``"HU"`` where the domain or its window only makes sense for images that come in HU."""
        return "HU" if self.domain == "attenuation" or self.window is not None else None

    def bind(self, scene: Scene) -> BoundSpeckleNoise:
        """Tie the noise to a batch.

        Raises:
            ValueError: attenuation of an image that is not in HU, or an unknown intensity window.
        """
        return BoundSpeckleNoise(self, scene)


class BoundSpeckleNoise(BoundGain):
    """Speckle of one batch; the parameter is the noise before it is smoothed, (batch, channel, spatial...).

    >>> from monai_adversarial.attacks import SpeckleAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = SpeckleAttack(0.1, steps=2)(*example_case(16))
    >>> noise = result.bound.noise(result.parameters)
    >>> noise.shape, bool(noise.abs().max() <= 0.1001)
    (torch.Size([1, 1, 16, 16, 16]), True)
    """

    def __init__(self, perturbation: SpeckleNoise, scene: Scene) -> None:
        self.rho, self.looks = perturbation.rho, perturbation.looks
        super().__init__(scene, perturbation.domain, perturbation.window, 1 - self.rho, 1 + self.rho)
        self.kernel: torch.Tensor | None = None
        if perturbation.grain > 0:
            kernel = gaussian_1d(torch.tensor(perturbation.grain), TRUNCATE, approx="sampled", normalize=True)
            self.kernel = kernel.to(scene.image)

    @property
    def radii(self) -> Parameters:
        """The largest relative change."""
        return (self.scene.image.new_full((1,) * self.scene.image.ndim, self.rho),)

    def zeros(self) -> Parameters:
        """No noise."""
        return (torch.zeros_like(self.scene.image),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform in the budget, or that of multi-look speckle."""
        if self.looks is None:
            return super().random(generators)
        draws = []
        for sample, generator in zip(self.scene.image, generators, strict=True):
            looks = sample.new_full(sample.shape, self.looks)
            # torch's public gamma distribution knows no generator.
            draws.append(torch._standard_gamma(looks, generator=generator) / self.looks - 1)
        return self.project((torch.stack(draws),))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """The same relative changes with random signs."""
        (signs,) = self.zeros()
        for sample, generator in zip(signs, generators, strict=True):
            sample.uniform_(-1.0, 1.0, generator=generator).sign_()
        return (parameters[0].detach().abs() * signs,)

    def noise(self, parameters: Parameters) -> torch.Tensor:
        """The relative change of each voxel, (batch, channel, spatial...)."""
        if self.kernel is None:
            return parameters[0]
        return separable_filtering(parameters[0], [self.kernel] * len(self.scene.spatial_shape), mode="replicate")

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Multiply in the chosen domain."""
        return self.multiply(image, 1 + self.noise(parameters))

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The relative change: the smallest that explains the finished image, voxel by voxel, and that of the
        parameters."""
        with torch.no_grad():
            expected = self.finished(image, parameters)
        lowest, highest = self.gains(image, adversarial, expected, rounding)
        change = torch.maximum(lowest.clamp_min(1.0) - 1, 1 - highest.clamp_max(1.0))
        return {
            "speckle": Measurement(change.flatten(1).amax(dim=1), "fraction", self.rho),
            "speckle_of_parameters": Measurement(
                parameters[0].detach().abs().flatten(1).amax(dim=1), "fraction", self.rho
            ),
            **self.measure_surroundings_of_gain(image, adversarial, expected, rounding),
        }
