# SPDX-License-Identifier: Apache-2.0
"""The "all-convolutional U-Net" baseline of the OBELISK-Net paper, in the layout of its released weights."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["AllConvolutionalUNet"]

# The decoder's convolutions, deepest first, under the names in the released files.
DECODER_NAMES = ("6dU", "6cU", "6bU", "6U", "7U")


class AllConvolutionalUNet(nn.Module):
    """3D U-Net of strided 3x3x3 convolutions with BatchNorm and leaky ReLU (0.1), about 884,000 parameters by default.

    >>> import torch
    >>> from monai_adversarial.networks import AllConvolutionalUNet
    >>> network = AllConvolutionalUNet(out_channels=3, widths=(2, 2, 2, 2, 2, 2)).eval()
    >>> network(torch.zeros(1, 1, 20, 33, 18)).shape
    torch.Size([1, 3, 20, 33, 18])

    Source: M. P. Heinrich, O. Oktay, N. Bouteldja, "OBELISK-Net: Fewer layers to solve 3D multi-organ segmentation
    with sparse deformable convolutions", Medical Image Analysis 54 (2019), whose authors release weights trained on
    TCIA Pancreas-CT. Those weights expect raw HU on a 144 x 144 x 144 grid; see
    :class:`~monai_adversarial.networks.ResampledNetwork` for scans on another grid.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        widths: channels of the encoder's six levels, highest resolution first.

    Shape:
        (batch, in_channels, spatial...) in HU to logits (batch, out_channels, spatial...), three spatial axes of any
        size: they need not be multiples of 32.

    Raises:
        ValueError: for widths that are not six positive numbers.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 9, widths: Sequence[int] = (5, 14, 28, 42, 56, 70)
    ) -> None:
        super().__init__()
        if len(widths) != 6 or min(widths) < 1:
            raise ValueError(f"widths must be six positive numbers of channels, got {tuple(widths)}.")
        self._add_block("0", in_channels, widths[0])
        for level in range(1, 6):
            self._add_block(f"{level}", widths[level - 1], widths[level], stride=2)
            self._add_block(f"{level}{level}", widths[level], widths[level])
        below = widths[5]
        for name, skip, width in zip(
            DECODER_NAMES, reversed(widths[:5]), (*reversed(widths[1:5]), out_channels), strict=True
        ):
            self._add_block(name, below + skip, width)
            below = width
        self.conv77U = nn.Conv3d(below, out_channels, 3, padding=1)

    def _add_block(self, name: str, in_channels: int, out_channels: int, stride: int = 1) -> None:
        self.add_module(f"conv{name}", nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1))
        self.add_module(f"batch{name}", nn.BatchNorm3d(out_channels))

    def _block(self, name: str, features: torch.Tensor) -> torch.Tensor:
        features = self.get_submodule(f"batch{name}")(self.get_submodule(f"conv{name}")(features))
        return F.leaky_relu(features, 0.1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self._block("0", image)
        skips = [features]
        for level in range(1, 6):
            features = self._block(f"{level}{level}", self._block(f"{level}", features))
            skips.append(features)
        skips.pop()
        for name in DECODER_NAMES:
            skip = skips.pop()
            features = F.interpolate(features, size=skip.shape[2:], mode="trilinear", align_corners=False)
            features = self._block(name, torch.cat((features, skip), dim=1))
        return self.conv77U(features)

    def load_weights(self, path: str | os.PathLike[str]) -> AllConvolutionalUNet:
        """Load a released state dict and switch to evaluation mode.

        Args:
            path: a ``.pth`` file that holds this network's state dict and nothing but tensors (read with
                ``weights_only=True``).

        Returns:
            The network itself.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: for a file that is not a state dict of this network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"path must be a file of AllConvolutionalUNet weights, but there is no file {str(path)!r}."
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"path must be a readable file of tensors, got {str(path)!r}: {reason}") from None
        self._check_state(state, path)
        self.load_state_dict(state)
        return self.eval()

    def _check_state(self, state: object, path: Path) -> None:
        expected = self.state_dict()
        if not isinstance(state, dict):
            raise ValueError(
                f"{str(path)!r} must hold a state dict of AllConvolutionalUNet, got {type(state).__name__}."
            )
        # BatchNorm counters are newer than the released files and do not matter for inference.
        needed = {name for name in expected if not name.endswith("num_batches_tracked")}
        missing, unknown = sorted(needed - state.keys()), sorted(map(str, state.keys() - expected.keys()))
        if missing or unknown:
            example = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
            raise ValueError(
                f"{str(path)!r} must hold the weights of AllConvolutionalUNet, but {len(missing)} of them are "
                f"missing and {len(unknown)} are unknown ({example})."
            )
        for name in sorted(needed):
            shape = tuple(getattr(state[name], "shape", ()))
            if shape != tuple(expected[name].shape):
                raise ValueError(
                    f"{str(path)!r} must hold {name!r} with shape {tuple(expected[name].shape)} for this "
                    f"AllConvolutionalUNet, got {shape}."
                )
        for name in expected.keys() - state.keys():
            state[name] = expected[name]
