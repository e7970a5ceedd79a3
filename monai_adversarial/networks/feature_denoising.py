# SPDX-License-Identifier: Apache-2.0
"""Denoising of feature maps inside a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.layers import gaussian_1d, get_norm_layer, separable_filtering

from monai_adversarial.networks.insertion import check_place, find_modules, insert_behind, output_channels
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["FEATURE_DENOISING_KINDS", "FeatureDenoising", "insert_feature_denoising"]

FEATURE_DENOISING_KINDS = ("nonlocal_gaussian", "nonlocal_dot", "bilateral", "mean", "gaussian", "median")
Network = TypeVar("Network", bound=nn.Module)


class FeatureDenoising(nn.Module):
    """A denoising operation on features, a 1x1 convolution with normalization, and a residual connection.

    ``features + normalization(convolution(denoise(features)))``. The normalization's scale starts at zero, so that a
    new block is the identity, to the bit, and can be put into a trained network.

    With ``y_i = sum_j f(x_i, x_j) x_j`` the kinds are

    - ``"nonlocal_gaussian"``: over all positions, ``f`` is the softmax of ``theta(x_i) . phi(x_j) / sqrt(width)``. Its
      cost grows with queries times keys: above ``max_positions`` positions keys and values are averaged over cells
      (reconstruction; the paper pools nothing), queries never. It runs in PyTorch's fused attention, whose memory is
      linear; for second derivatives use ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    - ``"nonlocal_dot"``: over all positions, ``f`` is the product ``theta(x_i) . phi(x_j)`` divided by the number of
      positions. Linear, so its cost grows with the positions alone and nothing is pooled.
    - ``"bilateral"``: as the Gaussian one over the ``kernel_size`` neighborhood only.
    - ``"mean"``, ``"median"``: over the ``kernel_size`` neighborhood, of each channel alone.
    - ``"gaussian"``: Gaussian filter of ``sigma`` positions, of each channel alone (reconstruction; not in the paper).

    Borders repeat their values. Everything is differentiable: attack it with exact gradients.

    >>> import torch
    >>> from monai_adversarial.networks import FeatureDenoising
    >>> block, features = FeatureDenoising(channels=8, kind="median"), torch.rand(1, 8, 4, 4, 4)
    >>> bool((block(features) == features).all()), bool((block.denoise(features) == features).all())
    (True, False)

    Source: Xie, Wu, van der Maaten, Yuille, He, "Feature denoising for improving adversarial robustness", CVPR 2019,
    where it helps together with adversarial training. 3D is a reconstruction.

    Args:
        channels: of the features.
        spatial_dims: 2 or 3.
        kind: see above.
        embed: 1x1 convolutions ``theta`` and ``phi`` to half the channels before products; False for the features
            themselves. Kinds without products have none.
        kernel_size: odd number of positions along each axis of a neighborhood.
        sigma: standard deviation of the Gaussian filter, in positions of the feature map.
        max_positions: keys of ``"nonlocal_gaussian"``; the default is a grid of 12 x 12 x 12.
        norm: MONAI normalization layer with a scale, a name or (name, arguments); None to start the convolution itself
            at zero instead.

    Shape:
        (batch, channels, spatial...) to the same.

    Raises:
        ValueError: for an argument out of range, or features of another shape.

    Survey entry: D14 (adapted).
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int = 3,
        kind: str = "nonlocal_gaussian",
        *,
        embed: bool = True,
        kernel_size: int = 3,
        sigma: float = 1.0,
        max_positions: int = 1728,
        norm: str | tuple | None = "batch",
    ) -> None:
        super().__init__()
        self.channels = check_count("channels", channels)
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}.")
        self.spatial_dims = spatial_dims
        self.kind = check_choice("kind", kind, FEATURE_DENOISING_KINDS)
        self.kernel_size = check_count("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}.")
        self.sigma = check_positive("sigma", sigma)
        self.max_positions = check_count("max_positions", max_positions)
        self.theta: nn.Module = nn.Identity()
        self.phi: nn.Module = nn.Identity()
        if embed and kind in ("nonlocal_gaussian", "nonlocal_dot", "bilateral"):
            width = max(1, channels // 2)
            self.theta = Convolution(spatial_dims, channels, width, kernel_size=1, conv_only=True)
            self.phi = Convolution(spatial_dims, channels, width, kernel_size=1, conv_only=True)
        self.convolution = Convolution(
            spatial_dims, channels, channels, kernel_size=1, bias=norm is None, conv_only=True
        )
        self.normalization: nn.Module = nn.Identity()
        if norm is not None:
            self.normalization = get_norm_layer(norm, spatial_dims, channels)
        self._start_as_identity(norm)

    def _start_as_identity(self, norm: str | tuple | None) -> None:
        module = self.convolution.conv if norm is None else self.normalization
        scale, shift = getattr(module, "weight", None), getattr(module, "bias", None)
        if scale is None or shift is None:
            name = norm if isinstance(norm, str) else norm[0] if norm else norm
            raise ValueError(
                f"norm must be a normalization with a scale and a shift, got {norm!r}: pass ({name!r}, "
                "{'affine': True})."
            )
        nn.init.zeros_(scale)
        nn.init.zeros_(shift)

    def extra_repr(self) -> str:
        return f"{self.channels}, spatial_dims={self.spatial_dims}, kind={self.kind!r}"

    def denoise(self, features: torch.Tensor) -> torch.Tensor:
        """The denoising operation alone; same shape."""
        operations: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "nonlocal_gaussian": self._nonlocal_gaussian,
            "nonlocal_dot": self._nonlocal_dot,
            "bilateral": self._bilateral,
            "mean": self._mean,
            "gaussian": self._gaussian,
            "median": self._median,
        }
        return operations[self.kind](features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim != self.spatial_dims + 2 or features.shape[1] != self.channels:
            raise ValueError(
                f"features must have shape (batch, {self.channels}, {self.spatial_dims} spatial dimensions), "
                f"got {tuple(features.shape)}."
            )
        change = self.normalization(self.convolution(self.denoise(features)))
        return features + change.to(features.dtype)

    def _nonlocal_gaussian(self, features: torch.Tensor) -> torch.Tensor:
        pooled = self._pool(features)
        queries, keys = self._positions(self.theta(features)), self._positions(self.phi(pooled))
        values = self._positions(pooled).to(keys.dtype)  # under autocast the embeddings are in half precision
        out = F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]
        return out.transpose(1, 2).reshape(features.shape)

    def _pool(self, features: torch.Tensor) -> torch.Tensor:
        """Averages over the smallest cells that leave at most ``max_positions``."""
        sizes, cell = features.shape[2:], 1
        while math.prod([-(-size // cell) for size in sizes]) > self.max_positions:
            cell += 1
        if cell == 1:
            return features
        pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[self.spatial_dims]
        cells = [min(cell, size) for size in sizes]
        return pool(features, cells, cells, ceil_mode=True, count_include_pad=False)

    def _positions(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to (batch, position, channel)."""
        return features.flatten(2).transpose(1, 2)

    def _nonlocal_dot(self, features: torch.Tensor) -> torch.Tensor:
        theta, phi = self.theta(features), self.phi(features)
        # A sum over all positions leaves the range of float16: no autocast here.
        with torch.autocast(features.device.type, enabled=False):
            queries, keys, values = (_at_least_float32(part).flatten(2) for part in (theta, phi, features))
            context = values @ keys.transpose(1, 2) / keys.shape[2]  # (batch, channel, width)
            return (context @ queries).reshape(features.shape)

    def _bilateral(self, features: torch.Tensor) -> torch.Tensor:
        theta = self.theta(features)
        neighbors, keys = self._windows(features), self._windows(self.phi(features))
        places = list(product(range(self.kernel_size), repeat=self.spatial_dims))
        similarity = torch.stack([(theta * _at(keys, place)).sum(dim=1) for place in places])
        weights = F.softmax(_at_least_float32(similarity) * theta.shape[1] ** -0.5, dim=0).to(features.dtype)
        out = torch.zeros_like(features)
        for weight, place in zip(weights, places, strict=True):
            out = out + weight[:, None] * _at(neighbors, place)
        return out

    def _mean(self, features: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((self.kernel_size,), 1.0 / self.kernel_size, device=features.device)
        return separable_filtering(features, [kernel] * self.spatial_dims, mode="replicate")

    def _gaussian(self, features: torch.Tensor) -> torch.Tensor:
        kernel = gaussian_1d(torch.tensor(self.sigma), truncated=3.0, approx="sampled", normalize=True)
        return separable_filtering(features, [kernel.to(features.device)] * self.spatial_dims, mode="replicate")

    def _median(self, features: torch.Tensor) -> torch.Tensor:
        return self._windows(features).flatten(-self.spatial_dims).median(dim=-1).values

    def _windows(self, features: torch.Tensor) -> torch.Tensor:
        """View (batch, channel, spatial..., kernel...) of the neighborhoods."""
        windows = F.pad(features, [self.kernel_size // 2] * (2 * self.spatial_dims), mode="replicate")
        for axis in range(2, 2 + self.spatial_dims):
            windows = windows.unfold(axis, self.kernel_size, 1)
        return windows


def _at(windows: torch.Tensor, place: Sequence[int]) -> torch.Tensor:
    """View of one neighbor of all positions."""
    for index in reversed(place):
        windows = windows.select(-1, index)
    return windows


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def insert_feature_denoising(
    network: Network,
    after: Sequence[str],
    channels: int | Sequence[int] | None = None,
    example: torch.Tensor | None = None,
    spatial_dims: int | None = None,
    **options: Any,
) -> Network:
    """Put a :class:`FeatureDenoising` block behind modules of a network, in place.

    The network computes what it computed before until its blocks are trained. Each block becomes the child
    ``feature_denoising`` of its module: make the optimizer afterwards, and load trained weights before, or after with
    ``strict=False``. Reconstruction: the paper puts blocks behind the four stages of a ResNet.

    >>> import torch
    >>> from monai_adversarial.networks import insert_feature_denoising
    >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 2, 1))
    >>> image = torch.rand(1, 1, 6, 6, 6)
    >>> logits = network(image)
    >>> defended = insert_feature_denoising(network, after=["1"], example=image, kind="mean")
    >>> bool((defended(image) == logits).all()), type(defended[1].feature_denoising).__name__
    (True, 'FeatureDenoising')

    Args:
        network: is changed, and is left alone when an error is raised.
        after: names of modules (as ``network.named_modules()`` gives them) that return one tensor.
        channels: of what each of these modules returns, one number or one per name; None to learn it from ``example``.
        example: an image that the network takes (batch, channel, spatial...), for a run without gradients.
        spatial_dims: 2 or 3; None for that of ``example``, or 3.
        options: further arguments of :class:`FeatureDenoising`.

    Returns:
        the network.

    Raises:
        ValueError: for a name that the network does not have, neither or both of ``channels`` and ``example``, or a
            module that does not return one tensor.
    """
    names = [after] if isinstance(after, str) else list(after)
    modules = find_modules(network, names)
    if (channels is None) == (example is None):
        raise ValueError("pass either channels or example, so that the width of the blocks is known.")
    if example is not None:
        spatial_dims = example.ndim - 2 if spatial_dims is None else spatial_dims
        widths = list(output_channels(network, modules, example).values())
    else:
        assert channels is not None
        widths = [channels] * len(names) if isinstance(channels, int) else list(channels)
        if len(widths) != len(names):
            raise ValueError(f"channels must have one number for each of {len(names)} modules, got {len(widths)}.")
    for name, module in modules.items():
        check_place(module, "feature_denoising", repr(name))
    blocks = [FeatureDenoising(width, spatial_dims or 3, **options) for width in widths]
    anywhere = next(network.parameters(), None)
    for module, block in zip(modules.values(), blocks, strict=True):
        # an activation has no weights that would tell where the network is
        insert_behind(module, "feature_denoising", block if anywhere is None else block.to(anywhere))
    return network
