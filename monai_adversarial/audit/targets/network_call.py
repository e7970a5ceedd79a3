# SPDX-License-Identifier: Apache-2.0
"""How exported networks are called: in batches that they take, with one tensor as the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.utils.plain import as_plain

__all__ = ["ExportedNetwork", "batches_of", "joined", "pick_output", "shapes_of"]


def batches_of(
    image: torch.Tensor, most: int | None = None, exactly: bool = False
) -> Iterator[tuple[torch.Tensor, int]]:
    """Batches that a network takes, and how many of their samples are wanted.

    Args:
        image: (batch, channel, spatial...).
        most: the most samples of a batch; None for no limit.
        exactly: a batch has ``most`` samples and no fewer: the last one is filled up with its own first sample.
    """
    for part in image.split(most or max(1, len(image))):
        lacking = most - len(part) if exactly and most is not None else 0
        yield (torch.cat([part, part[:1].expand(lacking, *part.shape[1:])]) if lacking else part), len(part)


def joined(answers: list[torch.Tensor]) -> torch.Tensor:
    """Answers one after the other; a single one as it is."""
    return answers[0] if len(answers) == 1 else torch.cat(answers)


def shapes_of(answer: Any) -> str:
    """What a network returned, for a sentence."""
    if hasattr(answer, "shape"):
        return f"{tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        return "{" + ", ".join(f"{key!r}: {shapes_of(value)}" for key, value in answer.items()) + "}"
    if isinstance(answer, (list, tuple)):
        return "[" + ", ".join(map(shapes_of, answer)) + "]"
    return type(answer).__name__


def pick_output(answer: Any, image: torch.Tensor, output: int | str | None = None) -> tuple[Any, int | str | None]:
    """The tensor that is attacked among what a network returned, and its index or name; None for a single tensor.

    Args:
        answer: what the network returned.
        image: what it was given: a tensor on its grid is chosen where ``output`` is None.
        output: index or name that was told.

    Raises:
        TargetError: where it is not clear which.
    """
    grid = (image.shape[0], *image.shape[2:])
    if hasattr(answer, "shape"):
        if output not in (None, 0):
            raise TargetError(f"output is {output!r}, but the network returns one tensor: leave output out.")
        # Deep supervision of MONAI's DynUNet: (batch, level, class, spatial...), full resolution first.
        stacked = len(answer.shape) == image.ndim + 1 and (answer.shape[0], *answer.shape[3:]) == grid
        return (answer[:, 0] if stacked else answer), None
    entries = dict(answer) if isinstance(answer, Mapping) else dict(enumerate(answer or ()))
    if output is not None:
        if output not in entries:
            raise TargetError(f"output must be one of {', '.join(map(repr, entries))}, got {output!r}.")
        return entries[output], output
    fits = [
        key
        for key, value in entries.items()
        if hasattr(value, "shape") and len(value.shape) == image.ndim and (value.shape[0], *value.shape[2:]) == grid
    ]
    if len(fits) != 1:
        raise TargetError(
            f"the network returns {shapes_of(answer)} for an image {tuple(image.shape)}: tell which one is the "
            "segmentation with --output."
        )
    return entries[fits[0]], fits[0]


class ExportedNetwork(nn.Module):
    """An exported network as a plain one: one tensor in float32 as the answer, for any batch.

    Args:
        network: what was loaded.
        output: index or name of the attacked output; None for a network that returns one tensor.
        batch: samples that the export fixes; None for any number.
    """

    def __init__(self, network: Callable[..., Any], output: int | str | None = None, batch: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.output, self.batch = output, batch

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to (batch, class, spatial...)."""
        # What is deployed computes in the arithmetic that it was exported in, whatever an attack would like.
        with torch.autocast(image.device.type, enabled=False):
            batches = batches_of(as_plain(image).float(), self.batch, exactly=True)
            return joined([_first(self._call(part), wanted) for part, wanted in batches])

    def _call(self, image: torch.Tensor) -> torch.Tensor:
        return pick_output(self.network(image), image, self.output)[0]


def _first(answer: torch.Tensor, wanted: int) -> torch.Tensor:
    # The same object where all are wanted: by it the last activation is recognized.
    return answer if len(answer) == wanted else answer[:wanted]
