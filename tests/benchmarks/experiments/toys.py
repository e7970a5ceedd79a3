# SPDX-License-Identifier: Apache-2.0
"""Images that a small network learns in a second: class 1 has a bright square."""

from __future__ import annotations

import torch

from benchmarks.class_balance import Images


def squares(seed: int, size: int = 16, train: int = 128, attacked: int = 16, clean: int = 32) -> Images:
    """Parts of gray noise, half of the images with a square that is 0.3 brighter."""
    generator = torch.Generator().manual_seed(seed)
    count = train + attacked + clean
    labels = torch.arange(count) % 2
    images = 0.4 + 0.05 * torch.randn(count, 1, size, size, generator=generator)
    images[labels == 1, :, 5:11, 5:11] += 0.3
    parts = [train, attacked, clean]
    named = zip(("train", "attacked", "clean"), images.clamp(0, 1).split(parts), labels.split(parts), strict=True)
    return {name: (one, label) for name, one, label in named}
