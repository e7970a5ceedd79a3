# SPDX-License-Identifier: Apache-2.0
"""What the losses on segmentation logits share: divergence, reference labels, balanced means, deep supervision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.target import ACTIVATIONS, Target
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice

__all__ = ["Logits", "Reference", "VoxelwiseLoss", "divergence", "log_probabilities", "resolve_activation"]

Logits = torch.Tensor | Sequence[torch.Tensor]


def resolve_activation(activation: str | None, logits: torch.Tensor) -> str:
    """``activation`` itself; where it is None, sigmoid for one channel and softmax for more."""
    if activation is None:
        return "sigmoid" if logits.shape[1] == 1 else "softmax"
    if activation == "softmax" and logits.shape[1] == 1:
        raise ValueError("activation='softmax' needs logits of at least 2 channels, got 1: use activation='sigmoid'.")
    return activation


def log_probabilities(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Log probabilities of the network's decisions, (batch, class, groups, spatial...).

    With softmax there is one group, the voxel's decision between all classes; with sigmoid each channel is a group of
    its own, with the two classes background and foreground.
    """
    if activation == "softmax":
        return logits.log_softmax(dim=1).unsqueeze(2)
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)


def divergence(log_first: torch.Tensor, log_second: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence KL(first || second) of each decision in nats, (batch, groups, spatial...)."""
    return (log_first.exp() * (log_first - log_second)).sum(dim=1)


class Reference:
    """Labels on the grid of some logits, and means over voxels that they balance.

    Args:
        logits: (batch, channel, spatial...); where there is no label, their decisions are the reference.
        activation: ``"softmax"`` or ``"sigmoid"``.
        label: class map (batch, 1, spatial...), or one-hot, hard or soft (batch, channel, spatial...).
        mask: voxels that count (batch, 1, spatial...), boolean or weights >= 0; None for all.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        activation: str,
        label: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> None:
        self.logits, self.activation, self.label, self.mask = logits.detach(), activation, label, mask

    @cached_property
    def target(self) -> Target:
        """The labels as objectives of attacks see them: class indices where possible."""
        weight = None if self.mask is None else self.mask[:, 0]
        classes, label = self.logits.shape[1], self.label
        if label is None:
            if self.activation == "softmax":
                return Target(classes, index=self.logits.argmax(dim=1), weight=weight)
            soft = (self.logits > 0).to(self.logits.dtype)
            return Target(classes, soft=soft, weight=weight, activation="sigmoid")
        if label.shape[1] == 1 and (classes > 1 or self.activation == "softmax"):
            return Target.from_label(label, classes, self.activation, weight)
        return Target(classes, soft=label.to(self.logits.dtype), weight=weight, activation=self.activation)

    @cached_property
    def _distribution(self) -> torch.Tensor:
        """Reference probabilities (batch, class, groups, spatial...), for labels that are no class indices."""
        soft = self.target.one_hot(self.logits.dtype)
        return soft.unsqueeze(2) if self.activation == "softmax" else torch.stack([1 - soft, soft], dim=1)

    @property
    def _exclusive(self) -> bool:
        """One class index per voxel is all of the reference."""
        return self.activation == "softmax" and self.target.index is not None

    @property
    def choice(self) -> torch.Tensor:
        """Class of each decision, int64 (batch, groups, spatial...)."""
        if self._exclusive:
            assert self.target.index is not None
            return self.target.index.long().unsqueeze(1)
        return self._distribution.argmax(dim=1)

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """The reference class's part (for soft labels the expectation) of ``values`` (batch, class, groups,
        spatial...)."""
        if self._exclusive:
            return values.gather(1, self.choice.unsqueeze(1)).squeeze(1)
        return (self._distribution * values).sum(dim=1)

    def miss(self, log_probability: torch.Tensor) -> torch.Tensor:
        """Probability of anything but the reference class, from :func:`log_probabilities`."""
        if self._exclusive:
            return -torch.expm1(self.pick(log_probability))  # exact also where the network is sure
        return 1 - self.pick(log_probability.exp())

    def average(self, values: torch.Tensor, balanced: bool) -> torch.Tensor:
        """Mean of ``values`` (batch, groups, spatial...) in each sample, (batch,).

        Args:
            values: one number per decision.
            balanced: each class that the sample has gets the same weight, however small it is.
        """
        if not balanced and self.mask is None:
            return values.flatten(1).mean(dim=1)
        return compare(self.logits, self.target).average(values, balanced)


class VoxelwiseLoss(nn.Module, ABC):
    """A mean over voxels, per sample, then over the batch, then over the levels of deep supervision.

    Half precision is computed in float32, also under autocast.

    Args:
        activation: ``"softmax"`` (exclusive classes) or ``"sigmoid"`` (independent channels); None: sigmoid for one
            channel, softmax for more.
        balanced: every class of a sample's label has the same weight there; with sigmoid, foreground and background of
            each channel are the classes.

    Attributes:
        replaces_task_loss: the formula has a term on the labels, so that the task loss is not added to it.

    Raises:
        ValueError: for an unknown ``activation``; in the forward pass for tensors that do not fit together.
    """

    replaces_task_loss: bool = False

    def __init__(self, activation: str | None = None, balanced: bool = False) -> None:
        super().__init__()
        self.activation = None if activation is None else check_choice("activation", activation, ACTIVATIONS)
        self.balanced = bool(balanced)

    @abstractmethod
    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        """The loss of each sample (batch,) at one level; all tensors are plain and on one grid."""

    def mean_over_levels(
        self, outputs: dict[str, Logits], label: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            outputs: logits by their names; each is a tensor (batch, channel, spatial...), or several in a list or
                tuple, the first of which has the label's grid (deep supervision).
            label: class map (batch, 1, spatial...) or one-hot, hard or soft, (batch, channel, spatial...). For lower
                levels it is resized by nearest neighbor, as MONAI's ``DeepSupervisionLoss`` does.
            mask: voxels that count, (batch, 1, spatial...), resized in the same way.
        """
        levels = _levels(outputs)
        first = levels[0][0]
        label = _fitting("label", label, first, (1, first.shape[1]))
        mask = _fitting("mask", mask, first, (1,))
        parts = []
        with torch.autocast(first.device.type, enabled=False):
            for logits in levels:
                size = logits[0].shape[2:]
                activation = resolve_activation(self.activation, logits[0])
                values = self.per_sample(logits, _resized(label, size), _resized(mask, size), activation)
                parts.append(values.mean())
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean()

    def extra_repr(self) -> str:
        settings = {
            name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"
        }
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _levels(outputs: dict[str, Logits]) -> list[tuple[torch.Tensor, ...]]:
    """For each level of deep supervision one tensor of every output, in at least float32."""
    lists: dict[str, list[Any]] = {
        name: list(output) if isinstance(output, (list, tuple)) else [output] for name, output in outputs.items()
    }
    (reference_name, reference), *others = lists.items()
    for name, tensors in lists.items():
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.ndim < 3:
                what = f"shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                raise ValueError(
                    f"{name} must be floating point logits (batch, channel, spatial...), or a list of them, got {what}."
                )
    for name, tensors in others:
        if [t.shape for t in tensors] != [t.shape for t in reference]:
            raise ValueError(
                f"{name} must have the shape of {reference_name}, {_shapes(reference)}, got {_shapes(tensors)}."
            )
    if not reference:
        raise ValueError(f"{reference_name} must have at least one level, got an empty list.")
    return [
        tuple(_at_least_float32(as_plain(tensor)) for tensor in level) for level in zip(*lists.values(), strict=True)
    ]


def _shapes(tensors: Sequence[torch.Tensor]) -> str:
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors) or "an empty list"


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _fitting(
    name: str, tensor: torch.Tensor | None, logits: torch.Tensor, channels: tuple[int, ...]
) -> torch.Tensor | None:
    """The plain tensor on the grid of the logits, or ValueError."""
    if tensor is None:
        return None
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}.")
    tensor = as_plain(tensor)
    grid = (logits.shape[0], *logits.shape[2:])
    if tensor.ndim != logits.ndim or (tensor.shape[0], *tensor.shape[2:]) != grid or tensor.shape[1] not in channels:
        wanted = " or ".join(str((grid[0], number, *grid[1:])) for number in sorted(set(channels)))
        raise ValueError(f"{name} must have shape {wanted} to fit the logits, got {tuple(tensor.shape)}.")
    return tensor


def _resized(tensor: torch.Tensor | None, size: torch.Size) -> torch.Tensor | None:
    if tensor is None or tensor.shape[2:] == size:
        return tensor
    floating = tensor if tensor.is_floating_point() else tensor.float()
    return F.interpolate(floating, size=size, mode="nearest-exact").to(tensor.dtype)
