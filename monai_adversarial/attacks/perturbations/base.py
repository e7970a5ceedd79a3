# SPDX-License-Identifier: Apache-2.0
"""How an image may change, and how far."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monai_adversarial.utils.calls import ShownAsCall, shown
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundPerturbation", "BudgetError", "Measurement", "Parameters", "Perturbation", "per_sample"]

Parameters = tuple[torch.Tensor, ...]

# Room for float32 arithmetic in a comparison of what was measured with what was allowed.
RELATIVE_TOLERANCE = 1e-4


class BudgetError(RuntimeError):
    """An image left the budget of its attack."""


@dataclass(frozen=True)
class Measurement:
    """One measured property of a finished adversarial batch.

    Args:
        values: one number per sample, (batch,).
        units: unit of the values, for example ``"HU"`` or ``"mm"``.
        limit: what the budget allows, for the batch or for each sample, (batch,); None for a value that is only
            reported.
        at_least: the limit is a lower bound (for example of a Jacobian determinant) instead of an upper bound.
        tolerance: absolute room for rounding to the saved file's integers, in ``units``, for the batch or for each
            sample, (batch,).
    """

    values: torch.Tensor
    units: str
    limit: float | torch.Tensor | None = None
    at_least: bool = False
    tolerance: float | torch.Tensor = 0.0

    def exceeded(self) -> list[int]:
        """Indices of the samples outside the limit."""
        if self.limit is None:
            return []
        limit = torch.as_tensor(self.limit, dtype=torch.float64, device="cpu")
        tolerance = torch.as_tensor(self.tolerance, dtype=torch.float64, device="cpu")
        room = limit.abs() * RELATIVE_TOLERANCE + 1e-6 + tolerance
        values = self.values.detach().double().cpu()
        inside = values >= limit - room if self.at_least else values <= limit + room
        return [i for i, fine in enumerate(inside.tolist()) if not fine]  # NaN is never inside

    def limit_of(self, sample: int) -> float | None:
        """What the budget allows one sample."""
        return float(self.limit[sample]) if isinstance(self.limit, torch.Tensor) else self.limit

    def tolerance_of(self, sample: int) -> float:
        """The room for rounding of one sample."""
        return float(self.tolerance[sample]) if isinstance(self.tolerance, torch.Tensor) else self.tolerance


def _times(budget: Any, factor: float) -> Any:
    if isinstance(budget, Mapping):
        return {name: _times(value, factor) for name, value in budget.items()}
    if isinstance(budget, Sequence):
        return type(budget)(_times(value, factor) for value in budget)  # type: ignore[call-arg]
    return budget * factor


def per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape (batch,) so that it broadcasts over the other dimensions of ``like``."""
    return values.view(-1, *([1] * (like.ndim - 1)))


