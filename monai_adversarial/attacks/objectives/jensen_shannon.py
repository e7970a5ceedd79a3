# SPDX-License-Identifier: Apache-2.0
"""Jensen-Shannon divergence between prediction and reference."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison

__all__ = ["JensenShannon"]


class JensenShannon(VoxelwiseObjective):
    """Mean Jensen-Shannon divergence of the voxels, in nats.

    Bounded by log 2, so that voxels which are very wrong already lose their pull without a mask.

    >>> import math
    >>> import torch
    >>> from monai_adversarial.attacks.objectives import JensenShannon, Progress, Target
    >>> target = Target.from_label(torch.ones(1, 1, 4), classes=2)
    >>> wrong = torch.tensor([[[50.0] * 4, [-50.0] * 4]])
    >>> math.isclose(JensenShannon().value(wrong, target, Progress(0, 1)), math.log(2), rel_tol=1e-4)
    True

    Source: used for segmentation by Croce, Singh and Hein, ECCV 2024 ("js-avg" of SEA).

    Survey entry: X04 (published).
    """

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        return comparison.jensen_shannon()
