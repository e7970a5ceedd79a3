# SPDX-License-Identifier: Apache-2.0
"""Small U-Nets for hippocampus MRI that are trained in minutes, plainly or against an attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import ResizeWithPadOrCrop
from torch import nn

from monai_adversarial.attacks import Attack

__all__ = ["SIZE", "hippocampus_volumes", "small_unet", "trained_unet"]

#: voxels of 1 mm; the crops of the data set are about 35 x 51 x 35
SIZE = (32, 48, 32)


def hippocampus_volumes(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All patients: images (patient, 1, *SIZE) scaled by their own 1st and 99th percentile to 0 to 1, and labels."""
    grid = ResizeWithPadOrCrop(SIZE)
    images, labels = [], []
    for file in sorted((folder / "hippocampus_mri" / "images").glob("*.nii.gz")):
        image = np.asarray(nibabel.load(file).dataobj, dtype=np.float32)
        label = np.asarray(nibabel.load(folder / "hippocampus_mri" / "labels" / file.name).dataobj)
        low, high = np.percentile(image, [1, 99]).astype(np.float32)
        images.append(torch.as_tensor(grid(((image - low) / (high - low)).clip(0, 1)[None])))
        labels.append(torch.as_tensor(grid(label[None].astype(np.int64))))
    return torch.stack(images).float(), torch.stack(labels).long()


def small_unet(seed: int = 0, channels: tuple[int, ...] = (8, 16, 32), **options: Any) -> nn.Module:
    """Three classes, BatchNorm, one convolution at each level."""
    torch.manual_seed(seed)
    return UNet(3, 1, 3, channels, (2,) * (len(channels) - 1), num_res_units=0, norm="batch", **options)


def trained_unet(
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int = 15,
    seed: int = 0,
    make: Callable[[int], nn.Module] = small_unet,
    attack: Attack | None = None,
) -> nn.Module:
    """A network of ``make(seed)`` after Dice + cross-entropy on batches of 4.

    Args:
        images, labels: (patient, 1, spatial...).
        epochs: passes over all patients.
        seed: of weights and batches.
        make: seed -> network.
        attack: replaces each batch by its worst one; None for plain training.
    """
    network = make(seed)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * -(-len(images) // 4))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(4):
            image, label = images[rows], labels[rows]
            if attack is not None:
                image = torch.as_tensor(attack.perturb(network, image, label).adversarial)
            network.train()
            optimizer.zero_grad()
            loss(network(image), label).backward()
            optimizer.step()
            schedule.step()
    return network.eval()
