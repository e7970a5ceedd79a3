# SPDX-License-Identifier: Apache-2.0
"""Cases that come more than once in an epoch, and count more than once in its means."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import ignite.distributed as idist
import torch
from monai.utils import evenly_divisible_all_gather

from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import case_seeds

__all__ = ["case_marks", "say_repeated"]


def case_marks(seeds: Sequence[int], label: torch.Tensor) -> list[int]:
    """A number for each case of a batch that is the same for the same image and the same label.

    >>> import torch
    >>> from monai_adversarial.handlers.repeated_cases import case_marks
    >>> first, second, third = case_marks([5, 6, 5], torch.zeros(3, 1, 1))
    >>> first == third, first == second
    (True, False)

    Args:
        seeds: of the images, from their voxels, as ``Scene`` has them.
        label: of any type, (batch, ...).
    """
    return [(seed << 31) ^ mark for seed, mark in zip(seeds, case_seeds(as_plain(label), 0), strict=True)]


def say_repeated(whose: str, marks: Sequence[int]) -> None:
    """Warn of cases that come more than once, on one rank or on several. Every rank has to call it.

    Args:
        whose: name of the evaluation, as the sentence begins.
        marks: of the cases of this rank (``case_marks``).
    """
    own = torch.tensor(marks, dtype=torch.int64, device=idist.device() if idist.get_world_size() > 1 else "cpu")
    everyone = evenly_divisible_all_gather(own[:, None], concat=True)
    again = len(everyone) - len(everyone.unique())
    if again and idist.get_rank() == 0:
        warnings.warn(
            f"{whose}: {again} of {len(everyone)} cases came before in the same epoch (same image and label) and count "
            "more than once in its means: look at the list of cases, and with several processes give the loader's "
            "DistributedSampler even_divisible=False.",
            stacklevel=2,
        )
