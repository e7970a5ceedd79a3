# SPDX-License-Identifier: Apache-2.0
"""Features of a decoder, organ by organ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from monai_adversarial.detection.features import Kept, NetworkFeatures
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.models.layers import layers_in_order
from monai_adversarial.models.predictor import Predictor

__all__ = ["OrganFeatures", "decoder_layers"]

#: added to a variance before its root, so that channels that are constant have a gradient
_TINY = 1e-12
_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class OrganFeatures(NetworkFeatures):
    """Mean and standard deviation of every channel of some layers over the voxels of each predicted organ.

    The organs are those of the network's own answer in each window, background left out. One more voxel with the mean
    of the whole window belongs to each organ, so that an organ that is not found has numbers as well. What is
    differentiated weighs voxels by their probabilities instead, because the border of a class map has no gradient.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import GaussianDensity
    >>> model = example_case()[0]
    >>> detector = GaussianDensity(model, pooling="organs").fit(example_case(16, seed)[1] for seed in range(8))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model: whose network is watched.
        layers: names as in ``network.named_modules()``; None for the end of the decoder, the last layer before the
            answer itself.

    Raises:
        ValueError: as :class:`NetworkFeatures`, and for a classifier, which finds no organs.
    """

    has_stand_in = True

    def _default_layers(self, predictor: Predictor, image: torch.Tensor) -> tuple[str, ...]:
        return decoder_layers(predictor, image)

    def _keep(self, output: torch.Tensor) -> Kept:
        if output.ndim < 3 or output.ndim - 2 not in _POOLS:
            raise ValueError(f"layers must return maps (batch, channel, spatial...), got {tuple(output.shape)}.")
        return (output.clone(),)  # the next layer may write into it

    def _pooled(self, kept: list[Kept], logits: Callable[[], torch.Tensor], smooth: bool) -> Kept:
        answer = logits()
        if self.model.classifies or answer.ndim < 3:
            raise ValueError("pooling must be 'image' for a classifier, which finds no organs, got 'organs'.")
        weights = _organ_weights(answer, self.model.activation_of(answer.shape[1]), smooth)
        return tuple(part for (layer,) in kept for part in _organ_moments(layer, weights))

    def _numbers(self, pooled: list[torch.Tensor]) -> list[torch.Tensor]:
        """Mean and deviation of each channel of each organ."""
        found = []
        for share, first, second in zip(pooled[0::3], pooled[1::3], pooled[2::3], strict=True):
            mean, square = first / share[..., None], second / share[..., None]
            deviation = ((square - mean.square()).clamp_min(0) + _TINY).sqrt()
            found.append(torch.cat([mean.flatten(1), deviation.flatten(1)], dim=1))
        return found


def _organ_weights(logits: torch.Tensor, activation: str, smooth: bool) -> torch.Tensor:
    """How much each voxel belongs to each organ, (window, organ, spatial...)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if activation == "sigmoid":
        return wide.sigmoid() if smooth else hard_prediction(wide, activation).to(wide)
    if smooth:
        return wide.softmax(dim=1)[:, 1:]
    classes = torch.arange(1, wide.shape[1], device=wide.device).view(1, -1, *[1] * (wide.ndim - 2))
    return (hard_prediction(wide, activation) == classes).to(wide)


def _organ_moments(layer: torch.Tensor, weights: torch.Tensor) -> Kept:
    """Share of each organ (window, organ), and weighted mean and mean square (window, organ, channel), float64."""
    wide = layer.to(torch.promote_types(layer.dtype, torch.float32)).flatten(2)
    belongs = _POOLS[layer.ndim - 2](weights, layer.shape[2:]).to(wide).flatten(2)
    voxels = wide.shape[2]
    center = wide.mean(dim=2, keepdim=True)
    away = wide - center  # squares of what is far from zero would lose their digits
    middle = center[..., 0].double()[:, None]
    share = belongs.double().mean(dim=2)
    first = (belongs @ away.transpose(1, 2)).double() / voxels
    second = (belongs @ away.square().transpose(1, 2)).double() / voxels
    spread = away.square().mean(dim=2).double()[:, None]
    # one voxel more, of the whole window's mean and mean square
    mean = first + share[..., None] * middle + middle / voxels
    square = second + 2 * middle * first + share[..., None] * middle.square()
    return share + 1 / voxels, mean, square + (spread + middle.square()) / voxels


def decoder_layers(predictor: Predictor, image: torch.Tensor) -> tuple[str, ...]:
    """The last layer before those that only make the answer, which have as many channels as it has classes.

    Args:
        predictor: the model.
        image: of which one window is looked at.

    Raises:
        ValueError: where there is none.
    """
    classes = predictor.model.found_classes
    inside = [name for name, _, channels in layers_in_order(predictor, image) if channels != classes]
    if not inside:
        raise ValueError("layers: no layer before the answer could be told from it; pass their names.")
    return (inside[-1],)
