# SPDX-License-Identifier: Apache-2.0
"""Votes for the classes that are tested, counted until every test of a sample is decided."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.inferers.gaussian_votes import NoisyCopiesInferer, vote, vote_dtype
from monai_adversarial.inferers.sequential_tests import SequentialTest
from monai_adversarial.inferers.skipped_windows import SkippedWindows
from monai_adversarial.inferers.voxel_tests import least_votes

__all__ = ["CertificateCost", "Family", "VoteCount", "with_counted_windows"]


@dataclass(frozen=True)
class CertificateCost:
    """What a certificate cost.

    >>> from monai_adversarial.inferers import CertificateCost
    >>> cost = CertificateCost(copies=(110,), windows=880, windows_skipped=0, seconds=12.5)
    >>> cost.windows // sum(cost.copies)
    8

    Args:
        copies: noisy copies of each sample that the network was run on, those that pick the class included, and two
            that are compared where all of these agree in every voxel.
        windows: windows of all copies and samples that were computed; None where there are none, or they are not
            counted (``looks=None``).
        windows_skipped: windows of these copies that were left out, as all their voxels were decided.
        seconds: wall time for the batch.
    """

    copies: tuple[int, ...]
    windows: int | None
    windows_skipped: int | None
    seconds: float


@dataclass(frozen=True)
class Family:
    """Voxels that are tested together.

    Args:
        mask: boolean (batch, 1 or class, spatial...).
        alpha: probability of any error among those of one sample.
    """

    mask: torch.Tensor
    alpha: float


class VoteCount:
    """Counts votes for one group of classes per voxel and level, and tests them.

    The groups of a voxel are nested: whoever votes for the finest votes for all. Therefore the hypotheses of a voxel
    are nested as well, and testing all of them at the level of one controls the probability of any error among them.
    Holm's correction counts a voxel until its finest hypothesis is rejected.

    Args:
        groups: selected group of each voxel at each level, finest first, int16, shape of the families' masks.
        lookups: group of each class at each level.
        families: disjoint.
        looks: numbers of copies at which the votes are looked at.
        tau: probability that must be exceeded.
        correction: ``"holm"`` or ``"bonferroni"``.
        stop: leave out samples and windows whose voxels are all decided.
    """

    def __init__(
        self,
        groups: Sequence[torch.Tensor],
        lookups: Sequence[torch.Tensor],
        families: Sequence[Family],
        looks: Sequence[int],
        tau: float,
        correction: str,
        stop: bool,
    ) -> None:
        self.groups, self.families, self.looks, self.correction, self.stop = groups, families, looks, correction, stop
        self.lookups = [table.to(groups[0]) for table in lookups]
        made: dict[tuple[float, int], SequentialTest] = {}
        self.tests: list[list[SequentialTest]] = []
        for family in families:
            row = []
            for tests in family.mask.flatten(1).sum(dim=1).tolist():
                key = family.alpha, tests
                if key not in made:
                    made[key] = SequentialTest(looks, tau, family.alpha, tests, correction)
                row.append(made[key])
            self.tests.append(row)
        self.tested = torch.stack([family.mask for family in families]).any(dim=0)
        self.open = self.tested.clone() if stop else torch.ones_like(self.tested)
        self.votes = [torch.zeros_like(group, dtype=vote_dtype(looks[-1])) for group in groups]
        self.evidence = [torch.zeros_like(group, dtype=torch.int32) for group in groups]
        self.copies = [0] * groups[0].shape[0]
        self.windows = self.skipped = 0

    def run(
        self,
        bound: NoisyCopiesInferer,
        image: torch.Tensor,
        stream: int,
        network: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> None:
        """Count the votes of ``bound``'s copies of a plain image (batch, channel, spatial...)."""
        done = 0
        for look, copies in enumerate(self.looks):
            alive = self.open.flatten(1).any(dim=1).nonzero().flatten().tolist()
            if not alive:
                return
            whole = len(alive) == image.shape[0]
            part, images = (bound, image) if whole else (bound.for_samples(alive), image[alive])
            still = self.open[alive]
            if self.stop:
                part, windows = with_counted_windows(part, still.any(dim=1, keepdim=True))
            streams = part.case_streams()
            votes, groups = [v[alive] for v in self.votes], [g[alive] for g in self.groups]
            for numbers in part.chunks(copies, done):
                for logits in part.logits(images, streams, stream, numbers, network, args, kwargs):
                    classes = vote(logits, part.activation)
                    for count, group, table in zip(votes, groups, self.lookups, strict=True):
                        count += (table[classes.long()] == group) & still
            for count, found in zip(self.votes, votes, strict=True):
                count[alive] = found
            for sample in alive:
                self.copies[sample] = copies
                self._look(sample, look)
            if self.stop and windows is not None:
                self.windows, self.skipped = self.windows + windows.computed, self.skipped + windows.skipped
            done = copies

    def _look(self, sample: int, look: int) -> None:
        """Evidence of one sample's voxels at a look, and which of them stay open."""
        last = look == len(self.looks) - 1
        for family, tests in zip(self.families, self.tests, strict=True):
            mask, test = family.mask[sample], tests[sample]
            decided = torch.ones_like(mask)
            hopeless: int | None = None
            for votes, evidence in zip(self.votes, self.evidence, strict=True):
                found = torch.maximum(evidence[sample], test.evidence(look, votes[sample]))
                evidence[sample] = torch.where(mask, found, evidence[sample])
                if not self.stop or last:
                    continue
                best = torch.maximum(found, test.reachable(look, votes[sample]))
                if hopeless is None:  # the finest level decides how many voxels Holm has to count
                    hopeless = test.hopeless(best[mask])
                decided &= (found >= test.certain) | (best < hopeless)
            if self.stop and not last:
                self.open[sample] &= ~(mask & decided)

    def certified(self) -> list[torch.Tensor]:
        """Boolean maps, one per level: where the class lies in the selected group within the radius."""
        passed = [torch.zeros_like(self.tested) for _ in self.groups]
        for family, tests in zip(self.families, self.tests, strict=True):
            for sample, test in enumerate(tests):
                finest, mask = self.evidence[0][sample : sample + 1], family.mask[sample : sample + 1]
                least = int(least_votes(finest, mask, test.p_values, family.alpha, self.correction))
                for certain, evidence in zip(passed, self.evidence, strict=True):
                    certain[sample] |= mask[0] & (evidence[sample] >= least)
        return passed

    def p_values(self) -> torch.Tensor:
        """P-values over all looks at the finest level, float64; 1 where none was made."""
        found = torch.ones(self.tested.shape, dtype=torch.float64, device=self.tested.device)
        for family, tests in zip(self.families, self.tests, strict=True):
            for sample, test in enumerate(tests):
                table = torch.from_numpy(test.p_values).to(found.device)
                # ranks of the other family's voxels may lie beyond this one's table
                ranks = self.evidence[0][sample].long().clamp(max=len(table) - 1)
                found[sample] = torch.where(family.mask[sample], table[ranks], found[sample])
        return found


def with_counted_windows(
    bound: NoisyCopiesInferer, wanted: torch.Tensor
) -> tuple[NoisyCopiesInferer, SkippedWindows | None]:
    """The same inferer without the windows that hold no wanted voxel, and what counts them; None without windows."""
    if not isinstance(bound.inferer, SlidingWindowInferer):
        return bound, None
    windows = SkippedWindows(bound.inferer, wanted)
    part = copy.copy(bound)
    part.inferer = windows
    return part, windows
