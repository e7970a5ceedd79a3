# SPDX-License-Identifier: Apache-2.0
"""The one job that every library is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.timing import Stopwatch

__all__ = ["ADAPTED", "LOSSES", "CountedNetwork", "PeerAttack", "Problem"]

ADAPTED = "adapter: the dense loss as the logits of a two-class classifier"
#: loss of a problem -> what tables call it
LOSSES = {"cross_entropy": "cross-entropy", "dice_ce": "Dice + cross-entropy"}


class CountedNetwork(nn.Module):
    """A network that notes when each of its forward passes begins.

    Args:
        network: what is called.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset()
        self.eval()  # libraries set a network back to the mode of the module that they were given

    def reset(self) -> None:
        """Forget what was noted."""
        self.forwards = 0
        self.marks: list[Stopwatch] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to what the network answers."""
        self.forwards += 1
        if torch.is_grad_enabled() and image.requires_grad:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append(Stopwatch())
        return self.network(image)

    @property
    def with_gradient(self) -> int:
        """Forward passes that a backward pass followed: those on an image that asks for a gradient."""
        return len(self.marks)

    def steps(self) -> list[tuple[float, float]]:
        """(wall, CPU) seconds of each step but the first and the last."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))[1:]
        return [(later.wall - earlier.wall, later.cpu - earlier.cpu) for earlier, later in pairs]


@dataclass(frozen=True)
class Problem:
    """Raise the mean loss over all voxels by changing each voxel by at most ``epsilon``, inside 0 to 1.

    Args:
        network: from (batch, channel, spatial...) to logits (batch, class, spatial...), in eval mode.
        image: (batch, channel, spatial...) in [0, 1].
        label: class map (batch, 1, spatial...), int64.
        epsilon: L-infinity radius in the image's values.
        loss: ``"cross_entropy"``, mean over voxels, or ``"dice_ce"``, soft Dice plus that.
    """

    network: nn.Module
    image: torch.Tensor
    label: torch.Tensor
    epsilon: float
    loss: str = "cross_entropy"

    @property
    def step(self) -> float:
        """A quarter of the radius, for attacks of constant steps."""
        return self.epsilon / 4


@dataclass(frozen=True)
class PeerAttack:
    """An attack of a library.

    Args:
        name: library and attack.
        run: from a problem and a number of forward + backward passes to the adversarial image.
        note: what was adapted; empty where the library does the job as it is.
        kind: ``"constant"`` (sign steps of a quarter of the radius), ``"adaptive"`` (steps of its own choice) inside
            the radius of the problem, ``"minimal"`` (looks for the smallest radius), or ``"smooth"``/``"morph"``
            (not noise at all: a bias field, a deformation).
        losses: that it can be given.
        differentiates_weights: whether its backward pass also computes the gradients of weights that are trainable, as
            they are after loading a network.
    """

    name: str
    run: Callable[[Problem, int], torch.Tensor]
    note: str = ""
    kind: str = "constant"
    losses: tuple[str, ...] = ("cross_entropy",)
    differentiates_weights: bool = False

    @property
    def compared(self) -> tuple[str, ...]:
        """Losses that it is compared with: Dice is what the attacker wants to lower, and adaptive attacks are given it,
        too, to be compared at their best."""
        return self.losses if self.kind == "adaptive" else ("cross_entropy",)

    def __call__(self, problem: Problem, passes: int) -> torch.Tensor:
        """The adversarial image.

        Raises:
            RuntimeError: if the library changed the network's mode or returned another shape.
        """
        found = self.run(problem, passes)
        if any(module.training for module in problem.network.modules()):
            raise RuntimeError(f"{self.name} left the network in training mode.")
        if found.shape != problem.image.shape:
            raise RuntimeError(f"{self.name} returned {tuple(found.shape)} for an image {tuple(problem.image.shape)}.")
        return found
