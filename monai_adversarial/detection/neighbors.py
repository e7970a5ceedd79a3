# SPDX-License-Identifier: Apache-2.0
"""Detectors that compare an image with every clean one: kernel density and local intrinsic dimensionality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.detection.density import FeatureDetector
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["KernelDensity", "LocalIntrinsicDimensionality"]

_TINY = 1e-12


class KernelDensity(FeatureDetector):
    """Negative logarithm of the mean of Gaussian kernels at the clean images: ``exp(-distance**2 / bandwidth**2)``.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import KernelDensity
    >>> detector = KernelDensity(example_case()[0]).fit(example_case(16, seed)[1] for seed in range(6))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model, layers, pooling: see :class:`~monai_adversarial.detection.density.FeatureDetector`.
        bandwidth: in standardized features; None for the median distance between clean images.

    Source: Feinman, Curtin, Shintre and Gardner, Detecting Adversarial Samples from Artifacts, 2017, as used by Ma et
    al., Pattern Recognition 2021, who compare with images of the same predicted class and take 1.0 as bandwidth of
    features as they are. Here they are standardized and the classes of a segmentation are all in one image.

    Survey entry: T04 (adapted).
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[str] | None = None,
        bandwidth: float | None = None,
        pooling: str = "image",
    ) -> None:
        super().__init__(model, layers, pooling)
        self.bandwidth = None if bandwidth is None else check_positive("bandwidth", bandwidth)

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        width = self.bandwidth or float(torch.pdist(features).median())
        return {"clean": features, "bandwidth": torch.tensor(width, dtype=torch.float64)}

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        squares = (features[:, None] - state["clean"]).square().sum(dim=2)
        return math.log(len(state["clean"])) - torch.logsumexp(-squares / state["bandwidth"] ** 2, dim=1)


class LocalIntrinsicDimensionality(FeatureDetector):
    """How fast the number of clean images grows with the distance from an image, averaged over layers.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import LocalIntrinsicDimensionality
    >>> detector = LocalIntrinsicDimensionality(example_case()[0], neighbors=4)
    >>> detector = detector.fit(example_case(16, seed)[1] for seed in range(6))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model, layers, pooling: see :class:`~monai_adversarial.detection.density.FeatureDetector`.
        neighbors: nearest clean images that are asked; all where there are fewer.

    Source: Ma, Li, Wang et al., Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality, ICLR 2018:
    ``-1 / mean(log(d_i / d_k))`` of the k nearest. They take random batches of 100 and combine layers by a classifier
    that has seen attacks; here all clean cases of ``fit`` are asked, and layers have equal weights.

    Survey entry: T04 (adapted).
    """

    def __init__(
        self, model: Any, layers: Sequence[str] | None = None, neighbors: int = 20, pooling: str = "image"
    ) -> None:
        super().__init__(model, layers, pooling)
        self.neighbors = check_count("neighbors", neighbors, minimum=2)

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        layer = torch.zeros(features.shape[1], dtype=torch.long)
        for number, places in enumerate(groups):
            layer[places] = number
        return {"clean": features, "layer": layer}

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        found = []
        for number in range(int(state["layer"].max()) + 1):
            one = state["layer"] == number
            squares = (features[:, None, one] - state["clean"][:, one]).square().sum(dim=2)
            nearest = squares.topk(min(self.neighbors, squares.shape[1]), dim=1, largest=False).values + _TINY
            # half of the logarithm of squares is the logarithm of distances
            ratio = 0.5 * (nearest / nearest[:, -1:]).log().mean(dim=1)
            found.append(-1 / ratio.clamp_max(-_TINY))
        return torch.stack(found).mean(dim=0)
