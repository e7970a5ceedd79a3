# SPDX-License-Identifier: Apache-2.0
"""Several perturbations, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric
from monai_adversarial.utils.scene import Scene

__all__ = ["BoundChain", "Chain"]


class Chain(Perturbation):
    """Apply several perturbations in order, each within its own budget around the image that it gets (as Chen et al.
    2022, AdvChain).

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, BiasField, Chain
    >>> from monai_adversarial.data.example import example_case
    >>> chain = Chain([BiasField(max_gain=0.05), AdditiveNoise(5, units="HU")])
    >>> result = Attack(chain, steps=3)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), len(result.parameters)
    (True, 2)

    Args:
        perturbations: at least one; the first is applied first.

    Raises:
        ValueError: for an empty sequence.
        TypeError: for a member that is not a perturbation.

    Source: Chen et al. 2022 (AdvChain), with any members in any order.

    Survey entry: X10 (adapted).
    """

    def __init__(self, perturbations: Sequence[Perturbation]) -> None:
        self.perturbations = tuple(perturbations)
        if not self.perturbations:
            raise ValueError("perturbations must hold at least one perturbation, got none.")
        for member in self.perturbations:
            if not isinstance(member, Perturbation):
                raise TypeError(f"perturbations must hold perturbations only, got {type(member).__name__}.")

    def scaled(self, factor: float) -> Chain:
        """Every member with ``factor`` times its budget."""
        return Chain([member.scaled(factor) for member in self.perturbations])

    @property
    def units(self) -> str | None:
        """``"HU"`` where a member's budget is in HU."""
        return "HU" if any(getattr(member, "units", None) == "HU" for member in self.perturbations) else None

    @property
    def extremes_are(self) -> str | None:  # type: ignore[override]
        """Starts where a member has starts, else ends where a member has ends."""
        each = {member.extremes_are for member in self.perturbations}
        return next((are for are in ("starts", "ends") if are in each), None)

    def bind(self, scene: Scene) -> BoundChain:
        """Tie every member to the same batch."""
        return BoundChain(self, scene)


