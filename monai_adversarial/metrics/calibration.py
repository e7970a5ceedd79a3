# SPDX-License-Identifier: Apache-2.0
"""Whether a network is as sure as it is right, before and under attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count

__all__ = ["CalibrationUnderAttack", "brier_score", "expected_calibration_error"]

#: how far probabilities of exclusive classes may sum from 1, as those in half precision do
TOLERANCE = 1e-2


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor, bins: int = 15) -> float:
    """Mean over decisions of the distance between confidence and accuracy, in bins of equal width.

    A bin holds confidences above its lower and up to its upper edge; the first one holds 0 too. Sums are in float64,
    so that volumes of any size count right.

    >>> import torch
    >>> from monai_adversarial.metrics import expected_calibration_error
    >>> round(expected_calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([1, 0, 1]), bins=10), 6)
    0.4

    Args:
        confidence: of each decision, 0 to 1, (decisions,).
        correct: whether it is right, (decisions,).
        bins: number of bins.

    Returns:
        From 0 to 1; NaN without decisions.

    Raises:
        ValueError: for values outside 0 to 1, and different shapes.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., ICML 2017.

    Survey entry: M13 (published).
    """
    check_count("bins", bins)
    sure, right = _decisions(confidence, correct)
    if not len(sure):
        return math.nan
    place = (sure * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.bincount(place, weights=sure - right, minlength=bins)
    return float(gap.abs().sum() / len(sure))


def brier_score(probability: torch.Tensor, true: torch.Tensor) -> float:
    """Mean squared distance between the probability of an event and whether it happened.

    >>> import torch
    >>> from monai_adversarial.metrics import brier_score
    >>> round(brier_score(torch.tensor([0.9, 0.2]), torch.tensor([1, 0])), 6)
    0.025

    Args:
        probability: 0 to 1, (events,).
        true: (events,).

    Returns:
        From 0 to 1; NaN without events.

    Raises:
        ValueError: for values outside 0 to 1, and different shapes.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, the form for one event.

    Survey entry: M13 (published).
    """
    expected, happened = _decisions(probability, true)
    return float((expected - happened).square().mean()) if len(expected) else math.nan


def _decisions(probability: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # On the CPU: weighted counts have no deterministic form on a GPU.
    expected = as_plain(torch.as_tensor(probability)).detach().to("cpu", torch.float64).flatten()
    happened = as_plain(torch.as_tensor(true)).detach().to(expected).flatten()
    if expected.shape != happened.shape:
        raise ValueError(
            f"probabilities and truth must be of the same decisions, got {len(expected)} and {len(happened)}."
        )
    if not bool(((expected >= 0) & (expected <= 1) & (happened >= 0) & (happened <= 1)).all()):
        raise ValueError("probabilities and truth must lie between 0 and 1, got other values or NaN.")
    return expected, happened


class CalibrationUnderAttack(OrganMetric):
    """Expected calibration error and Brier score of the foreground and of each organ, under attack and before.

    Only voxels count where the label or the prediction has an organ: the many easy voxels of the background make every
    network look calibrated. Of these voxels ``ece`` compares the confidence of the prediction with whether it is right,
    and ``brier`` is the sum over the classes of the squared distance to the label (0 to 2; with sigmoid, the mean over
    the organs of theirs). ``{organ}_ece`` and ``{organ}_brier`` are of the organ's own probability, where the label or
    the prediction has this organ.

    Empty organs: NaN where neither has the organ.

    >>> import torch
    >>> from monai_adversarial.metrics import CalibrationUnderAttack
    >>> metric = CalibrationUnderAttack(["background", "liver"])
    >>> sure, unsure = torch.tensor([[[0.1, 0.9], [0.9, 0.1]]]), torch.tensor([[[0.4, 0.9], [0.6, 0.1]]])
    >>> _ = metric(unsure, torch.tensor([[[1, 0]]]), clean=sure)
    >>> {name: round(value, 3) for name, value in metric.aggregate().items() if name.endswith("liver_ece")}
    {'liver_ece': 0.4, 'clean_liver_ece': 0.1}

    Called with the probabilities under attack (batch, class, spatial...), the label on the attacked anatomy, ``clean``,
    the probabilities of the clean image, and ``clean_label`` where the anatomy moved.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.
        bins: of the calibration error.
        probabilities: for ``add``: a function of model and image, ``models.predict_probabilities``; None where the
            metric is called with probabilities.

    Raises:
        ValueError: for values that are no probabilities, segmentations that do not fit, and ``add`` without a function.

    Source: the error of Guo et al., ICML 2017, and the score of Brier 1950; which voxels count is ours.

    Survey entry: M13 (adapted).
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        activation: str = "softmax",
        classes: Sequence[int | str] | None = None,
        ignore_index: int | None = None,
        bins: int = 15,
        probabilities: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        super().__init__(class_names, activation, classes, ignore_index)
        self.bins = check_count("bins", bins)
        self.probabilities = probabilities

    def _columns(self) -> tuple[str, ...]:
        one = ("ece", "brier", *(f"{organ}_{kind}" for organ in self.organs.values() for kind in ("ece", "brier")))
        return (*one, *(f"clean_{name}" for name in one))

    def rows(
        self,
        y_pred: torch.Tensor,
        y: torch.Tensor | None = None,
        clean: torch.Tensor | None = None,
        clean_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See the class."""
        before = self._numbers("clean", clean, y if clean_label is None else clean_label)
        return torch.cat([self._numbers("y_pred", y_pred, y), before], dim=1)

    def _numbers(self, name: str, probabilities: Any, label: Any) -> torch.Tensor:
        """(batch, columns) of one image."""
        values = self._checked(name, probabilities)
        truth = self.checked("y", label, values)
        valid = self.valid(truth)
        hard = values.argmax(dim=1, keepdim=True) if self.activation == "softmax" else (values > 0.5).to(torch.uint8)
        channels = list(self.organs)
        true, found = (list(self.masks(one, valid)) for one in (truth, hard))
        rows = []
        for case in range(len(values)):
            organs = []
            foreground = torch.zeros_like(true[0][case, 0])
            for place, channel in enumerate(channels):
                here = true[place][case, 0] | found[place][case, 0]
                foreground |= here
                own = values[case, channel][here], true[place][case, 0][here]
                organs += [expected_calibration_error(*own, self.bins), brier_score(*own)]
            masks = torch.stack([mask[case, 0] for mask in true])[:, foreground]
            rows.append([*self._of_foreground(values[case][:, foreground], masks, channels), *organs])
        return torch.tensor(rows, dtype=torch.float64)

    def _of_foreground(self, values: torch.Tensor, masks: torch.Tensor, channels: list[int]) -> tuple[float, float]:
        """Error and score of the voxels of the foreground: (class, voxels) and (organ, voxels)."""
        if self.activation == "sigmoid":
            own = values[channels]
            sure, right = torch.maximum(own, 1 - own), (own > 0.5) == masks
            return expected_calibration_error(sure, right, self.bins), brier_score(own, masks)
        confidence, decided = values.max(dim=0)
        wanted = torch.zeros_like(values)
        wanted[channels] = masks.to(values)
        # What is none of the scored organs is whatever else there is.
        rest = [channel for channel in range(len(values)) if channel not in channels]
        elsewhere = ~masks.any(dim=0)
        right = wanted.gather(0, decided[None])[0] > 0
        is_rest = torch.isin(decided, torch.tensor(rest, device=decided.device))
        right |= is_rest & elsewhere
        squared = (values[channels] - wanted[channels]).double().square().sum(dim=0)
        squared += (values[rest].sum(dim=0) - elsewhere.to(values)).double().square()
        brier = float(squared.mean()) if squared.numel() else math.nan
        return expected_calibration_error(confidence.clamp(0, 1), right, self.bins), brier

    def _checked(self, name: str, probabilities: Any) -> torch.Tensor:
        if not isinstance(probabilities, torch.Tensor):
            raise ValueError(
                f"{name} must hold probabilities (batch, class, spatial...), got {type(probabilities).__name__}."
            )
        values = as_plain(probabilities).detach().float()
        if values.ndim < 3 or values.shape[1] != self.network_classes:
            raise ValueError(
                f"{name} must have shape (batch, {self.network_classes}, spatial...), got {tuple(values.shape)}."
            )
        exclusive = self.activation == "softmax"
        if not bool(((values >= 0) & (values <= 1)).all()) or (
            exclusive and not bool(((values.sum(dim=1) - 1).abs() < TOLERANCE).all())
        ):
            rule = " that sum to 1 over the classes" if exclusive else ""
            raise ValueError(f"{name} must hold probabilities{rule}, got other values: are they logits?")
        return values

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        if self.probabilities is None or result.model is None:
            raise ValueError(
                "probabilities must be a function of model and image for add, such as models.predict_probabilities: "
                "got None, or a result without its model."
            )
        adversarial = as_plain(torch.as_tensor(result.adversarial))
        clean = adversarial.clone()
        clean[:, slice(None) if result.image_channels is None else list(result.image_channels)] = result.image.to(clean)
        attacked, before = (self.probabilities(result.model, image) for image in (result.adversarial, clean))
        return self(attacked, result.label, clean=before, clean_label=result.clean_label)
