# SPDX-License-Identifier: Apache-2.0
"""Attacks by networks that are trained once: noise, deformation and shading from one forward pass."""

from __future__ import annotations

from monai_adversarial.generators.adv_gan import AdvGAN
from monai_adversarial.generators.chen import ChenAttack
from monai_adversarial.generators.feed_forward import FeedForward
from monai_adversarial.generators.fsraa import FSRAA, FeaturesWithin, dilated_organs, grad_cam_focus
from monai_adversarial.generators.generated_attack import GeneratedAttack
from monai_adversarial.generators.lesions import LesionInsertion, LesionRemoval, PaintedScan, lesion_cubes
from monai_adversarial.generators.training import GeneratorTraining, Settings, fit_generator

__all__ = [
    "FSRAA",
    "AdvGAN",
    "ChenAttack",
    "FeaturesWithin",
    "FeedForward",
    "GeneratedAttack",
    "GeneratorTraining",
    "LesionInsertion",
    "LesionRemoval",
    "PaintedScan",
    "Settings",
    "dilated_organs",
    "fit_generator",
    "grad_cam_focus",
    "lesion_cubes",
]
