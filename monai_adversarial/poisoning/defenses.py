# SPDX-License-Identifier: Apache-2.0
"""Finding poisoned cases in a training set: by their loss, their spectrum, their clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_adversarial.utils.validation import check_choice, check_count, check_fraction

__all__ = ["Suspects", "activation_clustering", "loss_filter", "pooled_features", "spectral_signatures"]


@dataclass(frozen=True)
class Suspects:
    """Cases that a defense takes for poisoned.

    >>> import numpy as np
    >>> from monai_adversarial.poisoning import Suspects
    >>> found = Suspects(scores=np.array([0.1, 0.9, 0.2, 0.8]), flagged=[1, 3])
    >>> found.compared(poisoned=[1, 2])
    (0.5, 0.5)

    Args:
        scores: suspicion of each case, (cases,), higher is more suspicious.
        flagged: numbers of the cases that are taken for poisoned, in rising order.
    """

    scores: np.ndarray
    flagged: list[int]

    def compared(self, poisoned: Iterable[int]) -> tuple[float, float]:
        """Share of the poison that is flagged (recall), and share of the flagged that is poison (precision; NaN where
        nothing is flagged).

        Example:
            >>> from monai_adversarial.poisoning import Suspects
            >>> import numpy as np
            >>> Suspects(np.zeros(4), [1, 2]).compared([2, 3])
            (0.5, 0.5)

        Args:
            poisoned: numbers of the poisoned cases, for example ``PoisonedDataset.indices``.

        Raises:
            ValueError: for no poisoned case.
        """
        truth = set(poisoned)
        if not truth:
            raise ValueError("poisoned must hold at least one case, got none.")
        found = truth & set(self.flagged)
        return len(found) / len(truth), len(found) / len(self.flagged) if self.flagged else float("nan")


def loss_filter(losses: Any, rate: float, suspicious: str = "high") -> Suspects:
    """Flag the cases with the highest training loss, or with the lowest.

    Wrong labels keep a high loss early in the training. Backdoors are learned first: their loss is low (Li et al.,
    "Anti-backdoor learning", 2021).

    Source: textbook for high losses; Li et al. 2021 for low ones.

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import loss_filter
        >>> loss_filter([0.1, 2.0, 0.3, 0.2], rate=0.25).flagged
        [1]

    Args:
        losses: of each case, (cases,).
        rate: share of the cases that is flagged, rounded to the nearest number.
        suspicious: ``"high"`` or ``"low"``.

    Raises:
        ValueError: for losses that are not finite, a rate outside 0 to 1, or another word.
    """
    values = np.asarray(losses, dtype=np.float64)
    check_choice("suspicious", suspicious, ("high", "low"))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"losses must be one finite number for each case, got shape {values.shape}.")
    scores = values if suspicious == "high" else -values
    return Suspects(scores, _highest(scores, round(check_fraction("rate", rate) * len(scores))))


def spectral_signatures(features: Any, labels: Any, rate: float, margin: float = 1.5) -> Suspects:
    """Flag the cases of each class that lie farthest along the main direction of its features.

    Source: Tran, Li, Madry, "Spectral signatures in backdoor attacks", NeurIPS 2018: 1.5 times the expected share.

    Survey entry: A28 (published).

    Example:
        >>> from monai_adversarial.poisoning import spectral_signatures
        >>> import numpy as np
        >>> features = np.random.default_rng(0).normal(size=(20, 4))
        >>> features[:2] += 30
        >>> spectral_signatures(features, np.zeros(20), rate=0.1, margin=1.0).flagged
        [0, 1]

    Args:
        features: (cases, features), for example of :func:`pooled_features`.
        labels: class of each case, as the training sees it.
        rate: expected share of poison among the cases.
        margin: factor of the rate.

    Raises:
        ValueError: for features that are not finite or of another number than the labels.
    """
    points, classes = _checked(features, labels)
    count = round(check_fraction("rate", rate) * margin * len(points))
    scores = np.zeros(len(points))
    flagged: list[int] = []
    for number in np.unique(classes):
        rows = np.flatnonzero(classes == number)
        centered = points[rows] - points[rows].mean(axis=0)
        _, _, directions = np.linalg.svd(centered, full_matrices=False)
        scores[rows] = (centered @ directions[0]) ** 2
        # The poison may all lie in one class.
        flagged += rows[_highest(scores[rows], min(count, len(rows) // 2))].tolist()
    return Suspects(scores, sorted(flagged))


def activation_clustering(
    features: Any, labels: Any, components: int = 10, largest: float = 0.35, seed: int = 0
) -> Suspects:
    """Split the features of each class in two clusters, and flag the smaller one where it is small.

    Source: Chen et al., "Detecting backdoor attacks on deep neural networks by activation clustering", 2018: 10
    components, two means, relative size below 0.35; principal components in place of independent ones (reconstruction).

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import activation_clustering
        >>> import numpy as np
        >>> features = np.random.default_rng(0).normal(size=(20, 4))
        >>> features[:3] += 30
        >>> activation_clustering(features, np.zeros(20)).flagged
        [0, 1, 2]

    Args:
        features, labels: see :func:`spectral_signatures`.
        components: principal components that are kept.
        largest: share of its class below which a cluster is suspicious.
        seed: of the means.

    Raises:
        ImportError: without scikit-learn.
        ValueError: see :func:`spectral_signatures`.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.metrics import silhouette_samples
    except ImportError as error:
        raise ImportError("activation clustering needs scikit-learn: pip install scikit-learn.") from error
    points, classes = _checked(features, labels)
    check_count("components", components)
    scores, flagged = np.zeros(len(points)), []
    for number in np.unique(classes):
        rows = np.flatnonzero(classes == number)
        if len(rows) < 4:
            continue
        kept = min(components, len(rows), points.shape[1])
        reduced = PCA(kept, random_state=seed).fit_transform(points[rows])
        cluster = KMeans(2, n_init=10, random_state=seed).fit_predict(reduced)
        small = int((cluster == 1).sum() * 2 < len(rows))
        share = (cluster == small).mean()
        if not 0 < share < 1:
            continue
        scores[rows] = np.where(cluster == small, 1 + silhouette_samples(reduced, cluster), 0)
        if share < largest:
            flagged += rows[cluster == small].tolist()
    return Suspects(scores, sorted(flagged))


