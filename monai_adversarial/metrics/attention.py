# SPDX-License-Identifier: Apache-2.0
"""How far an attack moves a network's attention away from where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_fraction

__all__ = ["AttentionOverlap", "attention_overlap"]

NUMBERS = ("overlap", "iou", "correlation")


def attention_overlap(clean: torch.Tensor, attacked: torch.Tensor, level: float = 0.5) -> dict[str, torch.Tensor]:
    """How alike two attention maps are, map by map.

    >>> import torch
    >>> from monai_adversarial.metrics import attention_overlap
    >>> clean, attacked = torch.tensor([[[4.0, 4.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
    >>> found = attention_overlap(clean, attacked)
    >>> found["overlap"], found["iou"], found["correlation"]
    (tensor([[0.5000]], ...), tensor([[0.3333]], ...), tensor([[0.]], ...))

    Args:
        clean: maps (batch, class, spatial...), at least 0, in any unit.
        attacked: the same under attack.
        level: share of a map's largest value from which on a voxel is looked at, for ``iou``.

    Returns:
        Each (batch, class), float64. ``overlap``: sum of the smaller of both maps after each was divided by its sum, 1
        for maps that are equal up to a factor, 0 for disjoint ones. ``iou``: intersection over union of the voxels of
        at least ``level`` times the largest value. ``correlation``: of the voxels' values, -1 to 1, NaN for a constant
        map. Where one map is zero everywhere, nothing is looked at: ``overlap`` and ``iou`` are 0; NaN where both are.

    Raises:
        ValueError: for maps of other shapes, negative, NaN or infinite values, and a level outside 0 to 1.

    Source: own: textbook measures. The survey compares attention maps by eye.

    Survey entry: M06 (own).
    """
    share = check_fraction("level", level)
    maps = [as_plain(part).detach().double() for part in (clean, attacked)]
    if maps[0].ndim < 3 or maps[0].shape != maps[1].shape:
        raise ValueError(
            f"clean and attacked must have one shape (batch, class, spatial...), got {tuple(maps[0].shape)} and "
            f"{tuple(maps[1].shape)}."
        )
    if not all(bool((part.isfinite() & (part >= 0)).all()) for part in maps):
        raise ValueError("clean and attacked must be attention maps of finite values of at least 0.")
    p, q = (part.flatten(2).to(maps[0].device) for part in maps)
    sums = torch.stack([p.sum(dim=2), q.sum(dim=2)])
    neither, one_only = (sums == 0).all(dim=0), (sums == 0).sum(dim=0) == 1
    common = torch.minimum(p / sums[0, ..., None], q / sums[1, ..., None]).sum(dim=2)
    looked_at = [(part >= share * part.amax(dim=2, keepdim=True)) & (part > 0) for part in (p, q)]
    both, either = ((looked_at[0] & looked_at[1]).sum(dim=2), (looked_at[0] | looked_at[1]).sum(dim=2))
    found = {"overlap": common, "iou": both / either}
    found = {
        name: torch.where(neither, torch.nan, torch.where(one_only, 0.0, value.double()))
        for name, value in found.items()
    }
    away = [part - part.mean(dim=2, keepdim=True) for part in (p, q)]
    spread = (away[0].square().sum(dim=2) * away[1].square().sum(dim=2)).sqrt()
    return found | {"correlation": (away[0] * away[1]).sum(dim=2) / spread}  # NaN for a constant map


class AttentionOverlap(OrganMetric):
    """:func:`attention_overlap` of the attention to each organ before and under attack, and how much lies in the organ.

    Columns are ``{organ}_overlap``, ``{organ}_iou``, ``{organ}_correlation``, and ``{organ}_in_organ`` and
    ``{organ}_clean_in_organ``: the share of the map's sum in the organ of the label, NaN without a label, an organ or
    attention. A network whose segmentation is wrong may look at the right place, and the other way round.

    >>> from monai_adversarial.attacks import PGD, grad_cam
    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.metrics import AttentionOverlap
    >>> metric = AttentionOverlap(EXAMPLE_CLASSES, attention=grad_cam, classes=["liver"])
    >>> _ = metric.add(PGD(8, units="HU", steps=3)(*example_case(16)))
    >>> metric.aggregate()["liver_clean_in_organ"] > metric.aggregate()["liver_in_organ"]
    True

    Called with the maps under attack (batch, organ, spatial...), those of the clean image, and ``label`` (batch, 1 or
    class, spatial...) on the same grid.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.
        attention: for ``add``: a function of model, image and ``classes`` such as ``attacks.grad_cam``; with
            ``functools.partial`` it gets a ``layer``. None where the metric is called with maps.
        level: see :func:`attention_overlap`.

    Raises:
        ValueError: for maps that do not fit, for ``add`` without a function, and for an attack that moves anatomy: its
            maps are of two anatomies.

    Source: as :func:`attention_overlap`.

    Survey entry: M06 (own).
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        activation: str = "softmax",
        classes: Sequence[int | str] | None = None,
        ignore_index: int | None = None,
        attention: Callable[..., torch.Tensor] | None = None,
        level: float = 0.5,
    ) -> None:
        super().__init__(class_names, activation, classes, ignore_index)
        self.attention, self.level = attention, check_fraction("level", level)

    def _columns(self) -> tuple[str, ...]:
        numbers = (*NUMBERS, "in_organ", "clean_in_organ")
        return tuple(f"{organ}_{number}" for organ in self.organs.values() for number in numbers)

    def rows(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class."""
        if y is None or y_pred.ndim < 3 or y_pred.shape[1] != len(self.organs):
            raise ValueError(
                f"y_pred and y must be maps (batch, {len(self.organs)}, spatial...), one for each of "
                f"{', '.join(self.organs.values())}, got {tuple(y_pred.shape)} and "
                f"{'None' if y is None else tuple(y.shape)}."
            )
        found = attention_overlap(y, y_pred, self.level)
        shares = [self._share(maps, label) for maps in (y_pred, y)]
        numbers = [*(found[name] for name in NUMBERS), *shares]
        return torch.stack([number.cpu() for number in numbers], dim=2).flatten(1)

    def _share(self, maps: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        """Share of each map in its organ, (batch, organ)."""
        wide = as_plain(maps).detach().double()
        if label is None:
            return torch.full(wide.shape[:2], torch.nan, dtype=torch.float64)
        truth = self.checked("label", label, wide)
        inside = torch.cat(list(self.masks(truth, self.valid(truth))), dim=1)
        share = (wide * inside).flatten(2).sum(dim=2) / wide.flatten(2).sum(dim=2)
        return torch.where(inside.flatten(2).any(dim=2), share, torch.nan)

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of an attack's result.

        Args:
            result: an ``AttackResult`` of a segmentation, of an attack that leaves the anatomy where it is.

        Returns:
            The rows, (batch, columns).
        """
        if self.attention is None or result.model is None:
            raise ValueError(
                "attention must be a function of model, image and classes for add, such as attacks.grad_cam: got None, "
                "or a result without its model."
            )
        if result.metric != "Dice" or result.bound.geometric:
            raise ValueError(
                "result must be of a segmentation and of an attack that leaves the anatomy where it is: call the "
                "metric with maps on one grid instead."
            )
        clean = as_plain(torch.as_tensor(result.adversarial)).clone()
        channels = slice(None) if result.image_channels is None else list(result.image_channels)
        clean[:, channels] = result.image.to(clean)
        after, before = (
            self.attention(result.model, image, classes=list(self.organs)) for image in (result.adversarial, clean)
        )
        return self(after, before, label=result.label)
