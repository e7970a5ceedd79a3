# SPDX-License-Identifier: Apache-2.0
"""How much answer and attribution change under a little noise."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.detection.attributions import confidence_of, gradient_of_answer
from monai_adversarial.detection.features import Features
from monai_adversarial.detection.gaussian import GaussianDensity
from monai_adversarial.detection.windowed import Ask, Numbers, mean_over_windows, recomputed
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_positive

__all__ = ["NoiseChanges", "NoiseSensitivity"]

_TINY = 1e-12


class NoiseChanges(Features):
    """Logarithms of the mean change of the probabilities, and of the relative change of the answer's gradient, under
    one fixed draw of Gaussian noise, averaged over windows.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import NoiseChanges
    >>> model, image, _ = example_case(16)
    >>> NoiseChanges(model)(image, image).shape
    torch.Size([1, 2])

    Args:
        model: whose network is asked.
        deviation: of the noise, in the network's values.
    """

    def __init__(self, model: AttackedModel, deviation: float = 0.02) -> None:
        self.model, self.deviation = model, deviation

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        def look(ask: Ask, seen: torch.Tensor) -> Numbers:
            # the same for every window, so that a score depends on the image alone
            draw = torch.randn(seen.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32)
            noise = self.deviation * draw.to(seen)

            def numbers(windows: torch.Tensor) -> Numbers:
                graph = torch.is_grad_enabled() and windows.requires_grad
                before, after = ask(windows), ask(windows + noise)
                kind = self.model.activation_of(before.shape[1])
                p, q = ((one.sigmoid() if kind == "sigmoid" else one.softmax(dim=1)) for one in (before, after))
                confidence = confidence_of(self.model, before)
                plain, noisy = (
                    gradient_of_answer(self.model, ask, one, confidence, graph)[0].flatten(1).double()
                    for one in (windows, windows + noise)
                )
                moved = (plain - noisy).abs().mean(dim=1)
                return (p - q).abs().flatten(1).double().mean(dim=1), moved, plain.abs().mean(dim=1)

            return recomputed(numbers, seen)

        answer, moved, size = mean_over_windows(self.model, [image], like, look)
        return torch.stack([(answer + _TINY).log(), ((moved + _TINY) / (size + _TINY)).log()], dim=1)


class NoiseSensitivity(GaussianDensity):
    """Squared Mahalanobis distance of two changes under noise from those of clean images: answer and attribution.

    The noise is one fixed draw. The attacker differentiates twice, as that of
    :class:`~monai_adversarial.detection.SaliencyConcentrationDetector`.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import NoiseSensitivity
    >>> model = example_case()[0]
    >>> detector = NoiseSensitivity(model).fit(example_case(16, seed)[1] for seed in range(6))
    >>> detector.score(example_case(16, 9)[1]).shape
    torch.Size([1])

    Args:
        model: an ``AttackedModel``, or a bare network; differentiable.
        deviation: standard deviation of the noise, in the network's values.

    Raises:
        ValueError: as :class:`~monai_adversarial.detection.density.FeatureDetector`, and for a deviation that is not
            above 0.

    Source: Zhang et al., PASA, Attack Agnostic Unsupervised Adversarial Detection Using Prediction and Attribution
    Sensitivity Analysis, 2024; only its abstract was read, so that this is a reconstruction. One Gaussian over both
    changes takes the place of thresholds.

    Survey entry: T08 (reconstruction).
    """

    def __init__(self, model: Any, deviation: float = 0.02) -> None:
        super().__init__(model)
        self.deviation = check_positive("deviation", deviation)
        self.features = NoiseChanges(self.model, self.deviation)
