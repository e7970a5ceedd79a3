# SPDX-License-Identifier: Apache-2.0
"""Noise in the features of a network, with a learned strength."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn as nn

from monai_adversarial.networks.insertion import check_place, insert_behind
from monai_adversarial.utils.draws import draw_seed
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["FeatureNoise", "insert_feature_noise"]

Network = TypeVar("Network", bound=nn.Module)


class FeatureNoise(nn.Module):
    """Parametric noise injection: ``features + alpha * sigma * N(0, 1)``.

    ``sigma`` is the standard deviation of the features of one sample over channels and positions, ``alpha`` is learned.
    (In the paper ``sigma`` is that of the whole batch; here it is per sample, so that a result does not depend on what
    else is in the batch.)

    In training mode the noise is independent for each sample and comes, like dropout, from PyTorch's global random
    state, and ``sigma`` counts as a constant as in the paper. In evaluation mode there is none, unless ``always``.

    ``always`` is the random self-ensemble: noise at test time too. It then comes from ``seed`` and the draw in force
    (see ``random_draw``): predictions can be repeated, ``ExpectationOverTransformation`` averages over it, and the
    ensemble is the mean over several draws (see ``SeedEnsemble`` and ``draws``). All samples of a batch get the same
    noise, times their own ``sigma``, so that batch size and order change nothing. Its gradient is exact.

    >>> import torch
    >>> from monai_adversarial.networks import FeatureNoise
    >>> layer, features = FeatureNoise(alpha=0.1), torch.rand(1, 4, 8, 8, 8)
    >>> bool((layer.train()(features) == features).any()), bool((layer.eval()(features) == features).all())
    (False, True)

    Source: He, Rakin, Fan, "Parametric noise injection", CVPR 2019; Liu, Cheng, Zhang, Hsieh, "Towards robust neural
    networks via random self-ensemble", ECCV 2018, whose noise has a fixed strength. Noise by named draws is a
    reconstruction.

    Args:
        alpha: starting value of the learned strength, a fraction of ``sigma``; it may become negative, which is the
            same noise.
        always: noise in evaluation mode too.
        channels: one strength per channel, for this number of channels; None for one strength.
        seed: of the noise in evaluation mode; give each layer another one (``insert_feature_noise`` does).

    Shape:
        (batch, channel, anything...) to the same.

    Raises:
        ValueError: for an argument out of range.

    Survey entry: D14 (adapted).
    """

    def __init__(self, alpha: float = 0.25, always: bool = False, channels: int | None = None, seed: int = 0) -> None:
        super().__init__()
        alpha = check_positive("alpha", alpha, allow_zero=True)
        self.always = bool(always)
        self.channels = None if channels is None else check_count("channels", channels)
        self.seed = check_count("seed", seed, minimum=0)
        self.alpha = nn.Parameter(torch.full((self.channels or 1,), alpha))

    def extra_repr(self) -> str:
        return f"always={self.always}, channels={self.channels}, seed={self.seed}"

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.channels is not None and features.shape[1] != self.channels:
            raise ValueError(f"features must have {self.channels} channels, got shape {tuple(features.shape)}.")
        if self.training:
            noise = torch.randn_like(features)
        elif self.always:
            noise = self._named_noise(features)
        else:
            return features
        sigma = self._sigma(features.detach() if self.training else features)
        alpha = self.alpha.view(1, -1, *[1] * (features.ndim - 2))
        return features + ((alpha * sigma).to(features.dtype)) * noise

    def _sigma(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, 1, 1...), in float32 or float64; zero, with a gradient of zero, for constant features."""
        wide = features if features.dtype == torch.float64 else features.float()
        axes = tuple(range(1, wide.ndim))
        variance = (wide - wide.mean(dim=axes, keepdim=True)).square().mean(dim=axes, keepdim=True)
        varied = variance > 0
        return torch.where(varied, variance, 1.0).sqrt() * varied

    def _named_noise(self, features: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(device=features.device)
        generator.manual_seed(draw_seed(self.seed))
        noise = torch.randn(features.shape[1:], generator=generator, device=features.device)
        return noise.to(features.dtype)


def insert_feature_noise(
    network: Network,
    kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    alpha: float = 0.25,
    always: bool = False,
    channel_wise: bool = False,
    seed: int = 0,
) -> Network:
    """Put :class:`FeatureNoise` behind every module of given kinds, in place.

    Each becomes the child ``feature_noise`` of its module: make the optimizer afterwards, and load trained weights
    before, or after with ``strict=False``. The last convolution is one of them: its noise is in the logits, as in the
    papers, which put noise at every layer.

    >>> import torch
    >>> from monai.networks.nets import UNet
    >>> from monai_adversarial.networks import FeatureNoise, insert_feature_noise
    >>> network = insert_feature_noise(UNet(3, 1, 2, channels=(4, 8), strides=(2,)), kinds=(torch.nn.Conv3d,))
    >>> sum(isinstance(module, FeatureNoise) for module in network.modules())
    2

    Args:
        network: is changed.
        kinds: classes of modules; subclasses count.
        alpha: starting strength, see :class:`FeatureNoise`.
        always: noise in evaluation mode too.
        channel_wise: one strength per channel, for modules with ``out_channels``.
        seed: of the noise in evaluation mode; layers get different ones from it.

    Returns:
        the network.

    Raises:
        ValueError: when there is no such module, or one has noise already.
    """
    kinds = tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    if not found:
        raise ValueError(
            f"the network has no module of kinds {', '.join(kind.__name__ for kind in kinds)}: nowhere to put noise."
        )
    widths = [getattr(module, "out_channels", None) if channel_wise else None for _, module in found]
    for (name, module), width in zip(found, widths, strict=True):
        check_place(module, "feature_noise", repr(name))
        if channel_wise and not isinstance(width, int):
            raise ValueError(f"channel_wise needs modules with out_channels, got {type(module).__name__} {name!r}.")
    anywhere = next(network.parameters(), None)
    for layer, ((_, module), width) in enumerate(zip(found, widths, strict=True)):
        noise = FeatureNoise(alpha, always, width, draw_seed(seed, layer) % 2**31)
        insert_behind(module, "feature_noise", noise if anywhere is None else noise.to(anywhere))
    return network
