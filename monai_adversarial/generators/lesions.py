# SPDX-License-Identifier: Apache-2.0
"""Lesions painted into a scan, or out of it, inside a small cube."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import UNet

from monai_adversarial.data.saving import save_adversarial_nifti
from monai_adversarial.networks.patch_discriminator import patch_discriminator
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["LesionInsertion", "LesionRemoval", "PaintedScan", "lesion_cubes"]

# As CT-GAN: a cube of 32 voxels, of which 6 to 26 along each axis are painted.
CUBE, MARGIN = 32, 6
#: a cube in the values of the generator, (batch, 1, cube...) -> (batch,), small where the attacker has what it wants
Task = Callable[[torch.Tensor], torch.Tensor]


def lesion_cubes(count: int, lesion: bool, size: int = CUBE, seed: int = 0, organ: float = 60.0) -> torch.Tensor:
    """Phantom cubes of organ texture in HU, (count, 1, size, size, size), with or without a lesion in the middle.

    A lesion is an ellipsoid 20 to 40 HU darker than the organ, with a wavy edge. It is drawn from proportions, not from
    any patient's scan.

    Example:
        >>> from monai_adversarial.generators import lesion_cubes
        >>> with_lesion, without = (lesion_cubes(2, lesion, size=16) for lesion in (True, False))
        >>> tuple(without.shape), bool(with_lesion[:, :, 7:9, 7:9, 7:9].mean() < without.mean() - 10)
        ((2, 1, 16, 16, 16), True)

    Args:
        count: of cubes.
        lesion: whether there is one.
        size: voxels along each axis, at least 16.
        seed: of all draws.
        organ: mean HU of the organ.

    Raises:
        ValueError: for counts or sizes that are too small.

    Source: our own.
    """
    check_count("count", count)
    check_count("size", size, minimum=16)
    generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    made = []
    for _ in range(count):
        grain = torch.randn(1, 1, size, size, size, generator=generator)
        smooth = torch.nn.functional.avg_pool3d(grain, 5, stride=1, padding=2, count_include_pad=False)
        cube = organ + 4 * grain + 20 * smooth
        # Drawn for healthy cubes too, so that a seed gives the same texture with and without the lesion.
        radius, darker = 0.25 + 0.2 * torch.rand(3, generator=generator), 20 + 20 * torch.rand((), generator=generator)
        waves = torch.rand(3, generator=generator) * 6.28
        if lesion:
            edge = 1 + 0.15 * ((6 * x + waves[0]).sin() + (6 * y + waves[1]).sin() + (6 * z + waves[2]).sin()) / 3
            away = ((x / radius[0]) ** 2 + (y / radius[1]) ** 2 + (z / radius[2]) ** 2).sqrt()
            cube = cube - darker * torch.sigmoid((edge - away) * 12)
        made.append(cube[0])
    return torch.stack(made)


@dataclass(frozen=True)
class PaintedScan:
    """A scan with a painted cube.

    >>> from monai_adversarial.generators import LesionRemoval, lesion_cubes
    >>> removal = LesionRemoval(size=16, margin=4, channels=(2, 4))
    >>> history = removal.fit(lesion_cubes(2, lesion=False, size=16), epochs=1)
    >>> scan = removal(lesion_cubes(1, lesion=True, size=16, seed=7), (8, 8, 8))
    >>> scan.what, scan.image.shape, scan.changed.dtype
    ('lesion removed', torch.Size([1, 1, 16, 16, 16]), torch.bool)

    Args:
        image: as the scan was given; a ``MetaTensor`` says ``synthetic`` in its meta data, with what was done.
        changed: boolean (batch, 1, spatial...), the voxels that were painted.
        what: "lesion inserted" or "lesion removed".
    """

    image: torch.Tensor
    changed: torch.Tensor
    what: str

    def save(self, reference: Any, path: str | os.PathLike[str]) -> Path:
        """Write the scan as NIfTI, marked as adversarial and synthetic in its header; see
        :func:`~monai_adversarial.data.saving.save_adversarial_nifti`.

        Args:
            reference: the file that the scan was read from.
            path: its name contains "adversarial".
        """
        return save_adversarial_nifti(self.image, reference, path, f"synthetic, {self.what}")


class _LesionPainter:
    """A conditional GAN that fills the inner part of a cube from what surrounds it.

    Args:
        size: voxels of the cube along each axis, a multiple of 8.
        margin: voxels at each side that are shown to the generator and never change.
        window: HU that become -1 and 1.
        channels: of each level of the generator.
        likeness, realism, task: weights of the mean absolute difference from the true cube, of the discriminator's
            verdict, and of a task in ``fit``.
        rate, discriminator_rate: of Adam, with the betas 0.5 and 0.999.
        dropout: in the generator, while it is trained.
        seed: of the first weights and the training.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    what = ""

    def __init__(
        self,
        size: int = CUBE,
        margin: int = MARGIN,
        window: Sequence[float] = (-160.0, 240.0),
        channels: Sequence[int] = (32, 64, 128, 128),
        likeness: float = 100.0,
        realism: float = 1.0,
        task: float = 1.0,
        rate: float = 2e-4,
        discriminator_rate: float = 2e-4,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.size, self.margin = check_count("size", size, minimum=16), check_count("margin", margin)
        divisor = 2 ** (len(channels) - 1)
        if size % divisor or 2 * margin >= size:
            raise ValueError(
                f"size must be a multiple of {divisor} and more than two margins, got size={size} and margin={margin}."
            )
        self.low, self.high = (float(edge) for edge in window)
        if not self.low < self.high:
            raise ValueError(f"window must be (low, high) in HU with low < high, got {tuple(window)}.")
        self.weights = tuple(
            check_positive(name, value, allow_zero=True)
            for name, value in (("likeness", likeness), ("realism", realism), ("task", task))
        )
        self.seed = check_count("seed", seed, minimum=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.generator = UNet(3, 1, 1, channels, [2] * (len(channels) - 1), kernel_size=3, dropout=dropout)
            self.discriminator = patch_discriminator(in_channels=2, channels=channels[0])
        self.optimizers = [
            torch.optim.Adam(network.parameters(), check_positive(name, value), betas=(0.5, 0.999))
            for network, name, value in (
                (self.generator, "rate", rate),
                (self.discriminator, "discriminator_rate", discriminator_rate),
            )
        ]
        self.judge = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.history: list[dict[str, float]] = []

    @property
    def inner(self) -> Any:
        """What is painted of a cube, along its three axes."""
        return (slice(self.margin, self.size - self.margin),) * 3

    def _scaled(self, cubes: torch.Tensor) -> torch.Tensor:
        return ((cubes - self.low) / (self.high - self.low) * 2 - 1).clamp(-1, 1)

    def _shown(self, scaled: torch.Tensor) -> torch.Tensor:
        """The cube without its inner part."""
        shown = scaled.clone()
        shown[(..., *self.inner)] = 0
        return shown

    def _painted(self, scaled: torch.Tensor) -> torch.Tensor:
        """The cube with an inner part of the generator's."""
        shown = self._shown(scaled)
        inside = torch.zeros_like(scaled, dtype=torch.bool)
        inside[(..., *self.inner)] = True
        return torch.where(inside, self.generator(shown).tanh(), scaled)

    def fit(
        self, cubes: torch.Tensor, epochs: int = 100, batch: int = 4, task: Task | None = None
    ) -> list[dict[str, float]]:
        """Learn what belongs into the middle of such cubes; a later call goes on.

        Args:
            cubes: in HU, (count, 1, size, size, size): with lesions to insert some, healthy ones to remove some.
            epochs: how often each cube is seen.
            batch: cubes of one step.
            task: what else is wanted of a painted cube, -1 to 1 in the window, for example the loss of a frozen
                classifier with the flipped label: (batch, 1, cube...) -> (batch,), to be made small.

        Returns:
            Means of each epoch: ``likeness`` (mean absolute difference of the inner part in HU), ``generator``,
            ``discriminator`` and ``task``.

        Raises:
            ValueError: for cubes of another size.
        """
        if cubes.ndim != 5 or tuple(cubes.shape[1:]) != (1, *(self.size,) * 3) or not len(cubes):
            shape = ("count", 1, *(self.size,) * 3)
            raise ValueError(f"cubes must have shape ({', '.join(map(str, shape))}), got {tuple(cubes.shape)}.")
        check_count("epochs", epochs)
        scaled = self._scaled(cubes.float())
        sums: list[dict[str, float]] = []

        def learn(engine: Engine, rows: list[int]) -> None:
            torch.manual_seed(self.seed * 1_000_003 + len(self.history) * 7_919 + engine.state.iteration)  # of dropout
            sums.append(self._step(scaled[rows], task))

        def finish(engine: Engine) -> None:
            self.history.append({name: sum(one[name] for one in sums) / len(sums) for name in sums[0]})
            sums.clear()

        def batches() -> list[list[int]]:
            order = random.Random(f"{self.seed} {len(self.history)}").sample(range(len(scaled)), len(scaled))
            return [order[start : start + batch] for start in range(0, len(order), batch)]

        engine = Engine(learn)
        engine.add_event_handler(Events.EPOCH_COMPLETED, finish)
        self.generator.train()
        with torch.random.fork_rng(devices=[]):
            for _ in range(epochs):
                engine.run(batches(), max_epochs=1)
        self.generator.eval()
        return self.history

    def _step(self, true: torch.Tensor, task: Task | None) -> dict[str, float]:
        """One step of both networks."""
        likeness, realism, wanted = self.weights
        shown, made = self._shown(true), self._painted(true)
        forger, critic = self.optimizers
        critic.zero_grad()
        told = [
            self.judge(self.discriminator(torch.cat([shown, cube], dim=1))[-1], real, True)
            for cube, real in ((true, True), (made.detach(), False))
        ]
        apart = 0.5 * (told[0] + told[1])
        apart.backward()
        critic.step()
        forger.zero_grad()
        fooled = self.judge(self.discriminator(torch.cat([shown, made], dim=1))[-1], True, False)
        distance = (made - true)[(..., *self.inner)].abs().mean()
        asked = true.new_zeros(()) if task is None else task(made).mean()
        (likeness * distance + realism * fooled + wanted * asked).backward()
        forger.step()
        in_hounsfield = float(distance.detach()) * (self.high - self.low) / 2
        values = {"generator": fooled, "discriminator": apart, "task": asked}
        return {"likeness": in_hounsfield, **{name: float(value.detach()) for name, value in values.items()}}

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, center: Sequence[int]) -> PaintedScan:
        """Paint the inner part of the cube around a voxel.

        Args:
            image: in HU, (batch, 1, depth, height, width).
            center: voxel in the middle of the cube.

        Raises:
            RuntimeError: before ``fit``.
            ValueError: for an image of another shape, or a cube that leaves it.
        """
        if not self.history:
            raise RuntimeError(f"{type(self).__name__} was not trained: call fit(cubes) first; no weights are shipped.")
        plain = as_tensor("image", image)
        if plain.ndim != 5 or plain.shape[1] != 1:
            raise ValueError(f"image must have shape (batch, 1, depth, height, width), got {tuple(plain.shape)}.")
        starts = [int(c) - self.size // 2 for c in center]
        ends = [start + self.size for start in starts]
        if len(starts) != 3 or min(starts) < 0 or any(e > n for e, n in zip(ends, plain.shape[2:], strict=True)):
            raise ValueError(
                f"center must leave {self.size // 2} voxels to each side inside {tuple(plain.shape[2:])}, got "
                f"{tuple(center)}."
            )
        where: Any = tuple(
            slice(start + self.margin, end - self.margin) for start, end in zip(starts, ends, strict=True)
        )
        around: Any = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
        cube = plain[(..., *around)].float()
        made = self._painted(self._scaled(cube))[(..., *self.inner)]
        inner = (made + 1) / 2 * (self.high - self.low) + self.low
        painted = plain.clone()
        painted[(..., *where)] = (inner if plain.is_floating_point() else inner.round()).to(plain)
        changed = torch.zeros(plain.shape, dtype=torch.bool, device=plain.device)
        changed[(..., *where)] = True
        if isinstance(painted, MetaTensor):
            painted.meta["synthetic"] = f"{self.what} by {type(self).__name__}"
        return PaintedScan(painted, torch.as_tensor(changed), self.what)


class LesionInsertion(_LesionPainter):
    """Paints a lesion into a scan: trained on cubes with a lesion in the middle, used where there is none.

    No trained weights are shipped: the package makes phantoms of lesions to train on, not forgeries. What it paints is
    marked as synthetic in meta data and header.

    Example:
        >>> import torch
        >>> from monai_adversarial.generators import LesionInsertion, lesion_cubes
        >>> insertion = LesionInsertion(size=16, margin=4, channels=(4, 8), rate=1e-2)
        >>> history = insertion.fit(lesion_cubes(4, lesion=True, size=16), epochs=1)
        >>> scan = lesion_cubes(1, lesion=False, size=24, seed=7)
        >>> painted = insertion(scan, (12, 12, 12))
        >>> torch.equal(painted.image[~painted.changed], scan[~painted.changed]), int(painted.changed.sum())
        (True, 512)

    Args:
        size, margin: voxels of the cube along each axis, and of its rim that is never painted.
        window: lowest and highest HU that are painted.
        channels: of each level of the generator.
        likeness, realism, task: weights of the mean absolute difference, of the discriminator and of a task.
        rate, discriminator_rate: of Adam.
        dropout: in the generator while it is trained.
        seed: of the first weights and the training.

    Raises:
        ValueError: for sizes that do not fit each other.

    Source: Mirsky et al., "CT-GAN: malicious tampering of 3D medical imagery using deep learning", USENIX Security
    2019: the cube and its inner part, the losses and their weights as in its released code. Here with a smaller MONAI
    U-Net, without histogram equalization and without its copied noise. The task term is after Zhou et al. 2021.
    Painting by diffusion, which X11 names as well, is not built.

    Survey entry: A23 (adapted), X11 (adapted).
    """

    what = "lesion inserted"


class LesionRemoval(_LesionPainter):
    """Paints a lesion over: trained on healthy cubes, used where a lesion is.

    Example:
        >>> from monai_adversarial.generators import LesionRemoval, lesion_cubes
        >>> removal = LesionRemoval(size=16, margin=4, channels=(4, 8), rate=1e-2)
        >>> history = removal.fit(lesion_cubes(4, lesion=False, size=16), epochs=1)
        >>> removal(lesion_cubes(1, lesion=True, size=16, seed=7), (8, 8, 8)).what
        'lesion removed'

    Args:
        size, margin, window, channels, likeness, realism, task, rate, discriminator_rate, dropout, seed: as of
            :class:`~monai_adversarial.generators.LesionInsertion`.

    Raises:
        ValueError: for sizes that do not fit each other.

    Source: Mirsky et al. 2019 (CT-GAN), as for the insertion.

    Survey entry: A23 (adapted).
    """

    what = "lesion removed"
