# SPDX-License-Identifier: Apache-2.0
"""What a purifier knows about the images besides their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from monai_adversarial.utils.draws import draw_seed

__all__ = ["ImageContext"]


@dataclass(frozen=True)
class ImageContext:
    """Spacing and seeds of a batch.

    >>> import torch
    >>> from monai_adversarial.purifiers import ImageContext
    >>> context = ImageContext(spacing=torch.tensor([[1.0, 1.0, 4.0]]), seeds=(7,))
    >>> context.in_voxels(2.0, torch.zeros(1, 1, 8, 8, 8), "sigma").tolist()
    [[2.0, 2.0, 0.5]]
    >>> first, again = (torch.rand(2, generator=context.generators("cpu", batch=1)[0]) for _ in range(2))
    >>> torch.equal(first, again)
    True

    Args:
        spacing: (batch, spatial dimensions) in mm on the CPU, None where it is not known.
        seeds: one integer per sample; empty where nothing random is wanted.
        stage: position in a sequence of purifiers: each has random numbers of its own.
        interpolation: of purifiers that move anatomy: ``"bilinear"`` for images, or ``"nearest"`` for labels, also
            those stored as floats, whose values must not mix. Integers never mix.
    """

    spacing: torch.Tensor | None = None
    seeds: tuple[int, ...] = ()
    stage: int = 0
    interpolation: str = "bilinear"

    def generators(self, device: torch.device | str, batch: int, stream: int = 0) -> list[torch.Generator]:
        """New generators, one per sample; the same ones again while the same draw is in force.

        Args:
            device: of the generators: those of a GPU draw other numbers than those of a CPU.
            batch: number of samples.
            stream: keeps apart what one purifier draws for different ends.

        Raises:
            ValueError: when there are no seeds, or not one per sample.
        """
        if len(self.seeds) != batch:
            raise ValueError(f"seeds must have one integer per sample ({batch}), got {len(self.seeds)}.")
        made = []
        for seed in self.seeds:
            generator = torch.Generator(device=device)
            generator.manual_seed(draw_seed(seed, self.stage, stream))
            made.append(generator)
        return made

    def in_voxels(self, millimeters: float | Sequence[float], image: torch.Tensor, what: str) -> torch.Tensor:
        """A length in mm as voxels along each axis, (batch, spatial dimensions), float64 on the CPU.

        Args:
            millimeters: one number or one per axis.
            image: (batch, channel, spatial...).
            what: the argument that is in mm, for the error message.

        Raises:
            ValueError: when the spacing is not known, or the number of lengths is neither 1 nor that of the axes.
        """
        if self.spacing is None:
            raise ValueError(
                f"{what} is in mm but the spacing is not known: pass a MetaTensor with an affine, or spacing=(mm along "
                "each axis)."
            )
        dimensions = image.ndim - 2
        lengths = torch.as_tensor(millimeters, dtype=torch.float64)
        if lengths.numel() not in (1, dimensions):
            raise ValueError(
                f"{what} must be one number of mm or one per spatial dimension of the image ({dimensions}), got "
                f"{lengths.numel()}: {millimeters!r}."
            )
        return lengths.expand(dimensions) / self.spacing.expand(image.shape[0], dimensions)

    def select(self, indices: Sequence[int]) -> ImageContext:
        """The same for some of the samples."""
        spacing = self.spacing if self.spacing is None or len(self.spacing) == 1 else self.spacing[list(indices)]
        return replace(self, spacing=spacing, seeds=tuple(self.seeds[i] for i in indices) if self.seeds else ())
