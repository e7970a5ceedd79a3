# SPDX-License-Identifier: Apache-2.0
"""Networks of several trainings agree on clean images; an attack on one of them is not made for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from monai_adversarial.detection.squeezing import PredictionComparison
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.modules import modules_of, unwrap

__all__ = ["EnsembleDisagreement"]


class EnsembleDisagreement(PredictionComparison):
    """Mean disagreement (1 - Dice) between the model's answer and those of other models to the same image.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import EnsembleDisagreement
    >>> model, image, _ = example_case(16)
    >>> EnsembleDisagreement(model, [model]).score(image)  # it agrees with itself
    tensor([0.], dtype=torch.float64)

    Args:
        model: an ``AttackedModel``, or a bare network.
        others: the same for the other networks; images come to all of them in the units of ``model``.
        reduction: ``"max"`` or ``"mean"`` over foreground classes.

    Raises:
        ValueError: for no others.

    Source: own form; disagreement of ensembles as a sign of wrong segmentations is common, and no one paper is
    followed.

    Survey entry: T09 (own).
    """

    def __init__(self, model: Any, others: Sequence[Any], reduction: str = "mean") -> None:
        super().__init__(model, reduction)
        given = (others,) if isinstance(others, (nn.Module, AttackedModel)) else tuple(others)
        if not given:
            raise ValueError("others must hold at least one model, got none.")
        self.others = tuple(AttackedModel.wrap(one) for one in given)

    @property
    def networks(self) -> list[nn.Module]:
        """The modules of all models, each once."""
        found: list[nn.Module] = []
        for model in (self.model, *self.others):
            found += [one for one in modules_of(unwrap(model.network)) if all(one is not other for other in found)]
        return found

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        own = self._answer(image, like, smooth)
        found = [self._apart(own, self._answer(image, like, smooth, by=other)) for other in self.others]
        return torch.stack(found).mean(dim=0)
