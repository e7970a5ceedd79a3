# SPDX-License-Identifier: Apache-2.0
"""Move images and labels by a displacement: ``moved(p) = volume(p + displacement(p))``, in voxels, border values
outside.

Positions are kept in voxels, not scaled to [-1, 1], so that a zero displacement returns the volume to the last bit. On
the CPU the work is done in boxes that stay in the cache, which is faster here than ``grid_sample`` in three dimensions;
on a GPU in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

__all__ = ["inverted", "warp_class_map", "warp_linear", "warp_nearest"]

# Voxels per box on the CPU: temporaries stay in the cache, and torch starts no threads for so few elements.
BOX_VOXELS = 32768
INVERSE_ITERATIONS = 20


class _Box(NamedTuple):
    """Neighboring voxels in memory order: a range of slices, or of rows of one slice."""

    start: int
    where: tuple[slice, ...]


def _boxes(shape: Sequence[int], device: torch.device) -> Iterator[_Box]:
    """Cut a volume into boxes on the CPU; elsewhere the whole volume is one box."""
    voxels = math.prod(shape)
    limit = BOX_VOXELS if device.type == "cpu" else voxels
    per_slice = voxels // shape[0]
    if per_slice <= limit or len(shape) == 1:
        step = max(1, limit // per_slice)
        for first in range(0, shape[0], step):
            yield _Box(first * per_slice, (slice(first, min(first + step, shape[0])),))
        return
    per_row = per_slice // shape[1]
    step = max(1, limit // per_row)
    for outer in range(shape[0]):
        for first in range(0, shape[1], step):
            start = outer * per_slice + first * per_row
            yield _Box(start, (slice(outer, outer + 1), slice(first, min(first + step, shape[1]))))


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _offsets(shape: Sequence[int]) -> list[int]:
    """Distance in memory of the corners of a cell from its first, the last axis fastest."""
    offsets = [0]
    for length, stride in zip(shape, _strides(shape), strict=True):
        offsets = [offset + corner * stride * (length > 1) for offset in offsets for corner in (0, 1)]
    return offsets


def _positions(displacement: torch.Tensor, box: _Box, shape: Sequence[int]) -> list[torch.Tensor]:
    """Where the voxels of a box look along each axis, in voxels; ``displacement`` is (dimension, spatial...) of the
    volume."""
    positions = []
    for axis, (length, moved) in enumerate(zip(shape, _cut(displacement, box), strict=True)):
        along = box.where[axis] if axis < len(box.where) else slice(0, length)
        view = [1] * len(shape)
        view[axis] = int(along.stop) - int(along.start)
        index = torch.arange(int(along.start), int(along.stop), dtype=moved.dtype, device=moved.device)
        positions.append((moved + index.view(view)).reshape(-1))
    return positions


def _cells(
    positions: Sequence[torch.Tensor], shape: Sequence[int], need_inside: bool
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The cells that positions lie in.

    Returns:
        index of the cell's first corner, (voxels,); position in the cell from 0 to 1 along each axis; and, along each
        axis, 1 where the position is inside the volume, so that the displacement has an effect, else 0.
    """
    index: torch.Tensor | None = None
    fractions, inside = [], []
    for raw, length in zip(positions, shape, strict=True):
        position = raw.clamp(0, length - 1)
        if need_inside:
            # A comparison into floats is several times faster here than into booleans that are multiplied later.
            inside.append(torch.eq(raw, position, out=torch.empty_like(raw)))
        corner = position.floor().clamp_(max=max(length - 2, 0))
        fractions.append(position.sub_(corner))
        whole = corner.to(torch.int32)
        index = whole if index is None else index.mul_(length).add_(whole)
    assert index is not None
    # A NaN has no cell: keep the index valid, the NaN itself goes on in the fractions.
    last = math.prod(shape) - 1 - _offsets(shape)[-1]
    return index.clamp_(0, last), fractions, inside


def _blend(pairs: Sequence[torch.Tensor], fraction: torch.Tensor) -> list[torch.Tensor]:
    """Interpolate between neighbors; exact where the fraction is 0 or 1."""
    return [torch.lerp(pairs[i], pairs[i + 1], fraction) for i in range(0, len(pairs), 2)]


