# SPDX-License-Identifier: Apache-2.0
"""Whether the label lies beside what the network finds: cropped, padded or saved with another origin than the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["check_label_place", "shift_of_label"]

#: voxels that are looked at along each axis, about
MOST_ALONG = 128
#: voxels of an organ that are needed to say where it lies
LEAST_VOXELS = 30
#: Dice of an organ that a shift must explain, and of the only organ, which may lie beside its label by chance
EXPLAINED, EXPLAINED_ALONE = 0.7, 0.9
#: share of the error that a shift may leave
LEFT_OVER = 0.5
#: Dice that an organ may lose by it
ROOM = 0.02
#: samples of a batch that are looked at
MOST_SAMPLES = 2

Masks = tuple[torch.Tensor, torch.Tensor]


def shift_of_label(
    prediction: torch.Tensor, label: torch.Tensor, names: Sequence[int]
) -> tuple[tuple[int, ...], float, float] | None:
    """How far all organs of one sample lie beside their label, in voxels, with the mean Dice before and after the label
    is moved there; None where no shift explains at least half of the error.

    A network that is merely bad finds too much or too little, of each organ on another side: moving the label helps one
    of them, and not all by the same shift.

    >>> import torch
    >>> from monai_adversarial.models.shifted_label import shift_of_label
    >>> label = torch.zeros(1, 24, 24)
    >>> label[:, 4:12, 4:10], label[:, 14:20, 8:20] = 1, 2
    >>> shift, before, after = shift_of_label(label.roll(2, 1), label, [1, 2])
    >>> shift, round(before, 2), round(after, 2)
    ((2, 0), 0.71, 1.0)
    >>> shift_of_label(label, label, [1, 2]) is None
    True

    Args:
        prediction, label: class map (1, spatial...), or masks (class, spatial...).
        names: classes that are organs.
    """
    strides = [max(1, size // MOST_ALONG) for size in label.shape[1:]]
    pairs = [pair for pair in _pairs(prediction, label, names, strides) if min(int(one.sum()) for one in pair) > 0]
    large = [pair for pair in pairs if min(int(one.sum()) for one in pair) >= LEAST_VOXELS]
    if not large:
        return None
    offsets = torch.stack([_center(found) - _center(true) for true, found in large])
    # On the coarse grid, whose voxels are multiples of those of the image.
    steps = [round(step) for step in offsets.median(dim=0).values.tolist()]
    if not any(steps) or any(abs(step) >= size // 2 for step, size in zip(steps, pairs[0][0].shape, strict=True)):
        return None
    before = torch.tensor([_dice(*pair) for pair in pairs])
    after = torch.tensor([_dice(*_moved(*pair, steps)) for pair in pairs])
    explained = (1 - after <= LEFT_OVER * (1 - before)) & (after >= EXPLAINED)
    if len(pairs) == 1:
        explained &= after >= EXPLAINED_ALONE
    if 2 * int(explained.sum()) <= len(pairs) or bool((after < before - ROOM).any()):
        return None
    shift = tuple(step * stride for step, stride in zip(steps, strides, strict=True))
    return shift, float(before.mean()), float(after.mean())


def check_label_place(
    model: AttackedModel, prediction: torch.Tensor, label: torch.Tensor, classes: int, activation: str
) -> None:
    """Warn where the label lies beside what the network finds (``shift_of_label``).

    Args:
        model: what is attacked.
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...) for sigmoid.
        label: class map or masks.
        classes: number of the network's output channels.
        activation: ``"softmax"`` (class 0 is background) or ``"sigmoid"``.
    """
    if classes == 1:  # one sigmoid channel: its masks are a class map of two classes
        label = (label > 0).to(prediction.dtype)
    names = [1] if classes == 1 else list(range(1 if activation == "softmax" else 0, classes))
    for found, true in zip(prediction[:MOST_SAMPLES], label[:MOST_SAMPLES], strict=True):
        seen = shift_of_label(found, true, names)
        if seen is None:
            continue
        shift, before, after = seen
        model.warn_once(
            "shifted",
            f"the label lies {' x '.join(str(-step) for step in shift)} voxels beside what the network finds: the mean "
            f"Dice is {before:.3f}, and {after:.3f} where it is moved there. Image and label are not on one grid: "
            "check crop, padding and origin of both, or scores compare different places.",
        )
        return


def _pairs(
    prediction: torch.Tensor, label: torch.Tensor, names: Sequence[int], strides: Sequence[int]
) -> Iterator[Masks]:
    """True and found voxels of each organ, on a coarser grid where the image is large."""
    coarse = (slice(None), *(slice(None, None, stride) for stride in strides))
    found, true = prediction[coarse], label[coarse]
    for name in names:
        yield tuple(one[name] > 0 if one.shape[0] > 1 else one[0] == name for one in (true, found))  # type: ignore[misc]


def _center(mask: torch.Tensor) -> torch.Tensor:
    """Mean place of a mask's voxels, by its projections: no list of its voxels is made."""
    axes, places = range(mask.ndim), []
    for axis in axes:
        counts = mask.sum(dim=[other for other in axes if other != axis]).double().cpu()
        places.append((counts * torch.arange(len(counts))).sum() / counts.sum())
    return torch.stack(places)


def _dice(true: torch.Tensor, found: torch.Tensor) -> float:
    total = int(true.sum()) + int(found.sum())
    return 2 * int((true & found).sum()) / max(total, 1)


def _moved(true: torch.Tensor, found: torch.Tensor, steps: Sequence[int]) -> Masks:
    """What both show of the same places after the true voxels went some steps."""
    for axis, step in enumerate(steps):
        length = true.shape[axis] - abs(step)
        true = true.narrow(axis, max(0, -step), length)
        found = found.narrow(axis, max(0, step), length)
    return true, found
