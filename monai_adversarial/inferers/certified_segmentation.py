# SPDX-License-Identifier: Apache-2.0
"""Segmentation with a certificate: no perturbation within a radius changes it, or it abstains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import norm

from monai_adversarial.inferers.gaussian_votes import NoisyCopiesInferer, like_inputs, winner
from monai_adversarial.inferers.voxel_tests import CORRECTIONS, binomial_tail, copies_needed, least_votes
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["ABSTAIN", "CertifiedSegmentation", "CertifiedSegmentationInferer"]

ABSTAIN = -1
_SELECTION, _COUNTING = 0, 1  # streams: the copies that pick a class must not count for it
_LOWEST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class CertifiedSegmentation:
    """A segmentation whose every statement holds, with probability at least 1 - ``alpha`` per sample, for every image
    within ``radius`` (L2 over all voxels and channels together) of the one given.

    Args:
        prediction: int16 (batch, 1, spatial...), or (batch, class, spatial...) of 0 and 1 for ``"sigmoid"``; -1 where
            it abstains. Has the metadata of the input.
        selected: the class that was tested, without abstentions: a prediction with no certificate.
        votes: votes for ``selected`` among ``copies``, integers.
        tested: boolean, shape of ``prediction``: voxels that were tested.
        tail: p-value of each number of votes, float64 (copies + 1,) on the CPU.
        radius: in ``units``, as ``sigma``.
        image_radius: in the units of the image that was given.
        classes: channels of the network's output.
        copies: number of copies that counted.
        alpha: level.
        units: of ``radius``.
    """

    prediction: torch.Tensor
    selected: torch.Tensor
    votes: torch.Tensor
    tested: torch.Tensor
    tail: torch.Tensor
    radius: float
    image_radius: float
    classes: int
    copies: int
    alpha: float
    units: str

    @property
    def p_values(self) -> torch.Tensor:
        """P-value of each voxel's test before correction, float64; 1 where none was made."""
        table = self.tail.to(self.votes.device)
        return torch.where(self.tested, table[self.votes.long()], 1.0)

    @property
    def abstained(self) -> torch.Tensor:
        """Boolean, shape of ``prediction``."""
        return as_plain(self.prediction) == ABSTAIN

    @property
    def abstention_share(self) -> torch.Tensor:
        """Share of the tested voxels that abstain, (batch,); NaN where none was tested."""
        abstained = (self.abstained & self.tested).flatten(1).sum(dim=1)
        return abstained / self.tested.flatten(1).sum(dim=1)


