# SPDX-License-Identifier: Apache-2.0
"""Attacks on training data, each with a manifest, and defenses that look for the poison."""

from __future__ import annotations

from monai_adversarial.poisoning.base import Poison
from monai_adversarial.poisoning.dataset import DeletedDataset, PoisonedDataset
from monai_adversarial.poisoning.defenses import (
    Suspects,
    activation_clustering,
    loss_filter,
    pooled_features,
    spectral_signatures,
)
from monai_adversarial.poisoning.gradient_matching import MatchedPoison, gradient_matching
from monai_adversarial.poisoning.label_edits import BoundaryJitter, ClassFlip, LabelEdit, holds_organ
from monai_adversarial.poisoning.support_vector_machine import (
    PoisonPoint,
    poison_support_vector_machine,
    validation_hinge,
)
from monai_adversarial.poisoning.triggers import (
    Backdoor,
    BlendedTrigger,
    FrequencyTrigger,
    PatchTrigger,
    Trigger,
    backdoor_success_rate,
)

__all__ = [
    "Backdoor",
    "BlendedTrigger",
    "BoundaryJitter",
    "ClassFlip",
    "DeletedDataset",
    "FrequencyTrigger",
    "LabelEdit",
    "MatchedPoison",
    "PatchTrigger",
    "Poison",
    "PoisonPoint",
    "PoisonedDataset",
    "Suspects",
    "Trigger",
    "activation_clustering",
    "backdoor_success_rate",
    "gradient_matching",
    "holds_organ",
    "loss_filter",
    "poison_support_vector_machine",
    "pooled_features",
    "spectral_signatures",
    "validation_hinge",
]