def _interpolate(
    corners: Sequence[torch.Tensor], fractions: Sequence[torch.Tensor], need_derivatives: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Linear interpolation in a cell and, if asked for, its derivative along each axis."""
    values = list(corners)
    derivatives: list[list[torch.Tensor]] = []
    for fraction in reversed(fractions):
        if need_derivatives:
            derivatives = [_blend(one, fraction) for one in derivatives]
            derivatives.insert(0, [values[i + 1] - values[i] for i in range(0, len(values), 2)])
        values = _blend(values, fraction)
    return values[0], [one[0] for one in derivatives]


def _weights(fractions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Weight of each corner of a cell, the last axis fastest."""
    weights: list[torch.Tensor] = []
    for fraction in fractions:
        sides = (1 - fraction, fraction)
        weights = [w * side for w in weights for side in sides] if weights else list(sides)
    return weights


def _cut(tensor: torch.Tensor, box: _Box) -> torch.Tensor:
    """A box of a (channel, spatial...) tensor."""
    return tensor[(slice(None), *box.where)]


class _LinearWarp(torch.autograd.Function):
    """Linear interpolation at displaced positions; gradients to the image and the displacement."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
        batch, channels, *shape = image.shape
        need_derivatives = ctx.needs_input_grad[1]
        source = image.reshape(batch, channels, -1)
        voxels = source.shape[2]
        moved = torch.empty_like(source, memory_format=torch.contiguous_format)
        slopes = source.new_empty(batch, channels, len(shape), voxels) if need_derivatives else None
        offsets = _offsets(shape)
        for b in range(batch):
            for box in _boxes(shape, image.device):
                index, fractions, inside = _cells(_positions(displacement[b], box, shape), shape, need_derivatives)
                along = slice(box.start, box.start + len(index))
                for c in range(channels):
                    corners = [source[b, c, offset:].index_select(0, index) for offset in offsets]
                    moved[b, c, along], derivatives = _interpolate(corners, fractions, need_derivatives)
                    if slopes is not None:
                        for axis, derivative in enumerate(derivatives):
                            torch.mul(derivative, inside[axis], out=slopes[b, c, axis, along])
        saved = displacement if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(saved, slopes)
        ctx.image_shape = image.shape
        return moved.view(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        displacement, slopes = ctx.saved_tensors
        batch, channels, *shape = ctx.image_shape
        grad = grad.reshape(batch, channels, -1)
        to_image = to_displacement = None
        if slopes is not None:
            to_displacement = slopes[:, 0] * grad[:, :1]
            for c in range(1, channels):
                to_displacement.addcmul_(slopes[:, c], grad[:, c : c + 1])
            to_displacement = to_displacement.reshape(batch, len(shape), *shape)
        if displacement is not None:
            to_image = torch.zeros_like(grad, memory_format=torch.contiguous_format)
            offsets = _offsets(shape)
            for b in range(batch):
                for box in _boxes(shape, grad.device):
                    index, fractions, _ = _cells(_positions(displacement[b], box, shape), shape, False)
                    along = slice(box.start, box.start + len(index))
                    for weight, offset in zip(_weights(fractions), offsets, strict=True):
                        for c in range(channels):
                            to_image[b, c, offset:].index_add_(0, index, weight * grad[b, c, along])
            to_image = to_image.view(ctx.image_shape)
        return to_image, to_displacement


def _counts_are_free(device: torch.device) -> bool:
    """Whether the number of selected voxels is known without waiting for the device."""
    return device.type == "cpu"


class _ClassMapWarp(torch.autograd.Function):
    """Soft one-hot of a class map at displaced positions; gradient to the displacement.

    Only cells whose corners have several classes make soft voxels and carry a gradient. The CPU works on those alone; a
    GPU on all, since to count them would wait for the device.
    """

    @staticmethod
    def forward(ctx: Any, displacement: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
        batch, *shape = label.shape
        labels = label.reshape(batch, -1)
        voxels = labels.shape[1]
        one_hot = displacement.new_zeros(batch, classes, voxels)
        flat = one_hot.view(-1)
        mixed = _mixed_cells(label).view(batch, -1) if _counts_are_free(label.device) else None
        offsets = _offsets(shape)
        saved: list[list[torch.Tensor]] = []
        for b in range(batch):
            if mixed is not None:
                cells = [
                    _cells(_positions(displacement[b], box, shape), shape, False)[0]
                    for box in _boxes(shape, label.device)
                ]
                index = torch.cat(cells)
                one_hot[b].scatter_(0, labels[b].index_select(0, index)[None], 1.0)
                voxel = mixed[b].index_select(0, index).nonzero().squeeze(1)
            else:
                voxel = torch.arange(voxels, device=label.device)
            index, fractions, inside = _cells(
                _positions_of(displacement[b], voxel, shape), shape, ctx.needs_input_grad[0]
            )
            corners = torch.stack([labels[b, offset:].index_select(0, index) for offset in offsets])
            targets = corners.add_(b * classes).mul_(voxels).add_(voxel)
            first, *others = zip(targets, _weights(fractions), strict=True)
            flat.index_copy_(0, *first)
            for target, weight in others:
                # Within one corner no two voxels meet, so that the sum has one order on every device.
                flat.index_add_(0, target, weight)
            if ctx.needs_input_grad[0]:
                saved.append([voxel + b * len(shape) * voxels, targets, *fractions, *inside])
        ctx.save_for_backward(*[torch.cat(parts, dim=-1) for parts in zip(*saved, strict=True)])
        ctx.displacement_shape = displacement.shape
        return one_hot.view(batch, classes, *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        shape = ctx.displacement_shape
        voxel, targets, *rest = ctx.saved_tensors
        fractions, inside = rest[: shape[1]], rest[shape[1] :]
        flat = grad.reshape(-1)
        _, derivatives = _interpolate([flat.index_select(0, target) for target in targets], fractions, True)
        to_displacement = grad.new_zeros(math.prod(shape))
        for axis, derivative in enumerate(derivatives):
            to_displacement.index_copy_(0, voxel + axis * math.prod(shape[2:]), derivative * inside[axis])
        return to_displacement.view(shape), None, None


def _positions_of(displacement: torch.Tensor, voxel: torch.Tensor, shape: Sequence[int]) -> list[torch.Tensor]:
    """Where some voxels look along each axis, in voxels; ``voxel`` holds indices into the flattened volume."""
    moved = displacement.reshape(len(shape), -1)
    pairs = zip(moved, _strides(shape), shape, strict=True)
    return [one.index_select(0, voxel) + (voxel // stride % length) for one, stride, length in pairs]


def _mixed_cells(label: torch.Tensor) -> torch.Tensor:
    """True at the first corner of every cell whose corners differ, (batch, spatial...)."""
    low = high = label.to(torch.int16)
    for axis in range(1, label.ndim):
        length = low.shape[axis]
        if length > 1:
            low = torch.minimum(low.narrow(axis, 0, length - 1), low.narrow(axis, 1, length - 1))
            high = torch.maximum(high.narrow(axis, 0, length - 1), high.narrow(axis, 1, length - 1))
    mixed = torch.zeros_like(label, dtype=torch.bool, memory_format=torch.contiguous_format)
    mixed[tuple(slice(0, length) for length in low.shape)] = low != high
    return mixed


def _check(volume: torch.Tensor, displacement: torch.Tensor, spatial: Sequence[int]) -> None:
    expected = (volume.shape[0], len(spatial), *spatial)
    if tuple(displacement.shape) != expected or not 1 <= len(spatial) <= 3:
        raise ValueError(f"displacement must have shape {expected} to fit the volume, got {tuple(displacement.shape)}.")


def warp_linear(image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Pull an image back by linear interpolation (bilinear, trilinear); positions outside take the border's value.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations import warp_linear
    >>> image, half = torch.tensor([[[0.0, 10.0, 20.0, 30.0]]]), torch.full((1, 1, 4), 0.5)
    >>> warp_linear(image, half).tolist()
    [[[5.0, 15.0, 25.0, 30.0]]]

    Args:
        image: (batch, channel, spatial...), 1 to 3 spatial dimensions.
        displacement: (batch, dimension, spatial...) in voxels, of the image's dtype.

    Returns:
        Like ``image``, differentiable (once) in both. A zero displacement returns the same values exactly.
    """
    _check(image, displacement, image.shape[2:])
    return _LinearWarp.apply(image, displacement.to(image.dtype))


def warp_nearest(volume: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Pull a volume of any dtype back by nearest neighbor, with ``grid_sample``'s rounding (half to even); no gradient.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations import warp_nearest
    >>> label, one = torch.tensor([[[0, 3, 3, 7]]]), torch.ones(1, 1, 4)
    >>> warp_nearest(label, one).tolist()
    [[[3, 3, 7, 7]]]

    Args:
        volume: (batch, channel, spatial...).
        displacement: (batch, dimension, spatial...) in voxels.
    """
    batch, channels, *shape = volume.shape
    _check(volume, displacement, shape)
    source = volume.reshape(batch, channels, -1)
    moved = torch.empty_like(source, memory_format=torch.contiguous_format)
    displacement = displacement.detach()
    for b in range(batch):
        for box in _boxes(shape, volume.device):
            index: torch.Tensor | None = None
            for position, length in zip(_positions(displacement[b], box, shape), shape, strict=True):
                whole = position.clamp_(0, length - 1).round_().to(torch.int32)
                index = whole if index is None else index.mul_(length).add_(whole)
            assert index is not None
            index = index.clamp_(0, source.shape[2] - 1)
            moved[b, :, box.start : box.start + len(index)] = source[b].index_select(1, index)
    return moved.view(volume.shape)


def warp_class_map(label: torch.Tensor, classes: int, displacement: torch.Tensor) -> torch.Tensor:
    """Soft one-hot labels of a warped class map: as linear interpolation of its one-hot encoding, at a cost that hardly
    grows with the number of classes.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations import warp_class_map
    >>> label, half = torch.tensor([[0, 0, 1, 1]]), torch.full((1, 1, 4), 0.5)
    >>> warp_class_map(label, 2, half)[0, 1].tolist()
    [0.0, 0.5, 1.0, 1.0]

    Args:
        label: (batch, spatial...), integer class indices 0 to ``classes - 1``.
        classes: number of classes.
        displacement: (batch, dimension, spatial...) in voxels.

    Returns:
        (batch, classes, spatial...) in the displacement's dtype, differentiable (once) in the displacement; sums to
        one.
    """
    _check(label, displacement, label.shape[1:])
    if label.is_floating_point():
        label = label.long()
    return _ClassMapWarp.apply(displacement, label.long(), classes)


def inverted(displacement: torch.Tensor) -> torch.Tensor:
    """The displacement ``w`` with ``w(p) = -displacement(p + w(p))``, by fixed-point iteration, which only converges
    where the displacement does not fold.

    Args:
        displacement: (batch, dimension, spatial...) in voxels.
    """
    inverse = -displacement
    for _ in range(INVERSE_ITERATIONS):
        inverse = -warp_linear(displacement, inverse)
    return inverse
