# SPDX-License-Identifier: Apache-2.0
"""Metrics per organ: which organs, read from class maps and masks alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.metrics.organs import organ_channels, organ_names
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import spacing_of
from monai_adversarial.utils.validation import check_choice

__all__ = ["OrganMetric"]


class OrganMetric(CaseMetric):
    """A :class:`CaseMetric` of segmentations; see its subclasses.

    Segmentations are class maps (batch, 1, spatial...), one-hot or masks (batch, class, spatial...).

    >>> from monai_adversarial.metrics import OrganMetric, OrganPresence
    >>> metric = OrganPresence(["background", "liver", "spleen"], classes=["spleen"])
    >>> isinstance(metric, OrganMetric), metric.organs, metric.columns
    (True, {2: 'spleen'}, ('missed_spleen', 'invented_spleen'))

    Args:
        class_names: names of the network's classes, background first, or a mapping of class index to name; with
            sigmoid, one name per channel.
        activation: ``"softmax"`` (exclusive classes) or ``"sigmoid"`` (masks that may overlap).
        classes: the organs to score, by index or name; None for all.
        ignore_index: label value of voxels that do not count; None for no such value.

    Raises:
        ValueError: for names or classes that do not fit.
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        activation: str = "softmax",
        classes: Sequence[int | str] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.activation = check_choice("activation", activation, ("softmax", "sigmoid"))
        if activation == "softmax":
            self.network_classes = max(organ_names(class_names)) + 1
        elif isinstance(class_names, Mapping):
            self.network_classes = max(int(channel) for channel in class_names) + 1
        else:
            self.network_classes = len(class_names)
        self.organs = organ_channels(self.network_classes, activation, class_names, classes)
        self.ignore_index = ignore_index
        self.columns = self._columns()

    def _columns(self) -> tuple[str, ...]:
        raise NotImplementedError

    def checked(self, name: str, segmentation: Any, like: torch.Tensor | None = None) -> torch.Tensor:
        """A segmentation as a plain tensor (batch, channel, spatial...).

        Args:
            name: of the argument, for the error.
            segmentation: what was given.
            like: a segmentation on the grid that it must have.

        Raises:
            ValueError: for None, other shapes, fractions and NaN.
        """
        if not isinstance(segmentation, torch.Tensor):
            raise ValueError(
                f"{name} must be a segmentation (batch, channel, spatial...), got {type(segmentation).__name__}."
            )
        plain = as_plain(segmentation).detach()
        if plain.ndim < 3 or plain.shape[1] not in (1, self.network_classes):
            raise ValueError(
                f"{name} must have shape (batch, 1 or {self.network_classes}, spatial...), got {tuple(plain.shape)}."
            )
        if like is not None and (plain.shape[0], *plain.shape[2:]) != (like.shape[0], *like.shape[2:]):
            raise ValueError(
                f"{name} must be on the grid of the other segmentation, {(like.shape[0], *like.shape[2:])} without "
                f"channels, got {(plain.shape[0], *plain.shape[2:])}."
            )
        if plain.is_floating_point() and not bool((plain == plain.round()).all()):
            raise ValueError(f"{name} must hold classes or masks in whole numbers, got fractions or NaN.")
        return plain.to(like.device) if like is not None else plain

    def spacing(self, segmentation: torch.Tensor, spacing: Any = None) -> torch.Tensor:
        """Voxel size in mm, (batch, spatial dimensions), of a segmentation.

        Args:
            segmentation: as given; a MetaTensor gives its affine.
            spacing: overrides the affine: one number, one per axis, or one row per sample, in mm.

        Raises:
            ValueError: where nothing says it.
        """
        found = spacing_of(segmentation, spacing)
        if found is None:
            raise ValueError(
                f"spacing must be given in mm along each axis for {type(self).__name__}: a plain tensor without affine "
                "does not say how large its voxels are."
            )
        return found

    def valid(self, label: torch.Tensor | None) -> torch.Tensor | None:
        """Boolean (batch, 1, spatial...), the voxels of a label that count; None for all."""
        if self.ignore_index is None or label is None:
            return None
        return (label != self.ignore_index).all(dim=1, keepdim=True)

    def masks(self, segmentation: torch.Tensor, valid: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Boolean (batch, 1, spatial...) of each organ, one after the other, in the order of ``organs``."""
        several = segmentation.shape[1] > 1
        if self.activation == "softmax" and several:
            segmentation, several = segmentation.argmax(dim=1, keepdim=True), False
        as_masks = several or (self.activation == "sigmoid" and self.network_classes == 1)
        for channel in self.organs:
            mask = segmentation[:, channel : channel + 1] > 0 if as_masks else segmentation == channel
            yield mask if valid is None else mask & valid
