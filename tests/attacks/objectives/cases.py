# SPDX-License-Identifier: Apache-2.0
"""Logits and references in every mode that objectives know."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives import OBJECTIVES, Progress, Target

#: of sums that any number of classes has; DLR needs three, and has tests of its own
NAMES = tuple(name for name in OBJECTIVES if name != "dlr")
MODES = ("hard", "soft", "sigmoid", "sigmoid_one_channel")
SHAPE = (2, 3, 2)
PROGRESS = Progress(step=3, steps=10)


def random_logits(mode: str, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """Random logits (batch, class, *SHAPE) that leave some voxels right and some wrong."""
    generator = torch.Generator().manual_seed(seed)
    classes = 1 if mode == "sigmoid_one_channel" else 3
    return torch.randn(batch, classes, *SHAPE, generator=generator, dtype=dtype) * 1.5


def random_target(
    mode: str,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    region: bool = False,
    classes: tuple[int, ...] | None = None,
) -> Target:
    """A reference in which every class occurs in every sample; voxel weights and a choice of classes on demand."""
    generator = torch.Generator().manual_seed(seed + 100)
    count = 1 if mode == "sigmoid_one_channel" else 3
    weight = torch.rand(batch, *SHAPE, generator=generator, dtype=dtype) if region else None
    mask = None if classes is None else torch.tensor([number in classes for number in range(count)])
    options = {"weight": weight, "class_mask": mask, "activation": mode.split("_")[0] if "sig" in mode else "softmax"}
    if mode == "hard":
        return Target(3, index=random_index(batch, 3, generator), **options)
    if mode == "soft":
        return Target(3, soft=torch.randn(batch, 3, *SHAPE, generator=generator, dtype=dtype).softmax(1), **options)
    if mode == "sigmoid":
        return Target(3, soft=torch.rand(batch, 3, *SHAPE, generator=generator, dtype=dtype).round(), **options)
    return Target(1, soft=random_index(batch, 2, generator).unsqueeze(1).to(dtype), **options)


def random_index(batch: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    """Class indices (batch, *SHAPE) with at least one voxel of each class in each sample."""
    index = torch.randint(0, classes, (batch, *SHAPE), generator=generator)
    index.flatten(1)[:, :classes] = torch.arange(classes)
    return index


def chosen_classes(mode: str) -> tuple[int, ...]:
    """A restriction to some classes that every mode and objective admits."""
    return (0,) if mode == "sigmoid_one_channel" else (1, 2)
