# SPDX-License-Identifier: Apache-2.0
"""Why a network finds so little in a clean image: whether the same voxels, read in another way, score far better."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from monai_adversarial.metrics.clean_score import LOW_CLEAN
from monai_adversarial.metrics.dice import mean_foreground_dice, mean_of_defined
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.input_probes import input_probes, label_probes
from monai_adversarial.models.prediction import answer_of
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_label, check_label_range

__all__ = ["CleanScore", "explain_clean_score"]

#: mean Dice by which another reading must exceed that of the image as it is, and which it must reach
FAR_BETTER, PLAUSIBLE = 0.3, 0.5
IMAGE = "the image is"


@dataclass(frozen=True)
class CleanScore:
    """What a clean image scores as it is, and in the best of other readings.

    >>> from monai_adversarial.models import CleanScore
    >>> found = CleanScore(score=0.1, best=0.9, reading="the image is mirrored along axis 0", passes=7)
    >>> found.is_explained, str(found).split(":")[0]
    (True, 'the clean Dice is 0.100, but 0.900 when the image is mirrored along axis 0')

    Args:
        score: mean foreground Dice with the label as it is, 0 to 1; NaN where it is not defined.
        best: that of the best reading; ``score`` where none is better.
        reading: the best other reading in words, of the image or of the label; None where none is better.
        passes: how many readings of the image were compared, as it is not counted.
    """

    score: float
    best: float
    reading: str | None
    passes: int

    @property
    def is_explained(self) -> bool:
        """Whether another reading scores far better: the image does not come as the network was built for."""
        return self.reading is not None and self.best >= PLAUSIBLE and self.best >= self.score + FAR_BETTER

    def __str__(self) -> str:
        low = f"the clean Dice is {self.score:.3f}"
        if self.is_explained:
            return (
                f"{low}, but {self.best:.3f} when {self.reading}: they do not come as the network was built for, and "
                "what an attack leaves of such a score is no robustness."
            )
        return f"{low}, and no other orientation, intensity or voxel size that was compared scores far better."


def explain_clean_score(
    model: AttackedModel | Callable[..., Any],
    image: torch.Tensor,
    label: torch.Tensor,
    most_passes: int = 21,
    least: float = LOW_CLEAN,
) -> CleanScore:
    """Compare the clean score with that of the same image mirrored, with its axes exchanged, with other intensities
    and other voxel sizes.

    A scan, or only its label, in another orientation, stored values without their rescale intercept, or a grid of other
    voxel sizes than in training gives a low clean score and no other sign. Each reading of the image costs one forward
    pass, those of the label none. The first kind of reading that scores far better ends the search, and an image that
    scores well costs one pass in all.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.models import explain_clean_score
    >>> model, image, label = example_case(16)
    >>> found = explain_clean_score(model, image, label)
    >>> found.is_explained, found.passes
    (False, 0)
    >>> print(explain_clean_score(model, image - 1024, label).reading)
    the image is taken plus 1024 (an intercept that was applied twice)

    Args:
        model: an ``AttackedModel`` of a segmentation; a bare network is wrapped with defaults.
        image: (batch, channel, spatial...) in the model's image units.
        label: class map (batch, 1, spatial...), or one-hot or masks (batch, class, spatial...).
        most_passes: readings that are compared at most. 21 are all mirrored and all exchanged axes, intensities and
            voxel sizes of a 3D image; 56 also have axes that are both exchanged and mirrored.
        least: score from which nothing is compared.

    Raises:
        TypeError: for a classifier.
        ValueError: for a label that does not fit.
    """
    known = AttackedModel.wrap(model)
    count = check_count("most_passes", most_passes)
    check_label(label, image)
    plain_label = as_plain(label)
    answer = answer_of(known, image)
    if known.classifies:
        raise TypeError("explain_clean_score needs a segmentation network, got a classifier.")
    score = best = _score(known, answer, answer.prediction, plain_label)
    passes, reading, explained_by = 0, None, None
    for kind, text, found in _readings(known, image, answer, plain_label, count) if score < least else ():
        if explained_by not in (None, kind):
            break
        passes += text.startswith(IMAGE)
        if found > best:
            best, reading = found, text
            if best >= PLAUSIBLE and best >= score + FAR_BETTER:
                explained_by = kind
    return CleanScore(score, best, reading, passes)


def _readings(
    model: AttackedModel, image: torch.Tensor, answer: Answer, label: torch.Tensor, most: int
) -> Iterator[tuple[str, str, float]]:
    """Kind of each other reading, the reading in words, and its score."""
    for probe in label_probes(image.ndim - 2):
        moved = probe.prediction(answer.prediction)
        if moved.shape == answer.prediction.shape:
            yield f"label {probe.kind}", f"the label is {probe.text}", _score(model, answer, moved, label)
    for probe in islice(input_probes(model, image), most):
        found = _score_of_reading(model, probe.image(image), probe.prediction, label)
        yield probe.kind, f"{IMAGE} {probe.text}", found


def _score_of_reading(
    model: AttackedModel, image: torch.Tensor, back: Callable[[torch.Tensor], torch.Tensor], label: torch.Tensor
) -> float:
    """Score of one reading; 0 for one that the network refuses: sizes that it cannot halve, or NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an image that nobody gave
        try:
            answer = answer_of(model, image)
        except (RuntimeError, ValueError):
            return 0.0
    found = _score(model, answer, back(answer.prediction), label)
    return found if found == found else 0.0


def _score(model: AttackedModel, answer: Answer, prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Mean over the batch of the mean Dice over the scored classes."""
    label, valid = label.to(prediction.device), None
    if model.ignore_index is not None:
        valid = (label != model.ignore_index).all(dim=1, keepdim=True)
        label = torch.where(valid, label, torch.zeros_like(label))
    check_label_range(label, answer.classes)
    organs = organ_channels(answer.classes, answer.activation, model.class_names, model.scored_classes)
    dice = mean_foreground_dice(prediction, label, answer.classes, answer.activation, list(organs), valid)
    return mean_of_defined(dice.tolist())
