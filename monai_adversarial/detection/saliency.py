# SPDX-License-Identifier: Apache-2.0
"""Where a model looks: an attacked image is often decided by fewer or other voxels than a clean one."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.detection.attributions import gradient_of_answer
from monai_adversarial.detection.features import Features
from monai_adversarial.detection.gaussian import GaussianDensity
from monai_adversarial.detection.windowed import Ask, Numbers, mean_over_windows, recomputed
from monai_adversarial.metrics.concentration import concentration
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["SaliencyConcentrationDetector", "SaliencyNumbers"]

_TINY = 1e-30


def _numbers(saliency: torch.Tensor) -> torch.Tensor:
    """Concentration and the logarithm of the mean of (window, voxel) above 0: (window, 5), float64."""
    wide = saliency.double() + _TINY
    return torch.stack([*concentration(wide).values(), wide.mean(dim=1).log()], dim=1)


class SaliencyNumbers(Features):
    """How concentrated the gradient of the answer is, averaged over the windows that find something.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import SaliencyNumbers
    >>> model, image, _ = example_case(16)
    >>> SaliencyNumbers(model)(image, image).shape
    torch.Size([1, 5])

    Args:
        model: whose network is asked.
    """

    def __init__(self, model: AttackedModel) -> None:
        self.model = model

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        def look(ask: Ask, seen: torch.Tensor) -> Numbers:
            def numbers(windows: torch.Tensor) -> Numbers:
                gradient, any_found = gradient_of_answer(self.model, ask, windows)
                # the root has no derivative at 0, its square has
                saliency = (gradient.square().amax(dim=1).flatten(1) + _TINY).sqrt()
                counted = any_found.double()
                return _numbers(saliency) * counted[:, None], counted

            return recomputed(numbers, seen)

        found, counted = mean_over_windows(self.model, [image], like, look)
        return found / counted.clamp_min(_TINY)[:, None]


class SaliencyConcentrationDetector(GaussianDensity):
    """Squared Mahalanobis distance of the concentration of saliency from that of clean images.

    Saliency is the absolute gradient of the logits of what is found with respect to the voxels; its concentration are
    Gini coefficient, entropy, parts of the top 1 % and 5 %, and size. The attacker differentiates twice: exactly, but
    for ReLU and its like, whose slope has no derivative. They get one (``utils.kinks.RoundedKinks``): nothing would
    lead an attacker of a network of ReLU to another saliency, and the detector would look better than it is.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import SaliencyConcentrationDetector
    >>> model = example_case()[0]
    >>> detector = SaliencyConcentrationDetector(model).fit(example_case(16, seed)[1] for seed in range(8))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model: an ``AttackedModel``, or a bare network; differentiable.

    Raises:
        ValueError: as :class:`~monai_adversarial.detection.density.FeatureDetector`.

    Source: Ma et al., Understanding Adversarial Attacks on Deep Learning Based Medical Image Analysis Systems, Pattern
    Recognition 2021, look at saliency maps of attacked images; a detector by their concentration is a reconstruction
    from the survey.

    Survey entry: T06 (reconstruction).
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.features = SaliencyNumbers(self.model)
