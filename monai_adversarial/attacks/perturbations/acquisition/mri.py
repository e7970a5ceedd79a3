# SPDX-License-Identifier: Apache-2.0
"""An MRI scanner as what an attack changes."""

from __future__ import annotations

from collections.abc import Sequence

from monai_adversarial.attacks.perturbations.acquisition.acquisition import Acquisition
from monai_adversarial.attacks.perturbations.acquisition.ghosting import Ghosting
from monai_adversarial.attacks.perturbations.acquisition.line_motion import LineMotion
from monai_adversarial.attacks.perturbations.acquisition.spike_artifact import SpikeArtifact
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.perturbations.bias_field import BiasField

__all__ = ["MRIAcquisition"]


class MRIAcquisition(Acquisition):
    """Parameters of an MRI scan: the B1 field, motion between shots, ghosts and spikes.

    Ghosts and motion are those of the magnitude image, whose phase is not known and taken to be zero.

    >>> from monai_adversarial.attacks import MRIAcquisition
    >>> [type(block).__name__ for block in MRIAcquisition().perturbations]
    ['BiasField', 'LineMotion', 'Ghosting', 'SpikeArtifact']

    Args:
        blocks: in the order in which they act; None for all four, each with its defaults (the B1 field is a
            ``BiasField`` of 30 %, which multiplies the image's own values).

    Raises:
        ValueError: for an empty sequence.
        TypeError: for a member that is no perturbation.

    Survey entry: A15 (own).

    Source: our own counterpart for MRI of Byra et al. 2020 (see
    :class:`~monai_adversarial.attacks.UltrasoundReconstruction`).
    """

    def __init__(self, blocks: Sequence[Perturbation] | None = None) -> None:
        if blocks is None:
            blocks = (BiasField(0.3, degree=3, domain="image"), LineMotion(), Ghosting(), SpikeArtifact())
        super().__init__(blocks)
