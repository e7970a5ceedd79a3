# SPDX-License-Identifier: Apache-2.0
"""MagNet's detectors: an autoencoder rebuilds clean images, and what it cannot rebuild is suspicious."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.windowed import Ask, Numbers, mean_over_windows, recomputed
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.checks import check_units
from monai_adversarial.utils.backward_pass import backward_pass
from monai_adversarial.utils.scene import case_seeds
from monai_adversarial.utils.validation import check_choice, check_count, check_instance, check_positive

__all__ = ["ReconstructionDivergence", "ReconstructionError"]

NORMS = ("l1", "l2")


class _Rebuilding(Detector):
    """A detector by what a purifier makes of an image."""

    needs_fit = False

    def __init__(self, model: Any, purifier: Purifier, draws: int = 1) -> None:
        super().__init__(model)
        self.purifier = check_instance("purifier", purifier, Purifier, "AutoencoderDenoise(weights)")
        if purifier.geometric:
            raise ValueError(f"purifier must move no anatomy, got {type(purifier).__name__}.")
        self.draws = check_count("draws", draws)

    def _rebuilt(self, image: torch.Tensor, like: torch.Tensor, number: int) -> torch.Tensor:
        check_units(self.purifier, image.detach())
        seeds = case_seeds(image, number) if self.purifier.random else ()
        with backward_pass("declared"):  # in force, so that no attack is weak unnoticed
            return self.purifier.apply(image, self.purifier.context_of(like, seeds))

    @property
    def _numbers_of_draws(self) -> range:
        return range(self.draws if self.purifier.random else 1)


class ReconstructionError(_Rebuilding):
    """Mean distance between an image and what an autoencoder (or another purifier) makes of it.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import ReconstructionError
    >>> from monai_adversarial.transforms import GaussianDenoise
    >>> model, image, _ = example_case(16)
    >>> detector = ReconstructionError(model, GaussianDenoise())
    >>> bool(detector.score(image + 8 * torch.randn(image.shape).sign()) > detector.score(image))
    True

    Args:
        model: says the units of the images; it is not asked.
        purifier: in its array form, such as ``AutoencoderDenoise(weights)`` of MagNet or a masked autoencoder; in
            network values it needs ``intensity=``.
        norm: ``"l1"``, mean absolute difference, or ``"l2"``, root of the mean square, in the image's units.
        draws: of a random purifier, whose errors are averaged.

    Raises:
        TypeError: for something else than a purifier.
        ValueError: for one that moves anatomy, and an unknown norm.

    Source: Meng and Chen, MagNet, CCS 2017 (reconstruction error, norm 1 or 2). With a masked autoencoder it has the
    idea of MedFedPure, of which only the abstract was read.

    Survey entry: T07 (published).
    Survey entry: T10 (reconstruction).
    """

    def __init__(self, model: Any, purifier: Purifier, norm: str = "l1", draws: int = 1) -> None:
        super().__init__(model, purifier, draws)
        self.norm = check_choice("norm", norm, NORMS)

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        found = []
        for number in self._numbers_of_draws:
            away = (image - self._rebuilt(image, like, number)).flatten(1).double()
            # the root has no derivative at 0
            found.append(away.abs().mean(1) if self.norm == "l1" else (away.square().mean(1) + 1e-24).sqrt())
        return torch.stack(found).mean(dim=0)


class ReconstructionDivergence(_Rebuilding):
    """Jensen-Shannon divergence between the softened answers to an image and to what an autoencoder makes of it.

    It is averaged over voxels, in nats: from 0 to log 2.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import ReconstructionDivergence
    >>> from monai_adversarial.transforms import GaussianDenoise
    >>> model, image, _ = example_case(16)
    >>> 0 <= float(ReconstructionDivergence(model, GaussianDenoise()).score(image)) < 0.7
    True

    Args:
        model: an ``AttackedModel``, or a bare network.
        purifier: in its array form, see :class:`ReconstructionError`.
        temperature: logits are divided by it, because divergences of sure answers vanish.
        draws: of a random purifier, whose divergences are averaged.

    Raises:
        TypeError: for something else than a purifier.
        ValueError: for one that moves anatomy, and a temperature that is not above 0.

    Source: Meng and Chen, MagNet, CCS 2017, for a classifier (temperatures 10 and 40). The mean over voxels is ours.

    Survey entry: T07 (adapted).
    """

    def __init__(self, model: Any, purifier: Purifier, temperature: float = 10.0, draws: int = 1) -> None:
        super().__init__(model, purifier, draws)
        self.temperature = check_positive("temperature", temperature)

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        def look(ask: Ask, *seen: torch.Tensor) -> Numbers:
            return recomputed(lambda *windows: (self._divergence(*map(ask, windows)),), *seen)

        found = [
            mean_over_windows(self.model, [image, self._rebuilt(image, like, number)], like, look)[0]
            for number in self._numbers_of_draws
        ]
        return torch.stack(found).mean(dim=0)

    def _divergence(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if self.model.activation_of(one.shape[1]) == "sigmoid":  # each channel is a decision between two
            one, other = (torch.stack([torch.zeros_like(part), part], dim=1) for part in (one, other))
        p, q = ((part.double() / self.temperature).log_softmax(dim=1) for part in (one, other))
        middle = torch.logaddexp(p, q) - torch.tensor(2.0, dtype=p.dtype).log()
        halves = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=1) / 2
        return halves.flatten(1).mean(dim=1)
