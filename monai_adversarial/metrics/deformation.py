# SPDX-License-Identifier: Apache-2.0
"""How far and how smoothly a geometric attack moved the anatomy."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.utils.jacobian import jacobian_determinant, lowest_corner_determinant
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import check_spacing

__all__ = ["DeformationStatistics", "deformation_statistics"]

NUMBERS = ("mean_mm", "median_mm", "p95_mm", "largest_mm", "lowest_jacobian", "highest_jacobian", "folding_share")


def deformation_statistics(displacement_mm: torch.Tensor, spacing: Any) -> dict[str, torch.Tensor]:
    """Lengths of a displacement in mm and Jacobian determinants of its map, of each sample.

    >>> import torch
    >>> from monai_adversarial.metrics import deformation_statistics
    >>> shift = torch.zeros(1, 2, 8, 8)
    >>> shift[:, 0], shift[:, 1] = 3.0, 4.0
    >>> found = deformation_statistics(shift, spacing=(1.0, 2.0))
    >>> float(found["largest_mm"]), float(found["lowest_jacobian"]), float(found["folding_share"])
    (5.0, 1.0, 0.0)

    Args:
        displacement_mm: (batch, dimension, spatial...) along the voxel axes in mm, with 1 to 3 dimensions.
        spacing: voxel size in mm: one number, one per axis, or one row per sample.

    Returns:
        Each (batch,), float64. Lengths: ``mean_mm``, ``median_mm``, ``p95_mm``, ``largest_mm``. Determinants:
        ``lowest_jacobian`` at voxels and at the corners of the cells between them, ``highest_jacobian`` at voxels.
        ``folding_share``: share of the voxels with a determinant of 0 or less.

    Raises:
        ValueError: for shapes that do not fit, NaN, and a spacing that is none.

    Source: textbook.

    Survey entry: M11 (own).
    """
    moved = as_plain(displacement_mm).detach().double()
    if moved.ndim < 3 or moved.shape[1] != moved.ndim - 2 or not bool(torch.isfinite(moved).all()):
        raise ValueError(
            "displacement_mm must be finite and have shape (batch, dimension, spatial...), got "
            f"{tuple(moved.shape)}, or NaN."
        )
    size = check_spacing(spacing).to(moved)
    if size.ndim == 0:
        size = size.expand(moved.shape[1])
    if size.shape not in ((moved.shape[1],), (moved.shape[0], moved.shape[1]), (1, moved.shape[1])):
        raise ValueError(f"spacing must give {moved.shape[1]} values in mm, got shape {tuple(size.shape)}.")
    length = moved.norm(dim=1).flatten(1)
    determinant = jacobian_determinant(moved, size).flatten(1)
    return {
        "mean_mm": length.mean(dim=1),
        "median_mm": _quantile(length, 0.5),
        "p95_mm": _quantile(length, 0.95),
        "largest_mm": length.amax(dim=1),
        "lowest_jacobian": torch.minimum(determinant.amin(dim=1), lowest_corner_determinant(moved, size)),
        "highest_jacobian": determinant.amax(dim=1),
        "folding_share": (determinant <= 0).double().mean(dim=1),
    }


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """As ``torch.quantile``, which refuses more than 2**24 values."""
    ordered = values.sort(dim=1).values
    place = share * (ordered.shape[1] - 1)
    lower = int(place)
    upper = min(lower + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, lower], ordered[:, upper], place - lower)


class DeformationStatistics(CaseMetric):
    """:func:`deformation_statistics` of what comes batch by batch, from all processes.

    ``aggregate`` has the means over the cases, and ``worst_mm``, ``worst_jacobian`` and ``worst_folding_share``, those
    of the worst case.

    >>> from monai_adversarial.attacks import ElasticAttack
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.metrics import DeformationStatistics
    >>> metric = DeformationStatistics()
    >>> _ = metric.add(ElasticAttack(5.0, steps=1)(*example_case(16)))
    >>> metric.aggregate()["worst_mm"] <= 5.01, metric.aggregate()["folding_share"]
    (True, 0.0)

    Called with the displacement in mm (batch, dimension, spatial...) and ``spacing`` in mm. ``add`` takes the map along
    which the image was sampled, whose budget the attack verifies.

    Raises:
        ValueError: for a displacement or spacing that does not fit, and results without one displacement.

    Source: textbook.

    Survey entry: M11 (own).
    """

    columns = NUMBERS

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, spacing: Any = None) -> torch.Tensor:
        """See the class."""
        if spacing is None:
            raise ValueError("spacing must be given in mm along each axis, got None.")
        return torch.stack(list(deformation_statistics(y_pred, spacing).values()), dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        bound = result.bound
        if not hasattr(bound, "displacement_mm"):
            raise ValueError(
                "result must be of an attack with one displacement, such as ElasticAttack, got "
                f"{type(bound).__name__}: call the metric with the displacement of a chain."
            )
        return self(bound.displacement_mm(result.parameters), spacing=bound.spacing)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See the class."""
        worst = {
            "worst_mm": self.column("largest_mm").nan_to_num(nan=-torch.inf).amax(),
            "worst_jacobian": self.column("lowest_jacobian").nan_to_num(nan=torch.inf).amin(),
            "worst_folding_share": self.column("folding_share").nan_to_num(nan=0.0).amax(),
        }
        return super().aggregate() | {name: float(value) for name, value in worst.items()}
