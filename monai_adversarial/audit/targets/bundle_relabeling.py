# SPDX-License-Identifier: Apache-2.0
"""The end of a postprocessing that only gives a segmentation other values, left out so that classes stay channels."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import AsDiscreted, Compose, Lambdad, MapLabelValued
from monai.utils import CommonKeys, ensure_tuple, ensure_tuple_rep

__all__ = ["leave_out_relabeling"]

SIDE = 8
#: channels of the answers on which a transform is tried: it may index any of them
CHANNELS = 160


def leave_out_relabeling(postprocessing: Any, key: str = CommonKeys.PRED) -> list[str]:
    """Take the last transforms out of a postprocessing that change each voxel's value by itself.

    BraTS bundles write their overlapping regions as the values 1, 2 and 4, others drop the background or merge classes.
    Scores are those of the network's channels, so that such values are not wanted. Left out is what follows the
    discretization and was seen on segmentations to be a function of each voxel alone; whatever looks at a voxel's
    neighbors is postprocessing and stays. Only functions (``Lambdad``), ``MapLabelValued`` and a bundle's own
    transforms are tried.

    Args:
        postprocessing: of an engine; changed in place.
        key: where the answer is.

    Returns:
        the names of what was left out.
    """
    if not isinstance(postprocessing, Compose):
        return []
    steps = list(postprocessing.transforms)
    discrete = [n for n, step in enumerate(steps) if isinstance(step, AsDiscreted) and key in step.keys]
    if not discrete:
        return []
    left_out: list[str] = []
    while len(steps) - 1 > discrete[-1] and _may_relabel(steps[-1], key):
        if not _is_voxelwise(steps[discrete[-1]], steps[-1], key):
            break
        left_out.insert(0, type(steps.pop()).__name__)
    if left_out:
        postprocessing.transforms = tuple(steps)
    return left_out


def _may_relabel(step: Any, key: str) -> bool:
    own = not f"{type(step).__module__}.".startswith("monai.")
    return key in ensure_tuple(getattr(step, "keys", ())) and (own or isinstance(step, (Lambdad, MapLabelValued)))


def _is_voxelwise(discretization: AsDiscreted, step: Any, key: str) -> bool:
    """Whether a transform changes segmentations, and gives shuffled voxels the shuffled values."""
    draw = torch.Generator().manual_seed(0)
    for classes in (_ball(), torch.randint(0, 4, (SIDE**3,), generator=draw), _ball().flip(0)):
        answer = _in_the_form_of(discretization, classes, key)
        order = torch.randperm(SIDE**3, generator=draw)
        try:
            plain, shuffled = (_applied(step, values, key) for values in (answer, answer[:, order]))
        except Exception:  # it needs more than an answer
            return False
        if not torch.equal(plain[:, order], shuffled) or torch.equal(plain, answer):
            return False
    return True


def _ball() -> torch.Tensor:
    """Classes (voxel,) of a ball of class 1 with a hole, small objects of classes 2 and 3 beside it."""
    axis = torch.arange(SIDE) - SIDE // 2
    distance = sum(part.square() for part in torch.meshgrid(axis, axis, axis, indexing="ij"))
    assert isinstance(distance, torch.Tensor)
    volume = ((distance < 10) & (distance > 0)).long()
    volume[0, 0, 0], volume[0, 0, 2], volume[-1, -1, :2] = 1, 2, 3
    return volume.flatten()


def _in_the_form_of(discretization: AsDiscreted, classes: torch.Tensor, key: str) -> torch.Tensor:
    """Classes (voxel,) as a discretization gives them, (channel, voxel)."""
    keys = ensure_tuple(discretization.keys)
    place = keys.index(key)
    one_hot = ensure_tuple_rep(discretization.to_onehot, len(keys))[place]
    if isinstance(one_hot, int) and not isinstance(one_hot, bool) and one_hot > 0:
        return torch.nn.functional.one_hot(classes % one_hot, one_hot).T.float()
    if ensure_tuple_rep(discretization.argmax, len(keys))[place]:
        return classes[None].float()
    return torch.stack([(classes * 7 + channel) % 3 == 1 for channel in range(CHANNELS)]).float()


def _applied(step: Any, answer: torch.Tensor, key: str) -> torch.Tensor:
    """The values (channel, voxel) that a transform gives a small volume."""
    made = step({key: answer.reshape(-1, SIDE, SIDE, SIDE).clone()})
    return torch.as_tensor(made[key]).reshape(-1, SIDE**3)