@torch.no_grad()
def pooled_features(network: nn.Module, layer: str, images: Iterable[torch.Tensor], batch_size: int = 32) -> np.ndarray:
    """Output of one layer, averaged over its spatial axes, for each image.

    Example:
        >>> from monai_adversarial.poisoning import pooled_features
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 5, 3), torch.nn.ReLU())
        >>> pooled_features(network, "1", torch.rand(3, 1, 8, 8, 8)).shape
        (3, 5)

    Args:
        network: run in evaluation mode, and set back afterwards.
        layer: dotted name of a module of it.
        images: (channel, spatial...) each.
        batch_size: images that are run at once.

    Raises:
        ValueError: for a layer that the network does not have, or that returns no tensor.
    """
    modules = dict(network.named_modules())
    if layer not in modules or layer == "":
        raise ValueError(f"layer must name a module of the network, got {layer!r}.")
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"layer {layer!r} must return a tensor, got {type(output).__name__}.")
        kept.append(output.flatten(2).mean(dim=2) if output.ndim > 2 else output)

    everything = [torch.as_tensor(image) for image in images]
    modes = {module: module.training for module in network.modules()}
    handle = modules[layer].register_forward_hook(keep)
    try:
        network.eval()
        for begin in range(0, len(everything), batch_size):
            network(torch.stack(everything[begin : begin + batch_size]))
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training
    return torch.cat(kept).double().cpu().numpy()


def _checked(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    points, classes = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or len(points) != len(classes) or not np.isfinite(points).all():
        raise ValueError(
            f"features must be finite, (cases, features), with one label each, got shape {points.shape} and "
            f"{len(classes)} labels."
        )
    return points, classes


def _highest(scores: np.ndarray, count: int) -> list[int]:
    """Numbers of the ``count`` highest scores, in rising order; of equal scores the first cases."""
    order: Callable[[int], tuple[float, int]] = lambda index: (-scores[index], index)  # noqa: E731
    return sorted(sorted(range(len(scores)), key=order)[:count])
