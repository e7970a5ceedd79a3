# SPDX-License-Identifier: Apache-2.0
"""Clean and robust Dice of the same cases, and what follows from the pair: success rate, gap, worst case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.utils import evenly_divisible_all_gather

from monai_adversarial.metrics.segmentation import organ_names

__all__ = ["RobustDice", "mean_of_defined", "organ_channels", "organ_dice"]


def organ_channels(
    network_classes: int,
    activation: str,
    class_names: Sequence[str] | Mapping[Any, str] | None = None,
    classes: Sequence[int | str] | None = None,
) -> dict[int, str]:
    """Channel of the network to name, for the organs to score.

    Args:
        network_classes: output channels of the network.
        activation: ``"softmax"`` (channel 0 is the background) or ``"sigmoid"`` (every channel is an organ).
        class_names: names in the order of the channels, or a mapping of channel to name; with softmax the background
            comes first. None: ``"class_1"``, ``"class_2"``, ...
        classes: the channels or names to score; None for all organs.

    Raises:
        ValueError: for a name or channel that the network does not have.
    """
    first = 1 if activation == "softmax" else 0
    if class_names is None:
        # One sigmoid channel segments the label's class 1.
        names = {0: "class_1"} if network_classes == 1 else {i: f"class_{i}" for i in range(first, network_classes)}
    elif activation == "softmax":
        names = organ_names(class_names)
    else:
        given = dict(class_names) if isinstance(class_names, Mapping) else dict(enumerate(class_names))
        if network_classes == 1 and len(given) == 2:  # "background" and the organ
            given = {0: list(given.values())[1]}
        names = {int(channel): str(name) for channel, name in given.items()}
    if not names or max(names) >= network_classes or min(names) < 0:
        raise ValueError(
            f"class_names must name channels of a network with {network_classes} output channels ({activation}), got "
            f"{class_names!r}."
        )
    if classes is None:
        return names
    chosen = {channel: name for channel, name in names.items() if channel in classes or name in classes}
    unknown = [wanted for wanted in classes if wanted not in chosen and wanted not in chosen.values()]
    if unknown or not chosen:
        raise ValueError(f"classes must be some of {names}, by channel or name, got {list(classes)}.")
    return chosen


def organ_dice(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    channels: Sequence[int],
    network_classes: int,
    activation: str,
) -> torch.Tensor:
    """Dice of one case per organ, (organ,), on the tensors' device.

    An organ that is absent from both is NaN; absent from the reference but predicted counts 0.

    Args:
        prediction: (1, spatial...) class indices, or (class, spatial...) one-hot, masks, or (softmax) scores.
        reference: (1, spatial...) class indices, or (class, spatial...) one-hot or masks.
        channels: the organs to score.
        network_classes: output channels of the network.
        activation: ``"softmax"`` or ``"sigmoid"``.

    Raises:
        ValueError: for shapes that do not fit each other, and for sigmoid outputs that are not masks.
    """
    allowed = {1, network_classes}
    if (
        prediction.shape[1:] != reference.shape[1:]
        or prediction.shape[0] not in allowed
        or reference.shape[0] not in allowed
    ):
        raise ValueError(
            f"after the postprocessing, prediction and label must have 1 or {network_classes} channels on one grid, "
            f"got shapes {tuple(prediction.shape)} and {tuple(reference.shape)}."
        )
    if activation == "softmax":
        prediction, reference = (
            x.argmax(dim=0, keepdim=True) if x.shape[0] > 1 else x for x in (prediction, reference)
        )
    elif prediction.shape[0] != network_classes or not bool(((prediction == 0) | (prediction == 1)).all()):
        raise ValueError(
            f"after the postprocessing, the prediction of a sigmoid network must be {network_classes} masks of 0 and 1 "
            f"(add AsDiscreted with a threshold), got shape {tuple(prediction.shape)}."
        )
    scores = []
    for channel in channels:
        if activation == "softmax":
            found, true = prediction[0] == channel, reference[0] == channel
        else:
            found = prediction[channel] > 0
            masks = reference.shape[0] > 1 or network_classes == 1
            true = reference[channel] > 0 if masks else reference[0] == channel
        scores.append(2.0 * (found & true).sum() / (found.sum() + true.sum()))  # 0 / 0 is NaN
    return torch.stack(scores)


def mean_of_defined(values: torch.Tensor) -> float:
    """Mean of what is not NaN, whatever the order of the values; NaN where nothing is left."""
    defined = [value for value in values.flatten().tolist() if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


@dataclass(frozen=True)
class RobustDice:
    """Dice of the same cases without and with an attack.

    Args:
        organs: names, in the order of the columns.
        clean: (case, organ), float64 on the CPU; NaN where it is not defined or was not measured.
        robust: the same under attack.
        success_threshold: an attack succeeds where the mean Dice falls below this fraction of the clean one.
        acceptable_dice: only cases whose clean mean Dice is above this count in the success rate.
    """

    organs: tuple[str, ...]
    clean: torch.Tensor
    robust: torch.Tensor
    success_threshold: float = 0.5
    acceptable_dice: float = 0.0

    def success(self) -> torch.Tensor:
        """1 where the attack succeeded and 0 where not, NaN for cases that were not acceptable before, (case,)."""
        clean, robust = self.clean.nanmean(dim=1), self.robust.nanmean(dim=1)
        counts = (clean > self.acceptable_dice) & ~robust.isnan()
        succeeded = (robust < self.success_threshold * clean).to(clean)
        return torch.where(counts, succeeded, torch.nan)

    def metrics(self, name: str) -> dict[str, float]:
        """Means over the cases, as ``engine.state.metrics`` holds them.

        Returns:
            ``{name}_mean_dice``, ``{name}_dice_{organ}``, ``{name}_success_rate``, ``{name}_clean_mean_dice`` and
            ``{name}_gap`` (clean minus robust mean Dice).
        """
        clean, robust = (mean_of_defined(dice.nanmean(dim=1)) for dice in (self.clean, self.robust))
        found = {f"{name}_mean_dice": robust}
        for column, organ in enumerate(self.organs):
            found[f"{name}_dice_{organ}"] = mean_of_defined(self.robust[:, column])
        found[f"{name}_success_rate"] = mean_of_defined(self.success())
        found[f"{name}_gap"] = clean - robust
        found[f"{name}_clean_mean_dice"] = clean
        return found

    def details(self, name: str) -> dict[str, torch.Tensor]:
        """Values of every case, (case, organ) or (case, 1), as ``engine.state.metric_details`` holds them."""
        gap = self.clean.nanmean(dim=1, keepdim=True) - self.robust.nanmean(dim=1, keepdim=True)
        return {
            f"{name}_mean_dice": self.robust,
            f"{name}_clean_mean_dice": self.clean,
            f"{name}_success_rate": self.success()[:, None],
            f"{name}_gap": gap,
        }

    def gathered(self) -> RobustDice:
        """The cases of all ranks, in the order of the ranks."""
        both = evenly_divisible_all_gather(torch.cat([self.clean, self.robust], dim=1), concat=True)
        clean, robust = both.split(len(self.organs), dim=1)
        return RobustDice(self.organs, clean, robust, self.success_threshold, self.acceptable_dice)

    @staticmethod
    def worst(several: Sequence[RobustDice]) -> RobustDice:
        """Per case the attack that left the lowest mean Dice: all organs of a case are those of one attacked image.

        Args:
            several: scores of the same cases and organs under different attacks.

        Raises:
            ValueError: when the cases or organs differ.
        """
        first = several[0]
        for other in several[1:]:
            if other.organs != first.organs or other.robust.shape != first.robust.shape:
                raise ValueError(
                    "the worst case needs the same cases and organs under every attack, got "
                    f"{[(scores.robust.shape[0], scores.organs) for scores in several]}."
                )
        robust = torch.stack([scores.robust for scores in several])  # attack, case, organ
        # A case without any organ under one attack may have an invented one, Dice 0, under another.
        worst = robust.nanmean(dim=2).nan_to_num(nan=torch.inf).argmin(dim=0)
        chosen = robust[worst, torch.arange(robust.shape[1])]
        return RobustDice(first.organs, first.clean, chosen, first.success_threshold, first.acceptable_dice)
