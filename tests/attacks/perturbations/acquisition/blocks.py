# SPDX-License-Identifier: Apache-2.0
"""Every block with settings for small images."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import (
    ContrastPhase,
    Cupping,
    DoseReduction,
    GantryTilt,
    Ghosting,
    LineMotion,
    MetalStreaks,
    Perturbation,
    ReconstructionKernel,
    RingArtifact,
    SliceThickness,
    SpikeArtifact,
    UltrasoundReconstruction,
    WindowShift,
)

SHAPE = (8, 6, 5)


def organs() -> torch.Tensor:
    """Two boxes, one of them with half of its voxels' edges."""
    masks = torch.zeros(2, *SHAPE)
    masks[0, :3] = 1
    masks[1, 4:, 2:4] = 0.5
    return masks


def ct_blocks() -> list[Perturbation]:
    return [
        ContrastPhase(organs(), 40),
        MetalStreaks(100, (1.0, 2.0, 0.0), streaks=3),
        Cupping(30),
        RingArtifact(20, rings=3),
        DoseReduction(0.25),
        DoseReduction(0.5, texture="white"),
        ReconstructionKernel(0.3, bands=3),
        SliceThickness(9.0),
        WindowShift(20, 0.1),
    ]


def mri_blocks() -> list[Perturbation]:
    return [LineMotion(2.0, 4.0, shots=3), Ghosting(0.3, phase_axis=1), SpikeArtifact(0.1)]


def all_blocks() -> list[Perturbation]:
    return [*ct_blocks(), GantryTilt(5), *mri_blocks(), UltrasoundReconstruction(knots=3, gray_scale=(-2000.0, 2000.0))]


def name_of(block: object) -> str:
    return type(block).__name__
