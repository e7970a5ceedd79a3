# SPDX-License-Identifier: Apache-2.0
"""What a certified segmentation is sure to find: milliliters of each organ, and lesions, under any attack within the
radius."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as connected_components

from monai_adversarial.metrics.certified_dice import certified_maps
from monai_adversarial.metrics.certified_metric import CertifiedMetric
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.organs import organ_names
from monai_adversarial.utils.scene import spacing_of
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["CertifiedRecall", "CertifiedRecallMetric", "certified_recall"]

_MM3_PER_ML = 1000.0


class CertifiedRecall(TypedDict):
    """What is certain about one organ (or kind of lesion) of one case.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedRecall, certified_recall
    >>> label, certified = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, -1, 0, 0]]])
    >>> found: CertifiedRecall = certified_recall(certified, label, ["background", "liver"], spacing=10.0)[0]["liver"]
    >>> round(found["found_ml"] / found["reference_ml"], 3), found["recall"]
    (0.5, 0.5)

    Args:
        reference_ml: volume in the label.
        found_ml: at least so much of it is found.
        possible_ml: at most so much of it is found.
        recall: ``found_ml`` / ``reference_ml``, NaN without a reference.
        invented_ml: at most so much is called this organ outside of it.
        lesions: connected components of the label that are large enough.
        lesions_found: of these, at least so many are found.
        lesions_possible: of these, at most so many are found.
        missed_lesion_rate: at most this share is missed, NaN without lesions.
    """

    reference_ml: float
    found_ml: float
    possible_ml: float
    recall: float
    invented_ml: float
    lesions: int
    lesions_found: int
    lesions_possible: int
    missed_lesion_rate: float


_COLUMNS = tuple(CertifiedRecall.__annotations__)


def certified_recall(
    certified: Any,
    label: torch.Tensor,
    class_names: Sequence[str] | Mapping[Any, str],
    spacing: Any = None,
    found_share: float = 0.1,
    smallest_ml: float = 0.0,
    connectivity: int | None = None,
) -> list[dict[str, CertifiedRecall]]:
    """Volume and lesions that are found whatever an attack within the certified radius does.

    Every certified voxel keeps its class, so that ``found_ml`` counts the certified voxels of the organ that are
    right: the worst case is that no abstained voxel of the organ is found, the best that all are. ``invented_ml`` adds
    the abstained voxels outside of the organ to those that are certified wrongly as the organ.

    A **lesion** is a connected component of the class in the label (components that touch count as one), of at least
    ``smallest_ml``. It is **found** when at least ``found_share`` of its voxels, and at least one, are given its class.
    More right voxels never make it missed, so the number of lesions that certified voxels alone find is a bound as
    well, and it is attained together with the one on the volume.

    All bounds hold together with the probability of the certificate, for the smoothed network and every image within
    the radius. They say nothing about one forward pass of the network itself.

    >>> import torch
    >>> from monai_adversarial.metrics import certified_recall
    >>> label = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0]).view(1, 1, 8)
    >>> certified = torch.tensor([1, -1, 0, -1, -1, -1, 0, 0]).view(1, 1, 8)
    >>> scores = certified_recall(certified, label, ["background", "lesion"], spacing=10.0, found_share=0.5)
    >>> {name: round(scores[0]["lesion"][name], 3) for name in ("recall", "lesions", "lesions_found")}
    {'recall': 0.2, 'lesions': 3, 'lesions_found': 1}

    Args:
        certified: a ``CertifiedSegmentation``, or its prediction (batch, 1, spatial...), integers, -1 for abstention.
        label: class map (batch, 1, spatial...).
        class_names: background first (see ``organ_names``).
        spacing: mm along each axis; None to take it from the affine of ``label`` or of the prediction. With fewer than
            three axes "ml" means cubes of 1000 in the unit that remains, such as 1000 mm² of a slice.
        found_share: share of a lesion's voxels that must be found, 0 to 1; 0 asks for one voxel.
        smallest_ml: smaller components are no lesions; they still count in the volume.
        connectivity: of components: 1 (faces) to the number of axes (corners, the default).

    Returns:
        ``{organ: CertifiedRecall}`` per case, in the order of the batch.

    Raises:
        ValueError: for maps as in ``certified_dice``, no spacing, a share outside 0 to 1, or a connectivity that the
            label does not have.

    Source: own; the bounds follow from the certificate of Fischer et al., ICML 2021.

    Survey entry: X16 (adapted).
    """
    names = organ_names(class_names)
    share = check_fraction("found_share", found_share)
    smallest = check_positive("smallest_ml", smallest_ml, allow_zero=True)
    given = getattr(certified, "prediction", certified)
    lengths = _spacing(given, label, spacing)
    prediction, truth = certified_maps(given, label)
    rank = truth.ndim - 2
    corners = rank if connectivity is None else connectivity
    if isinstance(corners, bool) or not isinstance(corners, int) or not 1 <= corners <= rank:
        raise ValueError(f"connectivity must be an integer from 1 to {rank} or None, got {connectivity!r}.")
    structure = generate_binary_structure(rank, corners)
    predictions, truths = prediction[:, 0].cpu().numpy(), truth[:, 0].cpu().numpy()
    scores = []
    for case in range(len(truths)):
        voxel_ml = math.prod(lengths[case]) / _MM3_PER_ML
        scores.append(
            {
                name: _scores(predictions[case], truths[case] == index, index, voxel_ml, share, smallest, structure)
                for index, name in names.items()
            }
        )
    return scores


def _spacing(prediction: torch.Tensor, label: torch.Tensor, spacing: Any) -> list[list[float]]:
    for image in (label, prediction):
        found = spacing_of(image, spacing) if isinstance(image, torch.Tensor) and image.ndim > 2 else None
        if found is not None:
            return [[float(length) for length in row] for row in found]
    raise ValueError("spacing is missing: volumes are in ml, so pass a MetaTensor with an affine or spacing=(mm ...).")


def _scores(
    prediction: np.ndarray,
    organ: np.ndarray,
    index: int,
    voxel_ml: float,
    share: float,
    smallest: float,
    structure: np.ndarray,
) -> CertifiedRecall:
    """Scores of one class of one case."""
    named, abstained = prediction == index, prediction == -1
    right, possible = named & organ, (named | abstained) & organ
    reference, found = int(organ.sum()), int(right.sum())
    sizes, sure, best = _per_component(organ, right, possible, structure)
    counted = sizes * voxel_ml >= smallest * (1 - 1e-9)
    needed = np.maximum(np.ceil(share * sizes - 1e-9), 1)
    lesions = int(counted.sum())
    lesions_found = int((counted & (sure >= needed)).sum())
    return CertifiedRecall(
        reference_ml=reference * voxel_ml,
        found_ml=found * voxel_ml,
        possible_ml=int(possible.sum()) * voxel_ml,
        recall=found / reference if reference else math.nan,
        invented_ml=int(((named | abstained) & ~organ).sum()) * voxel_ml,
        lesions=lesions,
        lesions_found=lesions_found,
        lesions_possible=int((counted & (best >= needed)).sum()),
        missed_lesion_rate=1 - lesions_found / lesions if lesions else math.nan,
    )


def _per_component(organ: np.ndarray, *maps_and_structure: np.ndarray) -> tuple[np.ndarray, ...]:
    """Voxels of each connected component of ``organ``, and how many of them each map holds."""
    *maps, structure = maps_and_structure
    components, count = connected_components(organ, structure)
    return tuple(np.bincount(components[where], minlength=count + 1)[1:] for where in (organ, *maps))


class CertifiedRecallMetric(CertifiedMetric):
    """:func:`certified_recall` of cases that come batch by batch, from all processes.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedRecallMetric
    >>> metric = CertifiedRecallMetric(["background", "liver"], spacing=10.0)
    >>> _ = metric(torch.tensor([[[1, -1, 0]]]), torch.tensor([[[1, 1, 0]]]))
    >>> _ = metric(torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 1, 0]]]))
    >>> found = metric.aggregate()
    >>> found["liver_found_ml"], found["liver_least_recall"], found["liver_missed_lesion_rate"]
    (0.015, 0.5, 0.0)

    Args:
        class_names: see :func:`certified_recall`, as all arguments.
        spacing: see above.
        found_share: see above.
        smallest_ml: see above.
        connectivity: see above.

    Raises:
        ValueError: as :func:`certified_recall`, and for no data.

    Source: own.

    Survey entry: X16 (adapted).
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        spacing: Any = None,
        found_share: float = 0.1,
        smallest_ml: float = 0.0,
        connectivity: int | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(organ_names(class_names).values())
        self.columns = tuple(f"{name}_{column}" for name in self.names for column in _COLUMNS)
        self.class_names, self.spacing, self.connectivity = class_names, spacing, connectivity
        self.found_share = check_fraction("found_share", found_share)
        self.smallest_ml = check_positive("smallest_ml", smallest_ml, allow_zero=True)

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        scores = certified_recall(
            y_pred,
            self.label(y),
            self.class_names,
            self.spacing,
            self.found_share,
            self.smallest_ml,
            self.connectivity,
        )
        rows = [[case[name][column] for name in self.names for column in _COLUMNS] for case in scores]  # type: ignore[literal-required]
        return torch.tensor(rows, dtype=torch.float64)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Per organ: means over the cases, the worst case, and lesions pooled over all cases.

        Returns:
            ``{organ}_...``: the means ``reference_ml``, ``found_ml``, ``possible_ml``, ``recall``, ``invented_ml``, the
            smallest recall ``least_recall``, the sums ``lesions``, ``lesions_found``, ``lesions_possible``, and the
            ``missed_lesion_rate`` of the sums. Means are over cases that have the organ, for ``invented_ml`` over all;
            NaN where there is none.
        """
        found: dict[str, float] = {}
        for name in self.names:
            column = {key: self.column(f"{name}_{key}") for key in _COLUMNS}
            present = column["reference_ml"] > 0
            scores = {
                key: mean_of_defined(column[key][present].tolist())
                for key in ("reference_ml", "found_ml", "possible_ml", "recall")
            }
            scores["least_recall"] = float(column["recall"][present].min()) if bool(present.any()) else math.nan
            scores["invented_ml"] = mean_of_defined(column["invented_ml"].tolist())
            for key in ("lesions", "lesions_found", "lesions_possible"):
                scores[key] = float(column[key].nansum())
            lesions = scores["lesions"]
            scores["missed_lesion_rate"] = 1 - scores["lesions_found"] / lesions if lesions else math.nan
            found |= {f"{name}_{key}": value for key, value in scores.items()}
        return found