class BoundChain(BoundPerturbation):
    """A chain on one batch; the parameters of its members follow each other.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, Chain, ElasticDeformation
    >>> from monai_adversarial.data.example import example_case
    >>> chain = Chain([ElasticDeformation(3.0), AdditiveNoise(5, units="HU")])
    >>> result = Attack(chain, steps=1)(*example_case(16))
    >>> moved = result.bound.move_label(result.clean_label, result.parameters)
    >>> result.bound.geometric, bool((moved == result.label).all())
    (True, True)
    """

    def __init__(self, perturbation: Chain, scene: Scene) -> None:
        super().__init__(scene)
        self.kinds = perturbation.perturbations
        self.members = tuple(member.bind(scene) for member in self.kinds)
        self.names = tuple(f"{i}_{type(member).__name__}" for i, member in enumerate(self.kinds))
        self.geometric = any(member.geometric for member in self.members)
        self.follows_voxels = any(member.follows_voxels for member in self.members)
        self.counts = tuple(len(member.radii) for member in self.members)
        # Up to here each member's input must be known before the next one's budget is.
        self.last_follower = max((i for i, member in enumerate(self.members) if member.follows_voxels), default=0)

    def rebind(self, perturbation: Perturbation, scene: Scene) -> BoundChain:
        """The same chain on another image; the members are tied to what they get when they get it."""
        made = copy.copy(self)
        made.scene = scene
        if made.members[0].follows_voxels:
            made.members = (made.members[0].rebind(self.kinds[0], scene), *made.members[1:])
        return made

    def _on(self, index: int, image: torch.Tensor) -> BoundPerturbation:
        """A member tied to the image that it gets."""
        member = self.members[index]
        if index == 0 or not member.follows_voxels:
            return member
        return member.rebind(self.kinds[index], replace(self.scene, image=image))

    def _each(self, parameters: Parameters) -> Iterator[tuple[BoundPerturbation, Parameters]]:
        if len(parameters) != sum(self.counts):
            raise ValueError(f"parameters must hold {sum(self.counts)} tensors for this chain, got {len(parameters)}.")
        start = 0
        for member, count in zip(self.members, self.counts, strict=True):
            yield member, parameters[start : start + count]
            start += count

    def _follow(
        self, parameters: Parameters, make: Callable[[BoundPerturbation, Parameters], Parameters]
    ) -> Parameters:
        """New parameters of every member, made on the image that the new parameters of the members before it give."""
        image = self.scene.image
        made: list[torch.Tensor] = []
        for index, (member, own) in enumerate(self._each(parameters)):
            new = make(self._on(index, image), own)
            made.extend(new)
            if index < self.last_follower:
                with torch.no_grad():
                    image = member.apply(image, new)
        return tuple(made)

    @property
    def radii(self) -> Parameters:
        """Those of the members."""
        return tuple(radius for member in self.members for radius in member.radii)

    @property
    def norms(self) -> tuple[str, ...]:
        """Those of the members."""
        return tuple(norm for member in self.members for norm in member.norms)

    def zeros(self) -> Parameters:
        """The identity of every member."""
        return tuple(zero for member in self.members for zero in member.zeros())

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """A random draw of every member."""
        return self._follow(self.zeros(), lambda member, _: member.random(generators))

    def start(self, generators: list[torch.Generator]) -> Parameters:
        """Where a search of each member begins."""
        return self._follow(self.zeros(), lambda member, _: member.start(generators))

    def extremes(self) -> tuple[Parameters, ...]:
        """Those of each member, the others being left out."""
        found: list[Parameters] = []
        zeros = list(self._each(self.zeros()))
        for index, (member, _) in enumerate(zeros):
            before = tuple(zero for _, own in zeros[:index] for zero in own)
            after = tuple(zero for _, own in zeros[index + 1 :] for zero in own)
            found.extend((*before, *extreme, *after) for extreme in member.extremes())
        return tuple(found)

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """A control of every member."""
        return self._follow(parameters, lambda member, own: member.random_control(generators, own))

    def project(self, parameters: Parameters) -> Parameters:
        """Each member in its own budget around the image that it gets."""
        return self._follow(parameters, lambda member, own: member.project(own))

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Apply the members in order."""
        for member, own in self._each(parameters):
            image = member.apply(image, own)
        return image

    def frozen_fraction(self, gradients: Parameters) -> torch.Tensor:
        """That of the members, each weighted by its number of parameters."""
        frozen: torch.Tensor | None = None
        count = 0
        for member, own in self._each(gradients):
            size = sum(gradient[0].numel() for gradient in own)
            one = member.frozen_fraction(own) * size
            frozen, count = one if frozen is None else frozen + one, count + size
        assert frozen is not None
        return frozen / count

    @torch.no_grad()
    def finished(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What the members make one after the other, each in the values of the file and inside its own budget around
        the image that it gets."""
        for index, (_, own) in enumerate(self._each(parameters)):
            image = self._on(index, image).finished(image, own)
        return image

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid, member by member: a budget around an image that no file can hold could not be
        kept by one that a file can."""
        for index, (_, own) in enumerate(self._each(parameters)):
            member = self._on(index, image)
            image = member.quantize(image, member.apply(image, own), own)
        return image

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure each member between the image before it and the image after it; the last one is held against the
        finished image.

        Names are prefixed with the member's index and kind, for example ``"1_BiasField_gain"``.
        """
        found: dict[str, Measurement] = {}
        for index, (_, own) in enumerate(self._each(parameters)):
            last = index == len(self.members) - 1
            with torch.no_grad():
                member = self._on(index, image)
                after = adversarial if last else member.finished(image, own)
            measured = member.measure(image, after, own, rounding if last else 0.0)
            found.update({f"{self.names[index]}_{name}": value for name, value in measured.items()})
            image = after
        return found

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """That of all members."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.sharing())
            yield

    def move_soft_label(self, one_hot: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move soft labels by the geometric members in order."""
        for member, own in self._each(parameters):
            one_hot = member.move_soft_label(one_hot, own)
        return one_hot

    def move_class_map(self, label: torch.Tensor, classes: int, parameters: Parameters) -> torch.Tensor:
        """Soft one-hot of the moved class map: the first geometric member makes it soft, the later ones move it on."""
        soft: torch.Tensor | None = None
        for member, own in self._each(parameters):
            if member.geometric:
                soft = member.move_class_map(label, classes, own) if soft is None else member.move_soft_label(soft, own)
        return super().move_class_map(label, classes, parameters) if soft is None else soft

    def move_label(self, label: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move a label or mask by the geometric members in order."""
        for member, own in self._each(parameters):
            label = member.move_label(label, own)
        return label

    def pull_back(self, volume: torch.Tensor, parameters: Parameters, mode: str = "linear") -> torch.Tensor:
        """Bring a volume on the perturbed image back to the clean image's geometry, the last member first."""
        for member, own in reversed(list(self._each(parameters))):
            if isinstance(member, (BoundGeometric, BoundChain)):
                volume = member.pull_back(volume, own, mode)
        return volume

    @torch.no_grad()
    def pulled_from_inside(self, parameters: Parameters) -> torch.Tensor | None:
        """Where no member's way back leaves the volume."""
        inside: torch.Tensor | None = None
        for member, own in reversed(list(self._each(parameters))):
            here = member.pulled_from_inside(own)
            if inside is not None and here is not None:
                here = here & (member.pull_back(inside.to(member.scene.image.dtype), own) > 0.5)
            inside = inside if here is None else here
        return inside