class BoundPerturbation(ABC):
    """A perturbation tied to one clean batch: pure functions of explicit parameters.

    Parameters are a tuple of float tensors with a leading batch dimension; sample ``i`` of the image depends on sample
    ``i`` of each alone. Zero parameters are the identity.
    """

    #: the perturbation moves anatomy, so that labels move with the image
    geometric: bool = False
    #: the perturbation honors ``scene.budget``, one factor per sample
    per_sample_budget: bool = False

    def __init__(self, scene: Scene) -> None:
        if scene.budget is not None and not self.per_sample_budget:
            raise NotImplementedError(
                f"{type(self).__name__} knows one budget for the whole batch: a budget per sample works with "
                "AdditiveNoise only."
            )
        self.scene = scene

    @property
    @abstractmethod
    def radii(self) -> Parameters:
        """Per parameter tensor: the half-width of the budget in the parameter's own units, broadcastable over it."""

    @property
    def norms(self) -> tuple[str, ...]:
        """Per parameter tensor: ``"linf"`` (sign steps) or ``"l2"`` (unit gradient steps)."""
        return ("linf",) * len(self.radii)

    @abstractmethod
    def zeros(self) -> Parameters:
        """Parameters of the identity."""

    @abstractmethod
    def random(self, generators: list[torch.Generator]) -> Parameters:
        """A feasible random draw, one generator per sample: the start of a search."""

    @abstractmethod
    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """A random draw of the same size as ``parameters``: the control that an attack is compared with."""

    @abstractmethod
    def project(self, parameters: Parameters) -> Parameters:
        """The nearest (or a scaled) feasible point. No host synchronization."""

    @abstractmethod
    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The perturbed image, (batch, channel, spatial...), differentiable in ``image`` and ``parameters``."""

    @abstractmethod
    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure a finished image.

        Args:
            image: the clean image.
            adversarial: the finished image, for example read back from a file.
            parameters: what made it.
            rounding: largest rounding of a voxel that the file's dtype caused, in image units (0.5 for integer HU).
        """

    def verify(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure a finished image and raise where a budget is exceeded.

        Raises:
            BudgetError: names the budget, the sample, what was measured and what is allowed.
        """
        measured = self.measure(image, adversarial, parameters, rounding)
        for name, measurement in measured.items():
            for sample in measurement.exceeded():
                side = "below" if measurement.at_least else "above"
                raise BudgetError(
                    f"{name} of sample {sample} is {float(measurement.values[sample]):.6g} {measurement.units}, "
                    f"{side} the budget of {measurement.limit_of(sample):.6g} {measurement.units}."
                )
        return measured

    @property
    def changeable(self) -> torch.Tensor:
        """Share of the voxels in the attack's region that may change, (batch,)."""
        image = self.scene.image
        return torch.ones(image.shape[0], dtype=image.dtype, device=image.device)

    def frozen_fraction(self, gradients: Parameters) -> torch.Tensor:
        """Share of each sample's gradient entries that are exactly zero, (batch,): a sign step leaves those parameters
        where they are."""
        zeros = torch.stack([(gradient == 0).flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)
        return zeros / sum(gradient[0].numel() for gradient in gradients)

    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The finished image in whole numbers (integer HU), still inside the budget."""
        return adversarial.round()

    def move_soft_label(self, one_hot: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move soft one-hot labels (batch, class, spatial...) as the image moves; the identity unless geometric."""
        return one_hot

    def move_class_map(self, label: torch.Tensor, classes: int, parameters: Parameters) -> torch.Tensor:
        """Soft one-hot (batch, class, spatial...) of a moved class map (batch, spatial...), differentiable in
        ``parameters``."""
        raise NotImplementedError(f"{type(self).__name__} is not geometric: it does not move labels.")

    def move_label(self, label: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move a label or mask (batch, channel, spatial...) by nearest neighbor; the identity unless geometric."""
        return label

    def pull_back(self, volume: torch.Tensor, parameters: Parameters, mode: str = "linear") -> torch.Tensor:
        """Bring what was found on the moved image back to the clean anatomy; the identity unless geometric.

        Args:
            volume: (batch, channel, spatial...), for example logits.
            parameters: what moved the image.
            mode: ``"linear"`` or ``"nearest"`` (labels).
        """
        return volume

    def pulled_from_inside(self, parameters: Parameters) -> torch.Tensor | None:
        """Boolean (batch, 1, spatial...): voxels that ``pull_back`` reads from inside the volume and not from beyond
        its border; None for all of them."""
        return None


class Perturbation(ShownAsCall, ABC):
    """A way to change an image and its budget, before any image is known."""

    #: attributes that say how far the image may change, in proportion to which ``scaled`` changes the budget
    budget_attributes: tuple[str, ...] = ()
    _shows_defaults = True

    def scaled(self, factor: float) -> Perturbation:
        """The same kind of change with ``factor`` times the budget, for example for a curriculum.

        Raises:
            ValueError: for a negative factor.
            NotImplementedError: for a perturbation that does not name its ``budget_attributes``.
        """
        factor = check_positive("factor", factor, allow_zero=True)
        if not self.budget_attributes:
            raise NotImplementedError(f"{type(self).__name__} has no budget_attributes: its budget cannot be scaled.")
        made = copy.copy(self)
        for name in self.budget_attributes:
            setattr(made, name, _times(getattr(self, name), factor))
        made._afterwards = (*self._afterwards, f".scaled({shown(float(factor))})")
        return made

    @abstractmethod
    def bind(self, scene: Scene) -> BoundPerturbation:
        """Tie the perturbation to a clean batch; raises ValueError when the scene lacks what the budget needs."""
