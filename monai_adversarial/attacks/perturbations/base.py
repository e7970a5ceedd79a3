# SPDX-License-Identifier: Apache-2.0
"""How an image may change, and how far."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from monai_adversarial.attacks.perturbations.rounding import Limits, rounded_inside
from monai_adversarial.utils.calls import ShownAsCall, shown
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.slabs import count_true, largest
from monai_adversarial.utils.stored_grid import StoredGrid
from monai_adversarial.utils.validation import check_positive

__all__ = [
    "BoundPerturbation",
    "BudgetError",
    "Measurement",
    "Parameters",
    "Perturbation",
    "limit_length",
    "per_sample",
]

Parameters = tuple[torch.Tensor, ...]

# Room for float32 arithmetic in a comparison of what was measured with what was allowed.
RELATIVE_TOLERANCE = 1e-4
# Share of the image's range by which a repeated calculation on another device may differ.
REPEAT_TOLERANCE = 1e-3
# HU of air outside the body and of the scanner's padding: no tissue is below.
LOWEST_HU = -1024.0
# Parameters far outside any budget, whose projection shows how wide the budget is.
FAR = 1e6


class BudgetError(RuntimeError):
    """An image left the budget of its attack.

    >>> from monai_adversarial.attacks import PGD, BudgetError
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = PGD(8, "HU", steps=1)(model, image, label)
    >>> try:
    ...     result.verify(image + 9)
    ... except BudgetError as error:
    ...     print(error)
    noise_linf of sample 0 is 9 HU, above the budget of 8 HU.
    """


@dataclass(frozen=True)
class Measurement:
    """One measured property of a finished adversarial batch.

    >>> import torch
    >>> from monai_adversarial.attacks import Measurement
    >>> found = Measurement(torch.tensor([7.9, 8.2]), units="HU", limit=8.0)
    >>> found.exceeded()
    [1]
    >>> Measurement(torch.tensor([0.05]), units="", limit=0.1, at_least=True).exceeded()
    [0]

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


def limit_length(vectors: torch.Tensor, longest: float | torch.Tensor) -> torch.Tensor:
    """Vectors along dimension 1, those above a length scaled down to it."""
    length = vectors.norm(dim=1, keepdim=True)
    return vectors * (longest / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0)


def _size(parameter: torch.Tensor, norm: str) -> torch.Tensor:
    """Largest entry, Euclidean length or length of the longest vector of each sample, (batch,)."""
    if norm == "vector":
        return parameter.norm(dim=1).flatten(1).amax(dim=1)
    flat = parameter.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


