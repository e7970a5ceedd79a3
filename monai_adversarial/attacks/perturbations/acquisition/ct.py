# SPDX-License-Identifier: Apache-2.0
"""A CT scanner as what an attack changes."""

from __future__ import annotations

from collections.abc import Sequence

from monai_adversarial.attacks.perturbations.acquisition.acquisition import Acquisition
from monai_adversarial.attacks.perturbations.acquisition.cupping import Cupping
from monai_adversarial.attacks.perturbations.acquisition.dose_reduction import DoseReduction
from monai_adversarial.attacks.perturbations.acquisition.reconstruction_kernel import ReconstructionKernel
from monai_adversarial.attacks.perturbations.acquisition.ring_artifact import RingArtifact
from monai_adversarial.attacks.perturbations.acquisition.slice_thickness import SliceThickness
from monai_adversarial.attacks.perturbations.acquisition.window_shift import WindowShift
from monai_adversarial.attacks.perturbations.base import Perturbation

__all__ = ["CTAcquisition"]


class CTAcquisition(Acquisition):
    """Parameters of a CT scan within what may differ between scanners and protocols.

    Blocks that need to know more than the image are left out unless they are given: ``ContrastPhase`` (masks of
    organs), ``MetalStreaks`` (a place) and ``GantryTilt`` (which moves labels).

    >>> from monai_adversarial.attacks import CTAcquisition
    >>> [type(block).__name__ for block in CTAcquisition().perturbations]
    ['Cupping', 'RingArtifact', 'DoseReduction', 'ReconstructionKernel', 'SliceThickness', 'WindowShift']

    Args:
        blocks: in the order in which they act; None for cupping and rings (from the beam and the detector), noise of a
            lower dose, the kernel, the thickness of slices and the window, each with its defaults.
        window: (low, high) in HU of the window in use, for a model without a window of its own; None for that of the
            intensity map. Only with ``blocks=None``: a ``WindowShift`` that is given has its own.

    Raises:
        ValueError: for an empty sequence, or a window beside blocks.
        TypeError: for a member that is no perturbation.

    Survey entry: A15 (own).

    Source: our own counterpart for CT of Byra et al. 2020 (see
    :class:`~monai_adversarial.attacks.UltrasoundReconstruction`).
    """

    def __init__(self, blocks: Sequence[Perturbation] | None = None, window: tuple[float, float] | None = None) -> None:
        if blocks is None:
            blocks = (
                Cupping(),
                RingArtifact(),
                DoseReduction(),
                ReconstructionKernel(),
                SliceThickness(),
                WindowShift(window=window),
            )
        elif window is not None:
            raise ValueError(f"window goes with blocks=None, got {window!r} and blocks: pass WindowShift(window=...).")
        super().__init__(blocks)
