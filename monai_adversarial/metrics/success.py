# SPDX-License-Identifier: Apache-2.0
"""When an attack counts as successful: one rule for attacks, handlers and studies."""

from __future__ import annotations

from typing import TypeVar

import torch

__all__ = ["success", "success_count", "success_rule", "wrong_fraction"]

Number = TypeVar("Number", float, torch.Tensor)


def success(clean: Number, adversarial: Number, threshold: float, targeted: bool = False) -> bool | torch.Tensor:
    """Whether an attack succeeded; never where a score is NaN. Where the score is 1 for the right class and 0 for
    another, it says that an image lost its right class, or got the wanted one.

    >>> import torch
    >>> from monai_adversarial.metrics import success
    >>> clean, adversarial = torch.tensor([0.9, 0.9]), torch.tensor([0.4, 0.6])
    >>> success(clean, adversarial, threshold=0.5).tolist()
    [True, False]
    >>> success(0.1, 0.6, threshold=0.5, targeted=True), success(float("nan"), 0.1, threshold=0.5)
    (True, False)

    Args:
        clean: mean Dice (of a classifier: share of right decisions) before the attack.
        adversarial: the same afterwards; of a targeted attack that with the wanted label.
        threshold: untargeted: largest share of the clean score that may be left; targeted: least score.
        targeted: which of the two rules.

    Source: the threshold of half the clean Dice follows the code of ROG (Daza, Pérez and Arbeláez, MICCAI 2021), which
    takes half of the mean over cases; here it is half of each case.

    Survey entry: M01 (adapted).
    """
    return adversarial >= threshold if targeted else adversarial < threshold * clean


def success_count(succeeded: torch.Tensor, clean: torch.Tensor, adversarial: torch.Tensor) -> str:
    """How many attacks succeeded, of those whose scores are defined: an image without a score is no failure.

    >>> import torch
    >>> from monai_adversarial.metrics.success import success_count
    >>> success_count(torch.tensor([True, False]), torch.tensor([0.9, torch.nan]), torch.tensor([0.1, torch.nan]))
    '1 of 1 (1 more without a score)'

    Args:
        succeeded: boolean (batch,).
        clean, adversarial: scores, (batch,); NaN where there are none.
    """
    lost = int(((clean.isnan() | adversarial.isnan()) & ~succeeded).sum())
    return f"{int(succeeded.sum())} of {len(succeeded) - lost}" + (f" ({lost} more without a score)" if lost else "")


def success_rule(threshold: float, targeted: bool = False, metric: str = "Dice", decisions: int = 1) -> str:
    """The rule in words, for reports.

    >>> from monai_adversarial.metrics import success_rule
    >>> success_rule(0.5)
    'Dice below 0.5 times the clean Dice'

    Args:
        threshold, targeted: see ``success``.
        metric: ``"Dice"`` or ``"accuracy"``.
        decisions: of a classifier about each image.
    """
    if metric == "accuracy" and decisions == 1:
        return "the wanted class" if targeted else "another class where the clean image had the right one"
    if metric == "accuracy":
        share = f"at least {threshold:g}" if targeted else f"below {threshold:g} times the clean share"
        return f"share of {'wanted' if targeted else 'right'} decisions {share}"
    if targeted:
        return f"Dice with the wanted segmentation of at least {threshold:g}"
    return f"Dice below {threshold:g} times the clean Dice"


def wrong_fraction(
    prediction: torch.Tensor, reference: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Share of the decisions that differ from the reference, (batch,): voxels of a class map, voxels of all channels of
    masks.

    >>> import torch
    >>> from monai_adversarial.metrics.success import wrong_fraction
    >>> wrong_fraction(torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 1, 2]]]))
    tensor([0.2500])

    Args:
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...).
        reference: class map, or masks or one-hot.
        valid: boolean (batch, 1, spatial...), the voxels that count; None for all.
    """
    if prediction.shape[1] == 1 and reference.shape[1] > 1:
        reference = reference.argmax(dim=1, keepdim=True)
    elif reference.shape[1] == 1 and prediction.shape[1] > 1:
        numbers = torch.arange(prediction.shape[1], device=reference.device)
        reference = reference == numbers.view(1, -1, *[1] * (reference.ndim - 2))
    wrong = prediction != reference.to(prediction.dtype)
    if valid is None:
        return wrong.flatten(1).float().mean(dim=1)
    counted = valid.expand_as(wrong).flatten(1)
    return (wrong.flatten(1) & counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
