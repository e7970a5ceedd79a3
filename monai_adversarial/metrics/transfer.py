# SPDX-License-Identifier: Apache-2.0
"""How attacks that were made with one network do on another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice
from monai_adversarial.metrics.success import success
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_fraction

__all__ = ["TransferMatrix", "shuffled_change"]

VALUES = ("clean", "adversarial", "shuffled")


def shuffled_change(image: torch.Tensor, adversarial: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The image with the same change of its voxels at other places: a control of the same histogram, norm and size.

    Each channel of each sample is shuffled by itself.

    Source: the control of Bortsova et al., "Adversarial attack vulnerability of medical image analysis systems:
    Unexplored factors", Medical Image Analysis 2021.

    Args:
        image: clean batch (batch, channel, spatial...).
        adversarial: the changed batch, of the same shape.
        seed: of the order.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> import torch
        >>> from monai_adversarial.metrics import shuffled_change
        >>> image = torch.zeros(1, 1, 2, 2)
        >>> changed = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> shuffled_change(image, changed).flatten().sort().values
        tensor([0., 0., 1., 2.])
    """
    clean, changed = as_plain(image), as_plain(adversarial)
    if clean.shape != changed.shape:
        raise ValueError(f"adversarial must have the shape of image, {tuple(clean.shape)}, got {tuple(changed.shape)}.")
    generator = torch.Generator().manual_seed(seed)
    change = (changed - clean).flatten(2)
    rows = [
        channel[torch.randperm(channel.numel(), generator=generator).to(channel.device)]
        for sample in change
        for channel in sample
    ]
    return clean + torch.stack(rows).view_as(clean)


class TransferMatrix:
    """Dice of targets on images that were attacked with surrogates: a row per surrogate, a column per target.

    Beside each value stands that of the control, the same change of the voxels at shuffled places: what is above it is
    due to where the attack put its change.

    Source: the transfer matrix of Liu et al. 2017 and Bortsova et al. 2021, here with Dice.

    Survey entry: M04 (adapted).

    Args:
        targets: name -> callable from an image (batch, channel, spatial...) to logits (batch, class, spatial...).
        activation: ``"softmax"`` or ``"sigmoid"``, of all targets.
        success_threshold: an attack succeeds where a case's Dice falls below this share of the clean one.

    Raises:
        ValueError: for no target or an unknown activation.

    Example:
        >>> import torch
        >>> from monai_adversarial.attacks import PGD
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.metrics import TransferMatrix
        >>> model, image, label = example_case()
        >>> def answer(image):
        ...     with torch.no_grad():
        ...         return model.network(model.intensity(torch.as_tensor(image)))
        >>> matrix = TransferMatrix({"example": answer})
        >>> adversarial = PGD(16, units="HU", steps=3)(model, image, label).adversarial
        >>> matrix.add("example", image, adversarial, label)
        >>> float(matrix.dice("adversarial")[0, 0]) < float(matrix.dice("shuffled")[0, 0])
        True
    """

    def __init__(
        self,
        targets: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
        activation: str = "softmax",
        success_threshold: float = 0.5,
    ) -> None:
        if not targets:
            raise ValueError("targets must name at least one network, got none.")
        self.targets = dict(targets)
        self.activation = check_choice("activation", activation, ("softmax", "sigmoid"))
        self.success_threshold = check_fraction("success_threshold", success_threshold)
        self._found: dict[str, dict[str, list[dict[str, float]]]] = {}

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The rows, in the order in which they were added."""
        return tuple(self._found)

    def add(
        self, surrogate: str, image: torch.Tensor, adversarial: torch.Tensor, label: torch.Tensor, seed: int = 0
    ) -> None:
        """Ask all targets about a batch that was attacked with a surrogate.

        Args:
            surrogate: name of the row.
            image: clean batch.
            adversarial: what the attack made of it.
            label: class map (batch, 1, spatial...).
            seed: of the shuffled control.
        """
        control = shuffled_change(image, adversarial, seed)
        row = self._found.setdefault(surrogate, {name: [] for name in self.targets})
        for name, target in self.targets.items():
            scores = [self._dice(target, one, label) for one in (image, adversarial, control)]
            row[name].extend(dict(zip(VALUES, case, strict=True)) for case in zip(*scores, strict=True))

    def _dice(self, target: Callable[[torch.Tensor], torch.Tensor], image: Any, label: torch.Tensor) -> list[float]:
        logits = as_plain(target(image))
        prediction = hard_prediction(logits, self.activation)
        dice = mean_foreground_dice(prediction, as_plain(label), int(logits.shape[1]), self.activation)
        return [float(value) for value in dice]

    def cases(self, surrogate: str, target: str) -> list[dict[str, float]]:
        """Of each case the Dice ``clean``, ``adversarial`` and ``shuffled``.

        Args:
            surrogate: row.
            target: column.
        """
        return self._found[surrogate][target]

    def dice(self, of: str = "adversarial") -> torch.Tensor:
        """Mean Dice over the cases, (surrogates, targets); cases whose Dice is NaN do not count.

        Args:
            of: ``"clean"``, ``"adversarial"`` or ``"shuffled"``.
        """
        check_choice("of", of, VALUES)
        return self._table(lambda cases: torch.tensor([case[of] for case in cases], dtype=torch.float64).nanmean())

    def success_rate(self, of: str = "adversarial") -> torch.Tensor:
        """Share of the cases in which the attack succeeded, (surrogates, targets).

        Args:
            of: ``"adversarial"`` or ``"shuffled"``.
        """
        check_choice("of", of, VALUES[1:])
        return self._table(
            lambda cases: torch.tensor(
                [float(success(case["clean"], case[of], self.success_threshold)) for case in cases], dtype=torch.float64
            ).mean()
        )

    def drop_beyond_control(self) -> torch.Tensor:
        """How much lower the Dice is than under the shuffled change, (surrogates, targets)."""
        return self.dice("shuffled") - self.dice("adversarial")

    def _table(self, value: Callable[[Sequence[dict[str, float]]], torch.Tensor]) -> torch.Tensor:
        if not self._found:
            raise ValueError("the matrix is empty: add attacked images first.")
        return torch.stack([torch.stack([value(cases) for cases in row.values()]) for row in self._found.values()])

    def __str__(self) -> str:
        """A table in Markdown: Dice under attack, and in brackets that of the shuffled control."""
        attacked, control = self.dice("adversarial"), self.dice("shuffled")
        lines = [f"| surrogate | {' | '.join(self.targets)} |", "|---" * (1 + len(self.targets)) + "|"]
        for number, surrogate in enumerate(self.surrogates):
            cells = [f"{float(a):.3f} ({float(c):.3f})" for a, c in zip(attacked[number], control[number], strict=True)]
            lines.append(f"| {surrogate} | {' | '.join(cells)} |")
        return "\n".join(lines)
