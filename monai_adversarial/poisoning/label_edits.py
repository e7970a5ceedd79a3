# SPDX-License-Identifier: Apache-2.0
"""Wrong labels: of one organ, in mm, or of a whole case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from monai_adversarial.attacks.targets.shapes import dilated_organ, eroded_organ
from monai_adversarial.poisoning.base import Poison, taken
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundaryJitter", "ClassFlip", "LabelEdit", "holds_organ"]


def holds_organ(organ: int, label_key: str = "label") -> Callable[[Mapping[str, Any]], bool]:
    """For ``PoisonedDataset(eligible=)``: whether a case's class map holds an organ.

    Example:
        >>> from monai_adversarial.poisoning import holds_organ
        >>> import torch
        >>> holds_organ(2)({"label": torch.tensor([[0, 1, 2]])})
        True

    Args:
        organ: its class.
        label_key: of the class map (1, spatial...).
    """

    def holds(case: Mapping[str, Any]) -> bool:
        return bool((torch.as_tensor(taken(case, label_key)) == organ).any())

    return holds


class LabelEdit(Poison):
    """A label in which an organ is edited by a target maker: eroded, dilated, shifted, swapped, merged or gone.

    The makers are those of :mod:`monai_adversarial.attacks.targets`, with lengths in mm: ``eroded_organ``,
    ``dilated_organ``, ``shifted_organ``, ``swapped_left_right``, ``other_organ`` (two organs become one),
    ``empty_organ``, or any function from a batch of segmentations to another one.

    Source: label manipulation (Barreno et al. 2006); edits of organs in mm are our own.

    Survey entry: A28 (own).

    Example:
        >>> from monai_adversarial.poisoning import LabelEdit
        >>> import torch
        >>> from monai_adversarial.attacks.targets import empty_organ
        >>> from monai_adversarial.data.example import example_case
        >>> _, image, label = example_case(20)
        >>> edited = LabelEdit(empty_organ, organ=2)({"label": label[0]}, torch.Generator())
        >>> bool((edited["label"] == 2).any()), bool((label == 2).any())
        (False, True)

    Args:
        edit: a target maker.
        label_key: of the class map (1, spatial...) or masks (class, spatial...).
        options: further arguments of the maker.
    """

    def __init__(self, edit: Callable[..., Any], label_key: str = "label", **options: Any) -> None:
        if not callable(edit):
            raise TypeError(f"edit must be a target maker such as eroded_organ, got {type(edit).__name__}.")
        self.edit, self.label_key, self.options = edit, label_key, options

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({getattr(self.edit, '__name__', self.edit)}{options})"

    def __call__(self, case: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The case with the edited label."""
        label = taken(case, self.label_key)
        return {**case, self.label_key: self.edit(label[None], **self.options)[0]}


class BoundaryJitter(Poison):
    """A label whose organ is eroded or dilated by a random distance: an annotator without care.

    Survey entry: A28 (own).

    Source: own design.

    Example:
        >>> from monai_adversarial.poisoning import BoundaryJitter
        >>> import torch
        >>> from monai_adversarial.data.example import example_case
        >>> _, image, label = example_case(20)
        >>> jittered = BoundaryJitter(2, most=6.0)({"label": label[0]}, torch.Generator().manual_seed(1))
        >>> bool((jittered["label"] != label[0]).any())
        True

    Args:
        organ: its class.
        most: largest distance in mm; the distance is drawn from ``least`` to it, with a random direction.
        least: smallest distance in mm; half a voxel or less changes nothing and is refused by the case.
        label_key: of the class map.
        spacing: mm along each axis, for labels without an affine.

    Raises:
        ValueError: for distances that are not in rising order above zero.
    """

    def __init__(
        self, organ: int, most: float, least: float | None = None, label_key: str = "label", spacing: Any = None
    ) -> None:
        self.organ = check_count("organ", organ)
        self.most = check_positive("most", most)
        self.least = self.most if least is None else check_positive("least", least)
        if self.least > self.most:
            raise ValueError(f"least must be at most most={most:g} mm, got {least:g}.")
        self.label_key, self.spacing = label_key, spacing

    def __call__(self, case: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The case with a jittered label."""
        label = taken(case, self.label_key)
        share, side = torch.rand(2, generator=generator).tolist()
        distance = self.least + share * (self.most - self.least)
        edit = eroded_organ if side < 0.5 else dilated_organ
        return {**case, self.label_key: edit(label[None], self.organ, distance, spacing=self.spacing)[0]}


class ClassFlip(Poison):
    """The case of a classifier with another class.

    Source: label flips (Biggio, Nelson, Laskov, "Support vector machines under adversarial label noise", 2011).

    Survey entry: A28 (published).

    Example:
        >>> from monai_adversarial.poisoning import ClassFlip
        >>> import torch
        >>> ClassFlip(classes=2)({"label": 1}, torch.Generator())["label"]
        0

    Args:
        classes: number of classes, 2 or more; the new class is drawn among the others.
        to: the new class, instead of one that is drawn.
        label_key: of the class number.
    """

    def __init__(self, classes: int, to: int | None = None, label_key: str = "label") -> None:
        self.classes = check_count("classes", classes, minimum=2)
        if to is not None and check_count("to", to, minimum=0) >= self.classes:
            raise ValueError(f"to must be a class from 0 to {self.classes - 1}, got {to}.")
        self.to, self.label_key = to, label_key

    def __call__(self, case: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The case with another class, in the type of its own."""
        label = taken(case, self.label_key)
        plain = torch.as_tensor(label)
        if plain.numel() != 1:
            raise ValueError(f"{self.label_key} must be one class number, got shape {tuple(plain.shape)}.")
        number = int(plain)
        if self.to is not None:
            new = self.to
        else:
            step = int(torch.randint(1, self.classes, (), generator=generator))
            new = (number + step) % self.classes
        if new == number:
            raise ValueError(f"{self.label_key} is {number} already, so that a flip to it changes nothing.")
        made = torch.full_like(plain, new) if isinstance(label, torch.Tensor) else type(label)(new)
        return {**case, self.label_key: made}
