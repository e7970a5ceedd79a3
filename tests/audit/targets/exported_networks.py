# SPDX-License-Identifier: Apache-2.0
"""Small networks to export, an image for them, and an attack on what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn

from monai_adversarial.attacks import (
    PGD,
    AdditiveNoise,
    Attack,
    AttackResult,
    BoundPerturbation,
    Search,
    SearchRun,
)
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.models import AttackedModel

#: of the images below, mapped to 0..1
WINDOW = (-160.0, 240.0)
SHAPE = (24, 20, 18)


class Blob(nn.Module):
    """Blurs, and finds what is brighter than a half. ``end`` is nothing, ``"softmax"`` or ``"sigmoid"``."""

    def __init__(self, classes: int = 2, end: str = "", steepness: float = 6.0) -> None:
        super().__init__()
        self.blur = nn.Conv3d(1, 1, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(1)
        self.last = nn.Conv3d(1, classes, 1)
        self.end = end
        with torch.no_grad():
            self.blur.weight.fill_(1 / 27)
            sign = torch.ones(classes)
            sign[0] = -1.0 if classes > 1 else 1.0
            self.last.weight.copy_(sign.view(-1, 1, 1, 1, 1) * steepness)
            self.last.bias.copy_(-sign * steepness / 2)
            if classes > 2:
                self.last.bias[2:] -= steepness
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.last(self.norm(self.blur(image)))
        if self.end == "softmax":
            return torch.softmax(logits, dim=1)
        if self.end == "sigmoid":
            return torch.sigmoid(logits)
        return logits


def write_image(path: Path) -> Path:
    """A scan in HU with an ellipsoid of 52 HU in 28 HU (the networks cut at 40), anisotropic, not in RAS order."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.4
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    voxels = np.where(inside, 52, 28) + noise
    affine = np.diag([-2.0, -1.5, 3.0, 1.0])
    affine[:3, 3] = (30.0, 20.0, -10.0)
    nibabel.save(nibabel.Nifti1Image(voxels.round().astype(np.int16), affine), path)
    return path


def model_of(parts: TargetParts) -> AttackedModel:
    """As an audit makes it."""
    return AttackedModel.from_parts(
        parts.network,
        parts.inferer,
        parts.preprocessing,
        parts.postprocessing,
        image_key=parts.image_key,
        **parts.told,
    )


def input_of(parts: TargetParts, path: Path) -> MetaTensor:
    """The network's input, (1, channel, spatial...)."""
    assert parts.preprocessing is not None
    return parts.preprocessing({parts.image_key: str(path)})[parts.image_key][None]


def attacked(parts: TargetParts, path: Path, budget: float = 8.0, steps: int = 5, **choices: Any) -> AttackResult:
    """PGD in HU against the clean prediction."""
    return PGD(budget, units="HU", steps=steps, **choices)(model_of(parts), input_of(parts, path))


class RandomSearch(Search):
    """Tries a random point of the budget in each step, without gradients."""

    uses_gradients = False

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        return _RandomSearchRun(bound, steps)


class _RandomSearchRun(SearchRun):
    def advance(self, parameters: Any, gradients: Any, values: torch.Tensor, step: int) -> Any:
        self.best(parameters, values)
        return self.bound.random(self.generators)


def attacked_by_queries(parts: TargetParts, path: Path, budget: float = 16.0, steps: int = 3) -> AttackResult:
    """Random noise in HU against the clean prediction."""
    attack = Attack(AdditiveNoise(budget, units="HU"), search=RandomSearch(), steps=steps)
    return attack(model_of(parts), input_of(parts, path))
