# SPDX-License-Identifier: Apache-2.0
"""A detector by attribution maps: those of clean images can be rebuilt from a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from monai_adversarial.detection.attributions import integrated_gradients
from monai_adversarial.detection.density import FeatureDetector, estimators
from monai_adversarial.detection.features import Features
from monai_adversarial.detection.windowed import Ask, Numbers, mean_over_windows, recomputed
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_count

__all__ = ["AttributionReconstruction", "CoarseAttributions"]

_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class CoarseAttributions(Features):
    """Attribution maps and their absolute values on a coarse grid, averaged over windows.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import CoarseAttributions
    >>> model, image, _ = example_case(16)
    >>> CoarseAttributions(model, grid=2, steps=2)(image, image).shape
    torch.Size([1, 16])

    Args:
        model: whose network is asked.
        grid: cells along each axis.
        steps: of the integral.
    """

    def __init__(self, model: AttackedModel, grid: int = 4, steps: int = 8) -> None:
        self.model, self.grid, self.steps = model, grid, steps

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        pool = _POOLS[image.ndim - 2]

        def look(ask: Ask, seen: torch.Tensor) -> Numbers:
            def numbers(windows: torch.Tensor) -> Numbers:
                found = integrated_gradients(self.model, ask, windows, self.steps)
                size = [min(self.grid, length) for length in found.shape[2:]]
                return tuple(pool(part, size).flatten(1).double() for part in (found, found.abs()))

            return recomputed(numbers, seen)

        return torch.cat(mean_over_windows(self.model, [image], like, look), dim=1)


class AttributionReconstruction(FeatureDetector):
    """Squared error of rebuilding the attribution map of an image from the principal components of clean ones.

    Attributions are integrated gradients of the logits of what is found, from an empty image, on a coarse grid. The
    attacker differentiates twice, as that of :class:`~monai_adversarial.detection.SaliencyConcentrationDetector`.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import AttributionReconstruction
    >>> model = example_case()[0]
    >>> detector = AttributionReconstruction(model, grid=2, steps=2)
    >>> detector = detector.fit(example_case(16, seed)[1] for seed in range(8))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 200) > detector.score(clean))
    True

    Args:
        model: an ``AttackedModel``, or a bare network; differentiable.
        components: principal components; at most 2 fewer than clean images.
        grid: cells of the map along each axis.
        steps: points of the integral, one forward and one backward pass each.

    Raises:
        ValueError: as :class:`~monai_adversarial.detection.density.FeatureDetector`.

    Source: Watson and Al Moubayed, Attack-agnostic Adversarial Detection on Medical Data Using Explainable Machine
    Learning, ICPR 2020, as the survey tells it: maps of GradientSHAP, rebuilt by a convolutional autoencoder, and a
    support vector machine on its error. Here one empty baseline, principal components (the linear autoencoder) and the
    error itself take their place.

    Survey entry: T03 (adapted).
    """

    def __init__(self, model: Any, components: int = 4, grid: int = 4, steps: int = 8) -> None:
        super().__init__(model)
        self.components = check_count("components", components)
        self.grid, self.steps = check_count("grid", grid), check_count("steps", steps)
        self.features = CoarseAttributions(self.model, self.grid, self.steps)

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        number = max(1, min(self.components, len(features) - 2, features.shape[1]))
        fitted = estimators("decomposition").PCA(number, svd_solver="full").fit(features.numpy())
        return {"axes": torch.from_numpy(fitted.components_.copy())}

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        rebuilt = features @ state["axes"].T @ state["axes"]
        return (features - rebuilt).square().mean(dim=1)
