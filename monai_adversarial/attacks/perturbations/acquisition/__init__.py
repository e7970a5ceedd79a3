# SPDX-License-Identifier: Apache-2.0
"""How a scan was acquired and reconstructed, as what an attack changes."""

from __future__ import annotations

from monai_adversarial.attacks.perturbations.acquisition.acquisition import Acquisition, BoundAcquisition
from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.contrast_phase import ContrastPhase
from monai_adversarial.attacks.perturbations.acquisition.ct import CTAcquisition
from monai_adversarial.attacks.perturbations.acquisition.cupping import Cupping
from monai_adversarial.attacks.perturbations.acquisition.dose_reduction import DoseReduction
from monai_adversarial.attacks.perturbations.acquisition.gantry_tilt import GantryTilt
from monai_adversarial.attacks.perturbations.acquisition.ghosting import Ghosting
from monai_adversarial.attacks.perturbations.acquisition.line_motion import LineMotion
from monai_adversarial.attacks.perturbations.acquisition.metal_streaks import MetalStreaks
from monai_adversarial.attacks.perturbations.acquisition.mri import MRIAcquisition
from monai_adversarial.attacks.perturbations.acquisition.reconstruction_kernel import ReconstructionKernel
from monai_adversarial.attacks.perturbations.acquisition.ring_artifact import RingArtifact
from monai_adversarial.attacks.perturbations.acquisition.slice_thickness import SliceThickness
from monai_adversarial.attacks.perturbations.acquisition.spike_artifact import SpikeArtifact
from monai_adversarial.attacks.perturbations.acquisition.ultrasound import UltrasoundReconstruction
from monai_adversarial.attacks.perturbations.acquisition.window_shift import WindowShift

__all__ = [
    "Acquisition",
    "AcquisitionBlock",
    "BoundAcquisition",
    "BoundAcquisitionBlock",
    "CTAcquisition",
    "ContrastPhase",
    "Cupping",
    "DoseReduction",
    "GantryTilt",
    "Ghosting",
    "LineMotion",
    "MRIAcquisition",
    "MetalStreaks",
    "ReconstructionKernel",
    "RingArtifact",
    "SliceThickness",
    "SpikeArtifact",
    "UltrasoundReconstruction",
    "Variable",
    "WindowShift",
]
