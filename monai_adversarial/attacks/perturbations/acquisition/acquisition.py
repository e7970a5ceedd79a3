# SPDX-License-Identifier: Apache-2.0
"""Steps of an acquisition one after the other, as one perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.chain import BoundChain, Chain
from monai_adversarial.attacks.perturbations.geometric import intensity_changes, unexplained_change
from monai_adversarial.utils.scene import Scene

__all__ = ["Acquisition", "BoundAcquisition"]


class Acquisition(Chain):
    """Acquisition blocks in the given order; unlike a ``Chain`` the image is rounded once, at the end.

    >>> from monai_adversarial.attacks import Acquisition, Attack, Cupping, RandomSearch, WindowShift
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> scanner = Acquisition([Cupping(10), WindowShift(10, 0.05)])
    >>> by_gradients = Attack(scanner, "dice", steps=4)(model, image, label)
    >>> by_queries = Attack(scanner, "dice", RandomSearch(), steps=4)(model, image, label)
    >>> sorted(by_queries.budgets)[:2], bool(by_gradients.adversarial_dice < by_gradients.clean_dice)
    (['cupping', 'largest_change'], True)

    Args:
        blocks: at least one acquisition block or ``BiasField``; the first acts first.

    Raises:
        ValueError: for an empty sequence.
        TypeError: for a member that is no perturbation.
    """

    def __init__(self, blocks: Sequence[Perturbation]) -> None:
        super().__init__(blocks)

    def scaled(self, factor: float) -> Acquisition:
        """Every block with ``factor`` times its range."""
        return Acquisition([member.scaled(factor) for member in self.perturbations])

    def bind(self, scene: Scene) -> BoundAcquisition:
        """Tie every block to the same batch.

        Raises:
            TypeError: for a perturbation that is no part of an acquisition.
            ValueError: where the scene lacks what a block needs.
        """
        return BoundAcquisition(self, scene)


class BoundAcquisition(BoundChain):
    """An acquisition on one batch; the parameters of its blocks follow each other.

    >>> from monai_adversarial.attacks import Acquisition, Attack, Cupping, WindowShift
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(Acquisition([Cupping(10), WindowShift(10, 0.05)]), steps=2)(*example_case(16))
    >>> sorted(result.bound.measure_parameters(result.parameters))
    ['cupping', 'window_level', 'window_width']
    """

    def __init__(self, perturbation: Acquisition, scene: Scene) -> None:
        super().__init__(perturbation, scene)
        for member in self.members:
            if not hasattr(member, "measure_parameters") or member.follows_voxels:
                raise TypeError(
                    f"blocks must be acquisition blocks or BiasField, got {type(member).__name__}: use a Chain."
                )

    @torch.no_grad()
    def finished(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image after the last block, rounded once to the values of the file."""
        return BoundPerturbation.finished(self, image, parameters)

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid in the valid range."""
        return self._rounded(image, adversarial)

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """Those of the blocks; a name that two blocks have gets the number of its block in front."""
        found: dict[str, Measurement] = {}
        for index, measured in enumerate(self._measured(parameters)):
            found.update({f"{index}_{name}" if name in found else name: one for name, one in measured.items()})
        return found

    def _measured(self, parameters: Parameters) -> Iterator[dict[str, Measurement]]:
        for member, own in self._each(parameters):
            yield member.measure_parameters(own)  # type: ignore[attr-defined]

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Each variable against its range, whether they explain the finished image, and the change in HU."""
        expected = self.finished(image, parameters)
        return {
            **self.measure_parameters(parameters),
            "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, 2 * rounding),
            **intensity_changes(self.scene, image, adversarial),
        }
