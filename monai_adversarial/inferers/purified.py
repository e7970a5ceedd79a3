# SPDX-License-Identifier: Apache-2.0
"""Inference with purifiers in front of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from monai.utils import convert_to_dst_type

from monai_adversarial.inferers.outputs import map_outputs
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.checks import check_finite, check_units
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import Purifierd
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import case_seeds, spacing_of
from monai_adversarial.utils.validation import check_count

__all__ = ["PurifiedInferer", "purifiers_of", "purifies_at_random"]


class PurifiedInferer(Inferer):
    """Purifies the image, then runs another inferer on it.

    Where it stands decides what the purifier sees: around a ``ScannerSpaceInferer`` HU on the scanner's grid, inside
    one the network's values on the network's grid (give the purifier ``intensity`` and ``spacing`` then). The
    ``intensity`` of an attack is applied before the inferer: give the purifier the same one then.

    It is differentiable as its purifiers are: an attacker who knows the defense attacks this inferer, with
    ``gradient=BackwardPassSubstitute()`` and, against random purifiers, ``ExpectationOverTransformation``; one who does
    not attacks the inner inferer. What a random purifier draws depends on ``seed``, the voxels and, in an attack, on
    the draw in force; nothing else.

    >>> from monai.inferers import SimpleInferer
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import PurifiedInferer
    >>> from monai_adversarial.purifiers import GaussianDenoise
    >>> model, image, label = example_case(16)
    >>> defended = model.replace(inferer=PurifiedInferer(SimpleInferer(), GaussianDenoise(sigma=1.0)))
    >>> unaware, aware = (PGD(16, "HU", steps=3)(attacked, image, label) for attacked in (model, defended))
    >>> bool(aware.adversarial_dice < aware.clean_dice)
    True

    Args:
        inferer: inferer of the purified image; None for :py:class:`monai.inferers.SimpleInferer`.
        purifier: a purifier, or several, applied one after the other.
        seed: of random purifiers.

    Raises:
        TypeError: when ``purifier`` is something else.
    """

    def __init__(
        self, inferer: Callable[..., Any] | None, purifier: Purifier | Sequence[Purifier], seed: int = 0
    ) -> None:
        super().__init__()
        purifiers = _as_purifiers(purifier)
        if inferer is not None and (isinstance(inferer, type) or not callable(inferer)):
            what = f"the class {inferer.__name__}" if isinstance(inferer, type) else type(inferer).__name__
            raise TypeError(f"inferer must be an inferer such as SlidingWindowInferer(...) or None, got {what}.")
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.purifiers = purifiers
        self.seed = check_count("seed", seed, minimum=0)
        self._bound: ImageContext | None = None
        self._checked: list[bool] = []  # shared by the copies for one batch

    @property
    def random(self) -> bool:
        """Whether any purifier draws random numbers."""
        return any(purifier.random for purifier in self.purifiers)

    @property
    def is_bound(self) -> bool:
        """Whether it knows the batch that it will be given."""
        return self._bound is not None

    def for_image(self, image: torch.Tensor) -> PurifiedInferer:
        """A copy that takes plain tensors on the grid of ``image``, with the seeds of its voxels.

        Args:
            image: clean batch (batch, channel, spatial...).

        Raises:
            ValueError: for NaN or infinite voxels.
        """
        check_finite("image", as_plain(image))
        bound = copy.copy(self)
        bound._bound = self._context(image)
        bound._checked = []
        if hasattr(self.inferer, "for_image"):
            bound.inferer = self.inferer.for_image(image)
        return bound

    def for_samples(self, indices: Sequence[int]) -> PurifiedInferer:
        """A copy that takes some samples of the batch it is bound to.

        Raises:
            ValueError: when it is not bound.
        """
        if self._bound is None:
            raise ValueError("for_samples needs an inferer that knows the batch: call for_image first.")
        part = copy.copy(self)
        part._bound = self._bound.select(indices)
        if hasattr(self.inferer, "for_samples"):
            part.inferer = self.inferer.for_samples(indices)
        return part

    def _check(self, image: torch.Tensor) -> None:
        # Once per batch: looking at voxels waits for the GPU, which an attack would do in every step.
        if self._checked:
            return
        check_finite("inputs", image)
        for purifier in self.purifiers:
            check_units(purifier, image.detach())
        if self.is_bound:
            self._checked.append(True)

    def _context(self, image: torch.Tensor) -> ImageContext:
        seeds = case_seeds(as_plain(image), self.seed) if self.random else ()
        return ImageContext(spacing_of(image), seeds)

    def _stages(self, inputs: torch.Tensor) -> list[tuple[Purifier, ImageContext]]:
        context = self._bound if self._bound is not None else self._context(inputs)
        stages = []
        for stage, purifier in enumerate(self.purifiers):
            spacing = context.spacing if purifier.spacing is None else spacing_of(inputs, purifier.spacing)
            stages.append((purifier, ImageContext(spacing, context.seeds, stage)))
        return stages

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Outputs of ``network`` for the purified image, on the grid of ``inputs``.

        Args:
            inputs: (batch, channel, spatial...), tensor or ``MetaTensor``.
            network: called by the inner inferer.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.

        Raises:
            TypeError: for ``inputs`` that are no tensor.
            ValueError: for NaN or infinite voxels, and for an image that is not in the units of ``intensity``.
        """
        stages = self._stages(inputs) if isinstance(inputs, torch.Tensor) else []
        outputs = self.inferer(self._purified(inputs, stages), network, *args, **kwargs)
        moved = [(purifier, context) for purifier, context in reversed(stages) if purifier.geometric]
        return map_outputs(lambda output: _pull_back(output, moved), outputs) if moved else outputs

    @property
    def is_geometric(self) -> bool:
        """Whether any purifier moves anatomy, so that outputs have to be moved back."""
        return any(purifier.geometric for purifier in self.purifiers)

    def purify(self, inputs: torch.Tensor) -> torch.Tensor:
        """The image as the inner inferer gets it.

        Args and errors are those of a call.
        """
        return self._purified(inputs, self._stages(inputs))

    def _purified(self, inputs: torch.Tensor, stages: list[tuple[Purifier, ImageContext]]) -> torch.Tensor:
        if not isinstance(inputs, torch.Tensor):
            raise TypeError(f"inputs must be a tensor (batch, channel, spatial...), got {type(inputs).__name__}.")
        plain = as_plain(inputs)
        image = plain if plain.dtype in (torch.float32, torch.float64) else plain.float()
        self._check(image)
        # An operation like a division by a field must not be rounded to half precision.
        with torch.autocast(image.device.type, enabled=False):
            for purifier, context in stages:
                image = purifier.apply(image, context)
        if isinstance(inputs, MetaTensor):
            image = convert_to_dst_type(image, inputs, dtype=image.dtype)[0]
        return image