class CertifiedSegmentationInferer(NoisyCopiesInferer):
    """Certified segmentation by randomized smoothing (SegCertify).

    ``n0`` noisy copies pick a class per voxel; ``n`` others count votes for it; an exact one-sided binomial test asks
    whether the class's probability under noise exceeds ``tau``, corrected for the number of voxels. Where it does, the
    smoothed network answers this class for every image within L2 distance ``sigma * Phi^-1(tau)``; elsewhere the
    segmentation abstains. The probability that a sample gets any wrong certificate is at most ``alpha``. The noise
    covers the image as this inferer receives it: the distance is measured there, over all voxels and channels.

    As an inferer it returns scores: 0 for the certified class and log(1e-6) for the others; where it abstains all are
    log(1 / classes), whose argmax is class 0, or those of ``abstain_class``. With ``activation="sigmoid"`` they are
    the log odds of 1 - 1e-6 (yes) and 1e-6 (no), and 0 where it abstains.

    Source: Fischer, Baader, Vechev, "Scalable certified segmentation via randomized smoothing", ICML 2021; Cohen,
    Rosenfeld, Kolter, ICML 2019. ``region``, ``exclude_below`` and ``outside_class`` are additions.

    Args:
        inferer: see :class:`NoisyCopiesInferer`.
        sigma: standard deviation of the noise, in ``units``; networks trained with this noise certify most.
        n0: copies that pick the class.
        n: copies that count. The more voxels, the more are needed: tau**n <= alpha / voxels.
        tau: probability under noise that a class must exceed, 0.5 <= tau < 1.
        alpha: probability of any wrong certificate in a sample.
        correction: ``"holm"`` or ``"bonferroni"``.
        exclude_below: voxels whose every channel lies below this value (in the units of the image) are not tested,
            such as air.
        region: maps the image to a boolean mask (batch, 1, spatial...) of the voxels to test, such as those that are
            not padding.
        outside_class: None: it abstains where nothing is tested. A class: the segmentation is this class there, as a
            rule. The certificate then takes into account that a perturbation may move a voxel across
            ``exclude_below`` (within ``radius`` of it, a voxel is certified only if the test gives this class as
            well); ``region`` must not depend on what can be perturbed.
        abstain_class: class of the scores where it abstains; None for equal scores.
        units: see :class:`NoisyCopiesInferer`, as all that follow.
        intensity: see above.
        image_units: see above.
        copies_at_once: see above.
        denoiser: see above.
        activation: see above.
        output: see above.
        seed: see above.

    Raises:
        ValueError: for a bad argument; when called, for an ``n`` too small to certify any voxel.

    Survey entry: X16 (adapted).
    """

    def __init__(
        self,
        inferer: Callable[..., Any] | None = None,
        sigma: float = 0.25,
        n0: int = 10,
        n: int = 100,
        tau: float = 0.75,
        alpha: float = 0.001,
        correction: str = "holm",
        exclude_below: float | None = None,
        region: Callable[[torch.Tensor], torch.Tensor] | None = None,
        outside_class: int | None = None,
        abstain_class: int | None = None,
        units: str = "network",
        intensity: Any = None,
        image_units: str = "network",
        copies_at_once: int = 1,
        denoiser: Purifier | Sequence[Purifier] | Callable[[torch.Tensor], torch.Tensor] | None = None,
        activation: str = "softmax",
        output: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            inferer, sigma, units, intensity, image_units, copies_at_once, denoiser, activation, output, seed
        )
        self.n0, self.n = check_count("n0", n0), check_count("n", n)
        self.tau, self.alpha = _between("tau", tau, 0.5, 1.0, closed=True), _between("alpha", alpha, 0.0, 1.0)
        self.correction = check_choice("correction", correction, CORRECTIONS)
        if exclude_below is not None and not math.isfinite(exclude_below):
            raise ValueError(f"exclude_below must be a finite number or None, got {exclude_below!r}.")
        if region is not None and not callable(region):
            raise ValueError(f"region must map an image to a boolean mask, or be None, got {type(region).__name__}.")
        self.exclude_below, self.region = exclude_below, region
        self.outside_class = None if outside_class is None else check_count("outside_class", outside_class, minimum=0)
        self.abstain_class = None if abstain_class is None else check_count("abstain_class", abstain_class, minimum=0)

    @property
    def radius(self) -> float:
        """Certified L2 distance, in ``units``."""
        return self.sigma * float(norm.ppf(self.tau))

    @property
    def image_radius(self) -> float:
        """Certified L2 distance, in the units of the image."""
        return self.image_sigma * float(norm.ppf(self.tau))

    def certify(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> CertifiedSegmentation:
        """Segment and certify.

        Args:
            inputs: (batch, channel, spatial...), tensor or ``MetaTensor``.
            network: called by the inner inferer, in evaluation mode.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.

        Raises:
            ValueError: when ``n`` is too small to certify any voxel, and for a network in training mode.
        """
        self._check_mode(network)
        bound, image = self.prepared(inputs)
        with torch.no_grad():
            image = image.detach()
            tested, unsure = self._family(image)
            if self.activation == "softmax":
                self._check_copies(tested, 1)
            counts = bound.vote_counts(image, _SELECTION, self.n0, network, args, kwargs)
            selected = winner(counts, self.n0, self.activation)
            classes = counts.shape[1]
            self._check_classes(2 if self.activation == "sigmoid" else classes)
            if self.activation == "sigmoid":
                self._check_copies(tested, classes)
            del counts
            votes = bound.vote_counts(image, _COUNTING, self.n, network, args, kwargs, chosen=selected)
            tested = tested.to(selected.device).expand_as(selected)

            tail = binomial_tail(self.n, self.tau)
            least = least_votes(votes, tested, tail, self.alpha, self.correction)
            certified = tested & (votes >= least.view(-1, *([1] * (votes.ndim - 1))))
            if self.outside_class is not None:
                certified &= (selected == self.outside_class) | ~unsure.to(selected.device)
            prediction = torch.where(certified, selected, ABSTAIN)
            if self.outside_class is not None:
                prediction = torch.where(tested, prediction, self.outside_class)
        return CertifiedSegmentation(
            like_inputs(prediction.to(torch.int16), inputs),
            selected,
            votes,
            tested,
            torch.from_numpy(tail),
            self.radius,
            self.image_radius,
            classes,
            self.n,
            self.alpha,
            self.units,
        )

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Scores (batch, class, spatial...), float32, with the metadata of ``inputs``; see :py:meth:`certify`."""
        found = self.certify(inputs, network, *args, **kwargs)
        return like_inputs(self.scores(found), inputs)

    def scores(self, found: CertifiedSegmentation) -> torch.Tensor:
        """Scores of a segmentation, as calling the inferer returns them."""
        prediction = as_plain(found.prediction)
        if self.abstain_class is not None:
            prediction = torch.where(prediction == ABSTAIN, self.abstain_class, prediction)
        abstained = prediction == ABSTAIN
        if self.activation == "sigmoid":
            odds = math.log((1.0 - _LOWEST_PROBABILITY) / _LOWEST_PROBABILITY)
            return (2.0 * prediction.float() - 1.0).mul_(odds).masked_fill_(abstained, 0.0)
        shape = (prediction.shape[0], found.classes, *prediction.shape[2:])
        scores = torch.full(shape, math.log(_LOWEST_PROBABILITY), device=prediction.device)
        scores.scatter_(1, prediction.clamp(min=0).long(), 0.0)
        return scores.masked_fill_(abstained, -math.log(found.classes))

    def _family(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Voxels to test, and those that a perturbation within the radius may move across ``exclude_below``."""
        tested = torch.ones_like(image[:, :1], dtype=torch.bool)
        unsure = torch.zeros_like(tested)
        if self.exclude_below is not None:
            brightest = image.amax(dim=1, keepdim=True)
            if self.outside_class is None:
                tested = brightest >= self.exclude_below
            else:
                tested = brightest >= self.exclude_below - self.image_radius
                unsure = tested & (brightest < self.exclude_below + self.image_radius)
        if self.region is not None:
            mask = self.region(image)
            if not isinstance(mask, torch.Tensor) or mask.shape != tested.shape:
                found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
                raise ValueError(f"region must return a mask of shape {tuple(tested.shape)}, got {found}.")
            tested = tested & (as_plain(mask).to(tested.device) > 0)
        return tested, unsure

    def _check_classes(self, classes: int) -> None:
        highest = max(self.outside_class or 0, self.abstain_class or 0)
        if highest >= classes:
            raise ValueError(f"outside_class and abstain_class must be below the {classes} classes, got {highest}.")

    def _check_copies(self, tested: torch.Tensor, channels: int) -> None:
        tests = int(tested.flatten(1).sum(dim=1).max()) * channels
        needed = copies_needed(tests, self.tau, self.alpha)
        if self.n < needed:
            raise ValueError(
                f"n={self.n} is too small to certify any of {tests} voxels at alpha={self.alpha:g}, tau={self.tau:g}: "
                f"even a unanimous vote gives a p-value of {self.tau**self.n:.1e} > alpha / voxels = "
                f"{self.alpha / tests:.1e}; n >= {needed} is needed."
            )


def _between(name: str, value: float, low: float, high: float, closed: bool = False) -> float:
    inside = isinstance(value, (int, float)) and (low < value < high or (closed and value == low))
    if not inside:
        raise ValueError(
            f"{name} must be a number with {low:g} {'<=' if closed else '<'} {name} < {high:g}, got {value!r}."
        )
    return float(value)
