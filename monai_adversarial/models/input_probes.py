# SPDX-License-Identifier: Apache-2.0
"""Other readings of the same image: mirrored, with other axes, intensities or voxel sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.plain import as_plain

__all__ = ["InputProbe", "input_probes", "label_probes"]

#: windows that networks for CT are trained with, in HU, tried on images that no map scales
WINDOWS = ((-160.0, 240.0), (-1000.0, 1000.0))
#: what scanners add to HU to store them as unsigned integers
STORED_OFFSET = 1024.0
#: factors of the number of voxels along each axis
FACTORS = (0.5, 2 / 3, 1.5)
#: images with fewer voxels along an axis are not made smaller
SMALLEST = 16
#: largest value of an image that is taken to be scaled already
SCALED = 10.0
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class InputProbe:
    """One other reading of an image.

    Args:
        kind: readings of one kind are compared before the search ends.
        text: what is done, after "when the image is ..." or "when the label is ...".
        image: makes it from the clean batch (batch, channel, spatial...).
        prediction: brings a class map or masks of it back to the grid of the clean batch.
    """

    kind: str
    text: str
    image: Callable[[torch.Tensor], torch.Tensor]
    prediction: Callable[[torch.Tensor], torch.Tensor]


def label_probes(rank: int) -> Iterator[InputProbe]:
    """Readings of the label on the image as it is: mirrored axes, and exchanged axes.

    Args:
        rank: spatial axes.
    """
    axes = tuple(range(rank))
    yield from (_orientation(axes, which) for which in _flips(rank))
    yield from (_orientation(order, ()) for order in _orders(rank))


def input_probes(model: AttackedModel, image: torch.Tensor) -> Iterator[InputProbe]:
    """Readings in the order in which mistakes are frequent: mirrored axes, exchanged axes, intensities, voxel sizes,
    and at last axes that are both exchanged and mirrored.

    Args:
        model: says in which units images come and which channels are image.
        image: clean batch (batch, channel, spatial...).
    """
    rank = image.ndim - 2
    yield from label_probes(rank)
    yield from _intensities(model, image)
    yield from _voxel_sizes(image)
    yield from (_orientation(order, which) for order in _orders(rank) for which in _flips(rank))


def _flips(rank: int) -> list[tuple[int, ...]]:
    """Every choice of axes to mirror: one first, then several."""
    return [which for count in range(1, rank + 1) for which in itertools.combinations(range(rank), count)]


def _orders(rank: int) -> list[tuple[int, ...]]:
    """Every order of the axes but their own."""
    return [order for order in itertools.permutations(range(rank)) if list(order) != sorted(order)]


def _orientation(order: tuple[int, ...], flipped: tuple[int, ...]) -> InputProbe:
    """Axes in another order, some of them then mirrored. Voxel sizes stay with their axes."""
    there = (0, 1, *(axis + 2 for axis in order))
    back = (0, 1, *(order.index(axis) + 2 for axis in range(len(order))))
    mirrored = [axis + 2 for axis in flipped]
    said = []
    if list(order) != sorted(order):
        said.append(f"given with its axes in the order {order}")
    if flipped:
        said.append(f"mirrored along {'axis' if len(flipped) == 1 else 'axes'} {', '.join(map(str, flipped))}")

    def image(clean: torch.Tensor) -> torch.Tensor:
        return _with_values(clean, as_plain(clean).permute(there).flip(mirrored).contiguous(), order)

    kind = "orientation" if len(said) > 1 else "mirrored" if flipped else "axes"
    return InputProbe(kind, " and ".join(said), image, lambda found: found.flip(mirrored).permute(back))


def _with_values(clean: torch.Tensor, values: torch.Tensor, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Values as a batch of the clean one's kind: inferers may read its affine, whose directions stay."""
    affine = getattr(clean, "affine", None)
    if not isinstance(clean, MetaTensor) or affine is None:
        return values
    made = torch.as_tensor(affine).clone()
    rank = made.shape[-1] - 1
    if order is not None and len(order) == rank:
        lengths = made[..., :rank, :rank].norm(dim=-2, keepdim=True)
        made[..., :rank, :rank] = made[..., :rank, :rank] / lengths.clamp_min(1e-12) * lengths[..., list(order)]
    return MetaTensor(values, affine=made, meta={key: value for key, value in clean.meta.items() if key != "affine"})


def _intensities(model: AttackedModel, image: torch.Tensor) -> Iterator[InputProbe]:
    """The image channels with other values on the same grid."""

    def probe(text: str, change: Callable[[torch.Tensor], torch.Tensor]) -> InputProbe:
        def changed(clean: torch.Tensor) -> torch.Tensor:
            part = change(as_plain(model.image_part(clean)))
            return _with_values(clean, model.whole_image(part, as_plain(clean)))

        return InputProbe("intensity", text, changed, lambda found: found)

    part = as_plain(model.image_part(image))
    dims = tuple(range(2, image.ndim))
    if model.units_for(None) == "HU":
        yield probe(
            f"taken minus {STORED_OFFSET:g} (stored values without their rescale intercept)",
            lambda x: x - STORED_OFFSET,
        )
        yield probe(f"taken plus {STORED_OFFSET:g} (an intercept that was applied twice)", lambda x: x + STORED_OFFSET)
    elif float(part.abs().max()) > SCALED:
        for low, high in WINDOWS:
            yield probe(f"windowed from {low:g}..{high:g} to 0..1", IntensityMap.from_window(low, high))
    else:
        yield probe("taken times 255", lambda x: x * 255)
    if model.units_for(None) != "HU":
        yield probe(
            "scaled by its own lowest and highest value to 0..1",
            lambda x: (x - x.amin(dims, True)) / (x.amax(dims, True) - x.amin(dims, True)).clamp_min(1e-12),
        )
        yield probe(
            "scaled by its own mean and standard deviation",
            lambda x: (x - x.mean(dims, True)) / x.std(dims, keepdim=True).clamp_min(1e-12),
        )
    yield probe("inverted (dark for bright)", lambda x: x.amax(dims, True) + x.amin(dims, True) - x)


def _voxel_sizes(image: torch.Tensor) -> Iterator[InputProbe]:
    sizes = tuple(image.shape[2:])
    for factor in FACTORS:
        other = tuple(max(1, round(size * factor)) for size in sizes)
        if factor < 1 and min(sizes) < SMALLEST:
            continue

        def resampled(clean: torch.Tensor, other: tuple[int, ...] = other) -> torch.Tensor:
            mode = _LINEAR[clean.ndim - 2]
            return _with_values(clean, F.interpolate(as_plain(clean), size=other, mode=mode, align_corners=False))

        def back(found: torch.Tensor) -> torch.Tensor:
            return F.interpolate(found.float(), size=sizes, mode="nearest-exact").to(found.dtype)

        text = f"resampled to {factor:.2g} times as many voxels along each axis"
        yield InputProbe("voxel size", text, resampled, back)