def purifiers_of(inferer: Any) -> list[Purifier]:
    """The purifiers of an inferer and of the inferers inside it, outermost first."""
    found: list[Purifier] = []
    while inferer is not None:
        if isinstance(inferer, PurifiedInferer):
            found += inferer.purifiers
        inferer = getattr(inferer, "inferer", None)
    return found


def purifies_at_random(inferer: Any) -> bool:
    """Whether a purifier draws random numbers, wherever it stands: around the inferer, or inside one."""
    return any(purifier.random for purifier in purifiers_of(inferer))


def _as_purifiers(given: Any) -> tuple[Purifier, ...]:
    purifiers: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, (Purifier, str)):
        purifiers = tuple(given)
    for item in purifiers:
        if isinstance(item, Purifierd):
            raise TypeError(
                f"purifier must be a Purifier in its array form, got the dictionary form {type(item).__name__}: pass "
                f"{item.array_form.__name__}."
            )
    wrong = [
        f"the class {item.__name__}" if isinstance(item, type) else type(item).__name__
        for item in purifiers
        if not isinstance(item, Purifier)
    ]
    if wrong or not purifiers:
        raise TypeError(
            "purifier must be a Purifier of monai_adversarial.transforms in its array form, or several, got "
            f"{', '.join(wrong) or 'none'}."
        )
    return purifiers


def _pull_back(output: torch.Tensor, moved: Sequence[tuple[Purifier, ImageContext]]) -> torch.Tensor:
    plain = as_plain(output)
    for purifier, context in moved:
        plain = purifier.pull_back(plain, context)
    return convert_to_dst_type(plain, output, dtype=plain.dtype)[0] if isinstance(output, MetaTensor) else plain
