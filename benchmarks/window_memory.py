# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory of a whole-volume attack at few and at many windows, each measured in a process of its own.

The same with a network of a single 1 x 1 x 1 convolution measures the volume-sized tensors (image, perturbation,
logits, their gradient, objective), which no method of computing windows can save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional

from benchmarks.fresh_process import extra_megabytes
from benchmarks.networks import PlainInferer, pointwise, unet, volume
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged, times
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["METHODS", "TWO_PASSES", "grid_side", "prepare", "tables", "two_passes", "work_of"]

METHODS = ("inference", "ours", "autograd")
TWO_PASSES = "two passes by hand"
OVERLAP = 0.25
SMALL = 32


def grid_side(windows: int, size: int) -> int:
    """Voxels of ``windows`` windows of ``size`` in a row that overlap by a quarter."""
    return size + (windows - 1) * (size * 3 // 4)


def _inferer(size: int) -> SlidingWindowInferer:
    return SlidingWindowInferer(size, sw_batch_size=1, overlap=OVERLAP)


def two_passes(network: nn.Module, image: torch.Tensor, label: torch.Tensor, size: int) -> torch.Tensor:
    """One exact gradient of the mean cross-entropy with as little as two passes over the windows need.

    MONAI's inference, the gradient on its logits, then each window forward and backward: the least that holds whole
    logits. For square windows of ``size`` that overlap by a quarter, blended by their mean.
    """
    with torch.no_grad():
        logits = _inferer(size)(image, network)
    leaf = logits.requires_grad_(True)
    gradient = torch.autograd.grad(functional.cross_entropy(leaf, label[:, 0]), leaf)[0]
    del logits, leaf
    shape, step = tuple(image.shape[2:]), size * 3 // 4
    slices = [(slice(None), slice(None), *one) for one in dense_patch_slices(shape, (size,) * 3, (step,) * 3)]
    counts = torch.zeros((1, 1, *shape))
    for window in slices:
        counts[window] += 1
    result = torch.zeros_like(image)
    for window in slices:
        part = image[window].clone().requires_grad_(True)
        result[window] += torch.autograd.grad(network(part), part, gradient[window] / counts[window])[0]
    return result


def work_of(
    method: str, network: nn.Module, size: int, image: torch.Tensor, label: torch.Tensor
) -> Callable[[], object]:
    """MONAI's inference, two passes by hand, or a call of PGD-2: ours, or with autograd through MONAI's inferer.

    Raises:
        ValueError: for another method.
    """
    inferer = _inferer(size)

    def inference() -> object:
        with torch.no_grad():
            return inferer(image, network)

    def attack(behind: Any) -> Callable[[], object]:
        return lambda: PGD(0.02, steps=2)(AttackedModel(network, behind, precision="float32"), image, label)

    works = {
        "inference": inference,
        TWO_PASSES: lambda: two_passes(network, image, label, size),
        "ours": attack(inferer),
        "autograd": attack(PlainInferer(inferer)),
    }
    if method not in works:
        raise ValueError(f"method must be one of {sorted(works)}, got {method!r}.")
    return works[method]


def prepare(method: str, network: str, shape: list[int], size: int, classes: int = 3) -> Callable[[], object]:
    """The work on a volume in windows of ``size``^3 voxels, after the same on one small window."""
    made = unet((8, 16, 32, 64), classes=classes) if network == "unet" else pointwise(classes)
    work_of(method, made, SMALL, *volume((SMALL,) * 3, "cpu", classes=classes))()
    return work_of(method, made, size, *volume(tuple(shape), "cpu", classes=classes))


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per method and network, one column per number of windows."""
    size = settings.volume // 2
    grids = {n * m * k: (n, m, k) for n, m, k in settings.windows if n * m * k >= 4 and n * m * k != 8}

    def row(method: str, network: str) -> list[float]:
        say(f"memory of {method}, {network}, at {', '.join(map(str, grids))} windows")
        return [
            extra_megabytes(
                *("benchmarks.window_memory", "prepare", settings.threads),
                **{"method": method, "network": network, "size": size},
                shape=[grid_side(count, size) for count in grid],
            )
            for grid in grids.values()
        ]

    rows = [("volume-sized tensors alone: ours on a 1 x 1 x 1 network", row("ours", "pointwise"))]
    rows += [(f"{method}, U-Net", row(method, "unet")) for method in (TWO_PASSES, *METHODS)]
    least = dict(rows)[f"{TWO_PASSES}, U-Net"][-1]
    last = list(grids)[-1]
    table = Table(
        "memory",
        f"Peak resident memory that a call of PGD-2 adds, MB; windows of {size}^3 voxels, overlap {OVERLAP}, 3 classes"
        f", U-Net 8-16-32-64, float32, CPU, each from a fresh process. {TWO_PASSES.capitalize()}: one gradient with "
        "MONAI's inference, the gradient on its logits, and a forward + backward of each window.",
        (
            Column("what"),
            *(Column(f"{count} windows", 0) for count in grids),
            Column(f"at {last} windows / two passes", 2),
            Column("target"),
        ),
    )
    for name, megabytes in rows:
        ratio = times(megabytes[-1], least)
        table.add(name, *megabytes, ratio, judged(ratio, 1.1 if name.startswith("ours") else None))
    return [table]