class BoundPerturbation(ABC):
    """A perturbation tied to one clean batch: pure functions of explicit parameters.

    Parameters are a tuple of float tensors with a leading batch dimension; sample ``i`` of the image depends on sample
    ``i`` of each alone. Zero parameters are the identity.

    A subclass defines ``zeros``, ``apply`` and one of ``radii`` (a box or a ball) and ``project`` (any other set). All
    else has a default that can be replaced where something better is known: ``random``, ``random_control``, ``norms``,
    ``measure``, ``quantize``, ``untouched``. ``finished`` makes the image that counts: rounded once to the values of
    its file, and with the clean bits outside the attack's region. ``verify`` measures for every perturbation that it
    stays in the range of values and outside the region as it was.

    >>> from monai_adversarial.attacks import Attack, BoundPerturbation, Perturbation
    >>> from monai_adversarial.data.example import example_case
    >>> class BoundShift(BoundPerturbation):
    ...     @property
    ...     def radii(self):
    ...         return (self.scene.image.new_tensor([[10.0]]),)
    ...     def zeros(self):
    ...         return (self.scene.image.new_zeros(self.scene.batch, 1),)
    ...     def apply(self, image, parameters):
    ...         return image + parameters[0].view(-1, 1, 1, 1, 1)
    >>> class Shift(Perturbation):
    ...     def bind(self, scene):
    ...         return BoundShift(scene)
    >>> result = Attack(Shift(), steps=4)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), float(result.parameters[0].abs()) <= 10
    (True, True)
    """

    #: the perturbation moves anatomy, so that labels move with the image
    geometric: bool = False
    #: the perturbation honors ``scene.budget``, one factor per sample
    per_sample_budget: bool = False
    #: what is allowed depends on the voxels of the image, so that a chain ties the perturbation to its input anew
    follows_voxels: bool = True

    def __init__(self, scene: Scene) -> None:
        if scene.budget is not None and not self.per_sample_budget:
            raise NotImplementedError(
                f"{type(self).__name__} knows one budget for the whole batch: a budget per sample works with "
                "AdditiveNoise only."
            )
        self.scene = scene
        self._far: Parameters | None = None

    def rebind(self, perturbation: Perturbation, scene: Scene) -> BoundPerturbation:
        """The same perturbation on another image of the same shape: what a member of a chain gets. No host
        synchronization where it can be avoided."""
        return perturbation.bind(scene)

    @property
    def radii(self) -> Parameters:
        """Per parameter tensor: the half-width of the budget in the parameter's own units, broadcastable over it.

        By default how far ``project`` lets each parameter go.
        """
        if type(self).project is BoundPerturbation.project:
            raise TypeError(
                f"{type(self).__name__} must define radii (of a box or a ball) or project (on another set)."
            )
        if self._far is None:
            with torch.no_grad():
                far = self.project(tuple(torch.full_like(zero, FAR) for zero in self.zeros()))
            self._far = tuple(parameter.abs() for parameter in far)
        return self._far

    @property
    def norms(self) -> tuple[str, ...]:
        """Per parameter tensor: ``"linf"`` (a box, sign steps), ``"l2"`` (a ball, unit gradient steps) or ``"vector"``
        (a ball for each vector along dimension 1, unit gradient steps of each)."""
        return ("linf",) * len(self.radii)

    @abstractmethod
    def zeros(self) -> Parameters:
        """Parameters of the identity."""

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """A feasible random draw, one generator per sample: the start of a search.

        By default uniform in the box of ``radii``, then projected.
        """
        draws = self.zeros()
        for draw in draws:
            for sample, generator in zip(draw, generators, strict=True):
                sample.uniform_(-1.0, 1.0, generator=generator)
        return self.project(tuple(draw * radius for draw, radius in zip(draws, self.radii, strict=True)))

    def start(self, generators: list[torch.Generator]) -> Parameters:
        """Where a search begins that does not begin at the clean image: by default a random draw."""
        return self.random(generators)

    def extremes(self) -> tuple[Parameters, ...]:
        """Points at the edge of the budget that a search had better look at itself (``ExtremesFirst``), because the way
        of the gradient leads to one of them by chance; none by default."""
        return ()

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """A random draw of the same size as ``parameters``: the control that an attack is compared with.

        By default ``random``, scaled to the size of each parameter tensor in its norm, then projected.
        """
        scaled = []
        for draw, given, norm in zip(self.random(generators), parameters, self.norms, strict=True):
            found, wanted = (_size(parameter.detach(), norm) for parameter in (draw, given))
            scaled.append(draw * per_sample(wanted / found.clamp_min(torch.finfo(found.dtype).tiny), draw))
        return self.project(tuple(scaled))

    def project(self, parameters: Parameters) -> Parameters:
        """The nearest (or a scaled) feasible point. No host synchronization.

        By default the box or the ball of ``radii``, as ``norms`` says.
        """
        projected = []
        for parameter, radius, norm in zip(parameters, self.radii, self.norms, strict=True):
            if norm == "linf":
                projected.append(torch.maximum(torch.minimum(parameter, radius), -radius))
            elif norm == "vector":
                projected.append(limit_length(parameter, radius))
            else:
                length = per_sample(_size(parameter, norm), parameter)
                projected.append(parameter * (radius / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0))
        return tuple(projected)

    @abstractmethod
    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The perturbed image, (batch, channel, spatial...), differentiable in ``image`` and ``parameters``."""

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure a finished image.

        By default how far the parameters are from feasible ones, as a share of the budget, and whether they explain the
        image. Replace it to say what an image shows in the budget's own units (HU, mm, percent).

        Args:
            image: the clean image.
            adversarial: the finished image, for example read back from a file.
            parameters: what made it.
            rounding: largest rounding of a voxel that came after the attack, in image units (0.5 for integer HU); 0
                where the attack has rounded to the values of the file (``scene.stored``), which are what it is
                measured against.
        """
        with torch.no_grad():
            excess = torch.zeros(self.scene.batch, dtype=torch.float64, device=image.device)
            feasible = self.project(parameters)
            for given, allowed, radius in zip(parameters, feasible, self.radii, strict=True):
                width = radius.abs().expand_as(given).flatten(1).amax(dim=1).clamp_min(torch.finfo(radius.dtype).tiny)
                excess = torch.maximum(excess, _size(given - allowed, "linf").double() / width)
            expected = self.finished(image, parameters).double()
            difference = (adversarial.double() - expected).abs().flatten(1).amax(dim=1)
        room = 2 * rounding + REPEAT_TOLERANCE * float(image.max() - image.min())
        return {
            "outside_budget": Measurement(excess, "of the budget", 0.0, tolerance=RELATIVE_TOLERANCE),
            "unexplained_change": Measurement(difference, self.scene.image_units, 0.0, tolerance=room),
        }

    def valid_range(self, image: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Lowest and highest value that each voxel may take: HU from the scanner's padding up, network values inside
        the window, and in both what the image's file can hold. A voxel that starts outside keeps its own value as the
        bound; None where nothing is known."""
        scene = self.scene
        lows: list[Any] = []
        highs: list[Any] = []
        if scene.image_units == "HU":
            lows.append(LOWEST_HU)
        elif scene.intensity is not None:
            lows.append(scene.intensity.low)
            highs.append(scene.intensity.high)
        if scene.stored is not None:
            lows.append(scene.stored.low)
            highs.append(scene.stored.high)
        low = high = None
        for edge in lows:
            if edge is not None:
                own = image.clamp_max(IntensityMap.like(edge, image))
                low = own if low is None else torch.maximum(low, own)
        for edge in highs:
            if edge is not None:
                own = image.clamp_min(IntensityMap.like(edge, image))
                high = own if high is None else torch.minimum(high, own)
        return low, high

    def into_range(self, changed: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """``changed`` where it stays in the valid range of ``image``'s voxels, the edge of the range elsewhere; at the
        edge itself the gradient still flows."""
        low, high = self.valid_range(image.detach())
        if low is not None:
            changed = torch.where(changed < low, low, changed)
        if high is not None:
            changed = torch.where(changed > high, high, changed)
        return changed

    def _measure_surroundings(
        self, image: torch.Tensor, adversarial: torch.Tensor, rounding: float
    ) -> dict[str, Measurement]:
        """What no perturbation may do: leave the valid range of values, or change voxels outside the region."""
        found = {}
        low, high = self.valid_range(image)
        excess: torch.Tensor | None = None
        for edge, sign in ((low, 1.0), (high, -1.0)):
            if edge is None:
                continue
            if self.geometric:  # anatomy takes its values along
                edge = per_sample((sign * edge).flatten(1).amin(dim=1) * sign, edge)
            beyond = largest(lambda a, e, s=sign: (s * (e.double() - a.double())).clamp_min(0), adversarial, edge)
            excess = beyond if excess is None else torch.maximum(excess, beyond)
        if excess is not None:
            spacing = float(image.detach().abs().max()) * 4 * torch.finfo(torch.float32).eps
            room = rounding + spacing
            found["outside_valid_range"] = Measurement(excess, self.scene.image_units, 0.0, tolerance=room)
        if self.scene.region is not None:
            outside = largest(
                lambda a, c, r: (a.double() - c.double()).abs() * ~r, adversarial, image, self.scene.region
            )
            found["change_outside_region"] = Measurement(outside, self.scene.image_units, 0.0, tolerance=rounding)
        return found

    def verify(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure a finished image and raise where a budget is exceeded.

        Raises:
            BudgetError: names the budget, the sample, what was measured and what is allowed.
        """
        measured = self.measure(image, adversarial, parameters, rounding)
        surroundings = self._measure_surroundings(image, adversarial, rounding)
        for name, measurement in surroundings.items():
            measured.setdefault(name, measurement)
        for name in (*surroundings, *measured):  # what no perturbation may do says more than a budget that it breaks
            measurement = measured[name]
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

    @property
    def support(self) -> torch.Tensor | None:
        """Boolean (batch, 1, spatial...): voxels at which the network's input can change; None for all of them."""
        return None if self.geometric else self.scene.region

    def frozen_fraction(self, gradients: Parameters) -> torch.Tensor:
        """Share of each sample's gradient entries that are exactly zero, (batch,): a sign step leaves those parameters
        where they are."""
        zeros = torch.stack([count_true(gradient == 0) for gradient in gradients]).sum(dim=0)
        return zeros / sum(gradient[0].numel() for gradient in gradients)

    @torch.no_grad()
    def finished(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image that is handed back, scored and saved: perturbed, in the values that its file can hold, and with
        the clean bits where the perturbation must not change a voxel."""
        changed = self.apply(image, parameters)
        if self.scene.stored is not None:
            changed = self.quantize(image, changed, parameters)
        untouched = self.untouched(image)
        return changed if untouched is None else torch.where(untouched, image, changed)

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """Boolean, broadcastable over ``image``: voxels that keep their bits whatever the parameters; None for none.

        By default those outside the attack's region.
        """
        return None if self.scene.region is None else ~self.scene.region

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The perturbed image in values that its file can hold (by default whole numbers), inside the budget and the
        valid range; voxels that were not changed keep their bits."""
        return self._rounded(image, adversarial)

    def _rounded(
        self,
        image: torch.Tensor,
        adversarial: torch.Tensor,
        limits: Callable[..., Limits] | None = None,
        *extra: torch.Tensor,
    ) -> torch.Tensor:
        """Values of the grid inside the limits of the budget and the valid range; see ``rounded_inside``."""
        whole = self._range_of_moved(image) if self.geometric else None

        def both(clean: torch.Tensor, changed: torch.Tensor, *more: torch.Tensor) -> Limits:
            low, high = self.valid_range(clean) if whole is None else whole
            if limits is None:
                return low, high
            lower, upper = limits(clean, changed, *more)
            low = lower if low is None else low if lower is None else torch.maximum(low, lower)
            high = upper if high is None else high if upper is None else torch.minimum(high, upper)
            return low, high

        return rounded_inside(self.grid, image, adversarial, both, self.untouched(image), *extra)

    def _range_of_moved(self, image: torch.Tensor) -> Limits:
        """The valid range where anatomy takes its values along: that of the whole sample, whose ends are values of the
        file whatever float32 makes of them."""
        low, high = self.valid_range(self.grid.snapped(image.double(), torch.finfo(image.dtype).eps))
        return (
            None if low is None else per_sample(low.flatten(1).amin(dim=1), low),
            None if high is None else per_sample(high.flatten(1).amax(dim=1), high),
        )

    @property
    def grid(self) -> StoredGrid:
        """The values that finished images are rounded to."""
        return self.scene.stored or StoredGrid()

    def sharing(self) -> AbstractContextManager[None]:
        """Context in which work that image and label of the same parameters have in common is done once."""
        return nullcontext()

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
    """A way to change an image and its budget, before any image is known.

    >>> from monai_adversarial.attacks import AdditiveNoise, BiasField, Perturbation
    >>> isinstance(AdditiveNoise(8, units="HU"), Perturbation)
    True
    >>> AdditiveNoise(8, units="HU").scaled(0.5).epsilon, BiasField(max_gain=0.2).scaled(2).max_gain
    (4.0, 0.4)
    """

    #: attributes that say how far the image may change, in proportion to which ``scaled`` changes the budget
    budget_attributes: tuple[str, ...] = ()
    #: what the ``extremes`` of the bound perturbation are to a search: ``"ends"`` of the way, behind which nothing is
    #: left to gain, ``"starts"`` that it goes on from, or None where there are none
    extremes_are: str | None = None
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
