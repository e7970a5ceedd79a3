# SPDX-License-Identifier: Apache-2.0
"""How large and how often: what all parts of ``python -m benchmarks`` are told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

__all__ = ["Settings"]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Settings:
    """Sizes and counts.

    Args:
        rounds: interleaved rounds of the timings; slow parts take half of them, at least two.
        size: voxels along each axis of the volume of a step, and of a window.
        threads: CPU threads of torch.
        device: where to compute.
        cases: phantoms for a Dice after attack.
        steps: of the attack whose precision modes are compared.
        passes: numbers of forward + backward passes at which attacks are compared at equal cost.
        most_passes: where the search for the passes that reach a Dice gives up.
        volume: voxels along each axis of the volume whose copies are counted; its windows are half as long.
        classes: numbers of classes for that, and for the scaling with classes.
        layered: voxels along each axis of the volume on which a network's layers are computed again.
        windows: numbers of windows for the scaling, each an (n, m, k) grid of them.
        plane: pixels along each axis of a 2D image.
        purifier_size: voxels along each axis for the purifiers.
        training_size: voxels along each axis of a training patch.
        compiled: also time ``torch.compile``, whose first call takes minutes.
    """

    rounds: int = 5
    size: int = 96
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    device: str = field(default_factory=_device)
    cases: int = 2
    steps: int = 20
    passes: tuple[int, ...] = (5, 10, 20)
    most_passes: int = 40
    volume: int = 128
    classes: tuple[int, ...] = (3, 14, 105)
    layered: int = 176
    windows: tuple[tuple[int, int, int], ...] = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4))
    plane: int = 256
    purifier_size: int = 128
    training_size: int = 48
    compiled: bool = True

    @property
    def few_rounds(self) -> int:
        """Rounds of a slow part."""
        return max(2, self.rounds // 2) if self.rounds > 1 else 1
