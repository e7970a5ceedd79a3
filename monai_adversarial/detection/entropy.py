# SPDX-License-Identifier: Apache-2.0
"""How sure a model is, voxel by voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from monai_adversarial.detection.answers import predictor_of, probabilities_of
from monai_adversarial.detection.base import Detector
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.validation import check_flag

__all__ = ["PredictionEntropy"]


class PredictionEntropy(Detector):
    """Mean entropy of the predicted probabilities, or how far it is from that of clean images.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import PredictionEntropy
    >>> model, image, _ = example_case(16)
    >>> detector = PredictionEntropy(model).fit(example_case(16, seed)[1] for seed in range(1, 6))
    >>> bool(detector.score(image + 40) > detector.score(image))
    True

    Args:
        model: an ``AttackedModel``, or a bare network.
        two_sided: the score is the distance from the mean of clean images in their standard deviations, because an
            attack may make a model too sure as well; otherwise the entropy itself, from 0 to 1.

    Raises:
        ValueError: for fewer than 2 clean images, or images with the same entropy.

    Source: own form; entropy of segmentations as a sign of attacks is that of Maag and Fischer as the survey names it,
    whose paper was not read.
    """

    def __init__(self, model: Any, two_sided: bool = True) -> None:
        super().__init__(model)
        self.two_sided = check_flag("two_sided", two_sided)

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        found = torch.cat([self._entropy(detached(batch), batch).double().cpu() for batch in batches])
        if len(found) < 2 or not float(found.std()) > 0:
            raise ValueError(
                f"images must hold at least 2 clean cases of different entropy, got {len(found)} with "
                f"{found.tolist()[:2]}."
            )
        self.state = {"mean": found.mean(), "deviation": found.std()}

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        found = self._entropy(image, like)
        if not self.two_sided:
            return found
        return ((found - self.state["mean"].to(found)) / self.state["deviation"].to(found)).abs()

    def _entropy(self, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and image.requires_grad:
            p = probabilities_of(self.model, image, like)
            return _entropies(p, self._activation(p.shape[1])).flatten(1).double().mean(dim=1)
        total = torch.zeros(image.shape[0], dtype=torch.float64, device=image.device)
        voxels = 0

        def look(rows: slice, where: tuple[slice, ...], logits: torch.Tensor) -> None:
            nonlocal voxels
            kind = self._activation(logits.shape[1])
            p = logits.sigmoid() if kind == "sigmoid" else logits.softmax(dim=1)
            found = _entropies(p, kind).flatten(1).double()
            total[rows] += found.sum(dim=1)
            voxels += found.shape[1] * found.shape[0]

        # piece by piece: no volume of probabilities
        predictor_of(self.model, image, like).answer(image, look_at_pieces=look)
        return total / (voxels / image.shape[0])

    def _activation(self, classes: int) -> str:
        return self.model.activation_of(classes)


def _entropies(p: torch.Tensor, activation: str) -> torch.Tensor:
    """Entropy per decision, as a share of the largest possible one, (batch, 1 or class, spatial...)."""
    if activation == "sigmoid":
        tiny = torch.finfo(p.dtype).tiny
        q = 1 - p
        return -(p * p.clamp_min(tiny).log() + q * q.clamp_min(tiny).log()) / math.log(2)
    tiny = torch.finfo(p.dtype).tiny  # the derivative of p log p at 0 is infinite
    return -(p * p.clamp_min(tiny).log()).sum(dim=1, keepdim=True) / math.log(p.shape[1])
