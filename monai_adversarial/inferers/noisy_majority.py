# SPDX-License-Identifier: Apache-2.0
"""Majority vote over noisy copies of the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_adversarial.inferers.gaussian_votes import NoisyCopiesInferer, like_inputs, winner
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.utils.validation import check_count

__all__ = ["NoisyMajorityInferer", "NoisyVotes"]

_STREAM = 2  # 0 and 1 belong to certification
_LOWEST_SHARE = 1e-6


@dataclass(frozen=True)
class NoisyVotes:
    """Votes of noisy copies.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import NoisyMajorityInferer
    >>> model, image, label = example_case(16)
    >>> votes = NoisyMajorityInferer(sigma=0.02, samples=8).votes(model.intensity(image), model.network)
    >>> votes.majority.shape, votes.counts.sum(dim=1).unique().tolist(), bool(votes.confidence.min() > 0.25)
    (torch.Size([1, 1, 16, 16, 16]), [8], True)

    Args:
        counts: (batch, class, spatial...), integers; for ``"sigmoid"`` the votes for yes.
        samples: number of copies that voted.
        activation: ``"softmax"`` or ``"sigmoid"``.
    """

    counts: torch.Tensor
    samples: int
    activation: str = "softmax"

    @property
    def shares(self) -> torch.Tensor:
        """Share of the votes of each class, float32 from 0 to 1."""
        return self.counts.float() / self.samples

    @property
    def majority(self) -> torch.Tensor:
        """Winning classes (batch, 1, spatial...), int16; for ``"sigmoid"`` 1 or 0 per channel. Ties: the lowest class,
        for ``"sigmoid"`` 0."""
        return winner(self.counts, self.samples, self.activation)

    @property
    def confidence(self) -> torch.Tensor:
        """Share of the votes that the majority got, in the shape of :py:attr:`majority`."""
        if self.activation == "sigmoid":
            return torch.maximum(self.shares, 1.0 - self.shares)
        return self.counts.amax(dim=1, keepdim=True).float() / self.samples

    def robust_metric(self, label: int | None = None) -> torch.Tensor:
        """Mean confidence per sample (batch,): over all voxels, or those where the majority is ``label`` (NaN where
        there are none).

        A reconstruction of MedRDF's robust metric, which is defined for one diagnosis per image.
        """
        confidence = self.confidence.flatten(1)
        if label is None:
            return confidence.mean(dim=1)
        where = (self.majority == label).flatten(1)
        return (confidence * where).sum(dim=1) / where.sum(dim=1)


class NoisyMajorityInferer(NoisyCopiesInferer):
    """Segments many noisy copies of the image and lets them vote, voxel by voxel.

    The output has the form of logits: the logarithm of each class's share of the votes, at least log(1e-6), so that
    its softmax is the share and its argmax the majority (ties: the lowest class). With ``activation="sigmoid"`` it is
    the log odds of the share of yes (a tie is 0). Votes have no gradient: ``soft=True`` replaces them by probabilities
    (the logarithm of the mean over copies), which is what an attacker who knows the defense differentiates, together
    with ``ExpectationOverTransformation``.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import NoisyMajorityInferer
    >>> model, image, label = example_case(16)
    >>> shares = NoisyMajorityInferer(sigma=0.02, samples=8)(model.intensity(image), model.network).softmax(dim=1)
    >>> shares.shape, bool((shares.amax(dim=1) > 0.99).any())
    (torch.Size([1, 4, 16, 16, 16]), True)

    Source: Xu et al., "MedRDF: a robust and retrain-less diagnostic framework for medical pretrained models against
    adversarial attack", IEEE TMI 2022, which votes per image; per voxel and in 3D it is a reconstruction.

    Args:
        inferer: inferer of each noisy copy; None for :py:class:`monai.inferers.SimpleInferer`.
        sigma: standard deviation of the noise, in ``units``.
        samples: number of noisy copies.
        soft: mean probabilities instead of votes, differentiable. Each forward pass is repeated in the backward pass,
            so that the memory is that of ``copies_at_once`` copies; networks that update statistics in training mode
            do so twice.
        units: see :class:`NoisyCopiesInferer`, as all that follow.
        intensity: see above.
        image_units: see above.
        copies_at_once: see above.
        denoiser: see above.
        activation: see above.
        output: see above.
        seed: see above.

    Raises:
        ValueError: for a bad argument.

    Survey entry: D16 (reconstruction).
    """

    def __init__(
        self,
        inferer: Callable[..., Any] | None = None,
        sigma: float = 0.1,
        samples: int = 20,
        soft: bool = False,
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
        self.samples = check_count("samples", samples)
        self.soft = bool(soft)

    def votes(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> NoisyVotes:
        """Votes per voxel, with their majority and its confidence, whatever ``soft`` is.

        Args:
            inputs: see :py:meth:`__call__`, as all arguments.
            network: see above.
            args: see above.
            kwargs: see above.

        Raises:
            ValueError: for a network in training mode.
        """
        self._check_mode(network)
        bound, image = self.prepared(inputs)
        counts = bound.vote_counts(image, _STREAM, self.samples, network, args, kwargs)
        return NoisyVotes(like_inputs(counts, inputs), self.samples, self.activation)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logarithm of the shares (or mean probabilities), log odds for ``"sigmoid"``.

        Args:
            inputs: (batch, channel, spatial...), tensor or ``MetaTensor``.
            network: called by the inner inferer.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.

        Returns:
            (batch, class, spatial...), with the metadata of ``inputs``.
        """
        bound, image = self.prepared(inputs)
        if self.soft:
            return like_inputs(bound._mean_probability(image, network, args, kwargs), inputs)
        counts = bound.vote_counts(image, _STREAM, self.samples, network, args, kwargs)
        shares = counts.float() / self.samples
        if self.activation == "sigmoid":
            scores = torch.logit(shares, _LOWEST_SHARE)
        else:
            scores = shares.clamp_(min=_LOWEST_SHARE).log_()
        return like_inputs(scores, inputs)

    def _mean_probability(
        self, image: torch.Tensor, network: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        streams = self.case_streams()  # now, since a backward pass may run under another draw
        repeat = torch.is_grad_enabled() and self.samples > self.copies_at_once

        def part(image: torch.Tensor, numbers: range) -> torch.Tensor:
            logits = self.logits(image, streams, _STREAM, numbers, network, args, kwargs)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            if self.activation == "sigmoid":
                return torch.stack([F.logsigmoid(logits).logsumexp(dim=0), F.logsigmoid(-logits).logsumexp(dim=0)])
            return F.log_softmax(logits, dim=2).logsumexp(dim=0)

        total: torch.Tensor | None = None
        for numbers in self.chunks(self.samples):
            found: Any = checkpoint(part, image, numbers, use_reentrant=False) if repeat else part(image, numbers)
            total = found if total is None else torch.logaddexp(total, found)
        assert total is not None
        if self.activation == "sigmoid":
            return total[0] - total[1]
        return total - math.log(self.samples)
