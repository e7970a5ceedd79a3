# SPDX-License-Identifier: Apache-2.0
"""Segmentation with a certificate: no perturbation within a radius changes it, or it abstains."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import norm

from monai_adversarial.inferers.certified_counts import CertificateCost, Family, VoteCount, with_counted_windows
from monai_adversarial.inferers.class_selection import check_focus, focus_mask, selected_groups
from monai_adversarial.inferers.gaussian_votes import NoisyCopiesInferer, like_inputs
from monai_adversarial.inferers.sequential_tests import check_looks
from monai_adversarial.inferers.voxel_tests import CORRECTIONS, binomial_tail, copies_needed
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_count, check_instance

__all__ = ["ABSTAIN", "CertifiedSegmentation", "CertifiedSegmentationInferer"]

ABSTAIN = -1
_SELECTION, _COUNTING = 0, 1  # streams: the copies that pick a class must not count for it
_LOWEST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class CertifiedSegmentation:
    """A segmentation whose every statement holds, with probability at least 1 - ``alpha`` per sample, for every image
    within ``radius`` (L2 over all voxels and channels together) of the one given.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import CertifiedSegmentationInferer
    >>> model, image, label = example_case(16)
    >>> inferer = CertifiedSegmentationInferer(sigma=0.02, n0=4, n=80, alpha=0.01)
    >>> found = inferer.certify(model.intensity(image), model.network)
    >>> found.prediction.shape, found.classes, bool(found.abstention_share < 1)
    (torch.Size([1, 1, 16, 16, 16]), 4, True)

    Args:
        prediction: int16 (batch, 1, spatial...), or (batch, class, spatial...) of 0 and 1 for ``"sigmoid"``; -1 where
            it abstains. Has the metadata of the input.
        selected: the class that was tested, without abstentions: a prediction with no certificate.
        votes: votes for ``selected`` among ``copies``, integers; with ``looks`` those counted before the voxel was
            decided.
        tested: boolean, shape of ``prediction``: voxels that were tested.
        tail: p-value of each number of votes, float64 (copies + 1,) on the CPU.
        radius: in ``units``, as ``sigma``.
        image_radius: in the units of the image that was given.
        classes: channels of the network's output.
        copies: number of copies that counted.
        alpha: level.
        units: of ``radius``.
        cost: copies, windows and seconds.
        looks: numbers of copies at which the votes were looked at; empty for once, at the end.
        p_values_of_looks: p-values over several looks, None for one.
        groups: with a hierarchy the selected group of each level, finest first, int16, shape of ``prediction``.
        certified: with a hierarchy where the group of each level is certified, boolean.
        hierarchy: classes and groups, None without.
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
    cost: CertificateCost
    looks: tuple[int, ...] = ()
    p_values_of_looks: torch.Tensor | None = None
    groups: tuple[torch.Tensor, ...] = ()
    certified: tuple[torch.Tensor, ...] = ()
    hierarchy: ClassHierarchy | None = None

    @property
    def p_values(self) -> torch.Tensor:
        """P-value of each voxel's test before correction, float64; 1 where none was made."""
        if self.p_values_of_looks is not None:
            return self.p_values_of_looks
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

    def at_level(self, level: int) -> torch.Tensor:
        """Certified groups at a level of the hierarchy, int16, shape of ``prediction``; -1 where it abstains there.

        Args:
            level: 0 for the classes, up to ``len(hierarchy) - 1``.

        Raises:
            ValueError: without a hierarchy, and for a level that it does not have.
        """
        if self.hierarchy is None or not 0 <= level < len(self.certified):
            raise ValueError(f"level must be one of the {len(self.certified)} levels of the hierarchy, got {level!r}.")
        return like_inputs(torch.where(self.certified[level], self.groups[level], ABSTAIN), self.prediction)

    @property
    def level(self) -> torch.Tensor:
        """Finest level at which each voxel is certified, int8, shape of ``prediction``; -1 where it is at none."""
        found = torch.full(self.tested.shape, -1, dtype=torch.int8, device=self.tested.device)
        for level in reversed(range(len(self.certified))):
            found = found.masked_fill(self.certified[level], level)
        return like_inputs(found, self.prediction) if self.certified else found


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

    With ``hierarchy`` a voxel whose class is not certain falls back to the finest group of classes that is. All levels
    are tested with the same votes, and the probability of any error among all of them is still at most ``alpha``.
    With ``looks`` the votes are looked at several times, and what is decided is not predicted any longer.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import CertifiedSegmentationInferer
    >>> model, image, label = example_case(16)
    >>> inferer = CertifiedSegmentationInferer(sigma=0.02, n0=2, n=60, alpha=0.05)
    >>> logits = inferer(model.intensity(image), model.network)
    >>> logits.shape, round(inferer.radius, 4)
    (torch.Size([1, 4, 16, 16, 16]), 0.0135)

    Source: Fischer, Baader, Vechev, "Scalable certified segmentation via randomized smoothing", ICML 2021; Cohen,
    Rosenfeld, Kolter, ICML 2019; hierarchies after Anani et al., "Adaptive hierarchical certification for segmentation
    using randomized smoothing", ICML 2024. Of that paper only the abstract was read: testing all levels at once, in
    place of choosing one beforehand, is own. So are ``region``, ``exclude_below``, ``outside_class``, ``focus`` and
    ``looks``.

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
        focus: ``"organs"``: voxels that at least one of the ``n0`` copies calls an organ (any class but 0; with
            ``"sigmoid"`` any yes) form a family of their own; or a callable that maps the votes of these copies
            (batch, class, spatial...) to a boolean mask (batch, 1, spatial...). The votes that are tested never decide
            what is tested. None: one family of all voxels.
        focus_margin: voxels by which the focus is widened, along each axis.
        focus_share: share of ``alpha`` that the focus gets, above 0; the other voxels get the rest. With 1 they are not
            tested and abstain.
        looks: numbers of copies at which the votes are looked at, increasing and ending at ``n``, or how many equally
            spaced ones. The level is split over them. Samples and sliding windows without an undecided voxel are not
            predicted any longer. None: once, at the end.
        hierarchy: of the network's classes, for ``"softmax"``.

    Raises:
        ValueError: for a bad argument; when called, for an ``n`` too small to certify any voxel.
        TypeError: for a hierarchy of another type.

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
        focus: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
        focus_margin: int = 0,
        focus_share: float = 1.0,
        looks: int | Sequence[int] | None = None,
        hierarchy: ClassHierarchy | None = None,
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
        self.focus, self.focus_margin = check_focus(focus), check_count("focus_margin", focus_margin, minimum=0)
        self.focus_share = 1.0 if focus_share == 1 else _between("focus_share", focus_share, 0.0, 1.0)
        if focus is None and (focus_margin or self.focus_share < 1):
            raise ValueError("focus_margin and focus_share need a focus, such as 'organs'.")
        self.stops = looks is not None
        self.looks = check_looks(looks, self.n)
        if hierarchy is not None:
            check_instance("hierarchy", hierarchy, ClassHierarchy, "ClassHierarchy(class_names, levels)")
            if self.activation == "sigmoid":
                raise ValueError("hierarchy needs one class per voxel: activation must be 'softmax'.")
        self.hierarchy = hierarchy

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
        started = time.perf_counter()
        bound, image = self.prepared(inputs)
        with torch.no_grad():
            image = image.detach()
            tested, unsure = self._family(image)
            if self.activation == "softmax" and self.focus is None:
                self._check_copies(tested, self.alpha)
            chooser, windows = with_counted_windows(bound, tested | True) if self.stops else (bound, None)
            counts = chooser.vote_counts(image, _SELECTION, self.n0, network, args, kwargs)
            classes = counts.shape[1]
            self._check_classes(2 if self.activation == "sigmoid" else classes)
            looked = 0
            if self.n0 > 1 and bool(((counts == 0) | (counts == self.n0)).all()):
                looked = self._check_noise_arrives(chooser, image, network, args, kwargs)
            groups, lookups = selected_groups(counts, self.n0, self.activation, self.hierarchy)
            families = self._families(tested.to(counts.device), counts)
            del counts
            votes = VoteCount(list(groups), lookups, families, self.looks, self.tau, self.correction, self.stops)
            votes.run(bound, image, _COUNTING, network, args, kwargs)

            selected = groups[0]
            tested = votes.tested
            certified = votes.certified()
            if self.outside_class is not None:
                unsure = unsure.to(tested.device)
                for level, table in enumerate(lookups):
                    outside = int(table[self.outside_class])
                    certified[level] &= (groups[level] == outside) | ~unsure
                    certified[level] |= ~tested
                    groups[level] = torch.where(tested, groups[level], outside)
            prediction = torch.where(certified[0], groups[0], ABSTAIN)
            p_values = votes.p_values() if len(self.looks) > 1 else None
        cost = CertificateCost(
            tuple(self.n0 + looked + copies for copies in votes.copies),
            None if windows is None else windows.computed + votes.windows,
            None if windows is None else votes.skipped,
            time.perf_counter() - started,
        )
        return CertifiedSegmentation(
            like_inputs(prediction.to(torch.int16), inputs),
            selected,
            votes.votes[0],
            tested,
            torch.from_numpy(binomial_tail(self.n, self.tau)),
            self.radius,
            self.image_radius,
            classes,
            self.n,
            self.alpha,
            self.units,
            cost,
            self.looks if self.stops else (),
            p_values,
            tuple(groups) if self.hierarchy is not None else (),
            tuple(certified) if self.hierarchy is not None else (),
            self.hierarchy,
        )

    def _check_noise_arrives(
        self, bound: NoisyCopiesInferer, image: torch.Tensor, network: Callable[..., Any], args: Any, kwargs: Any
    ) -> int:
        """Warn where two copies have the same answer to the bit: any certificate would be passed then.

        Asked where the copies that pick the class agree in every voxel, which small noise alone may bring about.

        Returns:
            the copies of each sample that this took.
        """
        streams = bound.case_streams()
        first, second = (
            bound.logits(image, streams, _SELECTION, range(copy, copy + 1), network, args, kwargs) for copy in range(2)
        )
        if torch.equal(first, second):
            warnings.warn(
                "two noisy copies of the image get the same answer to the bit: the noise does not reach the network, "
                "or its answer does not depend on the image, and the certificate says nothing. Does the inferer hand "
                "on what it is given, and does nothing keep earlier answers or round the noise away?",
                stacklevel=3,
            )
        return 2

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

    def _families(self, tested: torch.Tensor, counts: torch.Tensor) -> list[Family]:
        """What is tested together, with its level; none of it depends on the votes that are tested."""
        if self.activation == "sigmoid":
            tested = tested.expand_as(counts)
        if self.focus is None:
            families = [Family(tested, self.alpha)]
        else:
            focus = focus_mask(self.focus, counts, self.activation, self.focus_margin)
            families = [Family(tested & focus, self.alpha * self.focus_share)]
            if self.focus_share < 1:
                families.append(Family(tested & ~focus, self.alpha * (1 - self.focus_share)))
        for family in families:
            self._check_copies(family.mask, family.alpha)
        return families

    def _check_classes(self, classes: int) -> None:
        highest = max(self.outside_class or 0, self.abstain_class or 0)
        if highest >= classes:
            raise ValueError(f"outside_class and abstain_class must be below the {classes} classes, got {highest}.")
        if self.hierarchy is not None and self.hierarchy.classes != classes:
            raise ValueError(f"hierarchy has {self.hierarchy.classes} classes, but the network has {classes}.")

    def _check_copies(self, tested: torch.Tensor, alpha: float) -> None:
        tests = int(tested.flatten(1).sum(dim=1).max())
        needed = copies_needed(tests, self.tau, alpha)
        if self.n < needed:
            raise ValueError(
                f"n={self.n} is too small to certify any of {tests} voxels at alpha={alpha:g}, tau={self.tau:g}: "
                f"even a unanimous vote gives a p-value of {self.tau**self.n:.1e} > alpha / voxels = "
                f"{alpha / tests:.1e}; n >= {needed} is needed."
            )


def _between(name: str, value: float, low: float, high: float, closed: bool = False) -> float:
    inside = isinstance(value, (int, float)) and (low < value < high or (closed and value == low))
    if not inside:
        raise ValueError(
            f"{name} must be a number with {low:g} {'<=' if closed else '<'} {name} < {high:g}, got {value!r}."
        )
    return float(value)
