# SPDX-License-Identifier: Apache-2.0
"""The attacked function: a network, inside an inferer, behind an intensity map, in a chosen precision, with its
weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.precision import Precision

__all__ = ["Predictor"]

_compiled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class Predictor:
    """The function ``image -> logits`` that an attack differentiates.

    Args:
        predict: network, or any callable on (batch, channel, spatial...) tensors.
        image: the clean batch; a ``MetaTensor`` lets inferers with a ``for_image`` method read its affine.
        inferer: MONAI inferer, called as ``inferer(image, network)``; None calls the network. A plain
            ``SlidingWindowInferer`` is replaced by its memory-bounded equal (same values, same gradients).
        intensity: map applied before the network, None where the image is already what it expects.
        precision: where the network computes; logits come back in float32 (float64 for float64 images).
        output: index, key or callable that picks the logits from what the network returns.
        compile_network: run the network through ``torch.compile``.

    Attributes:
        forwards: samples that went forward, all calls together.

    Raises:
        TypeError: when ``predict`` cannot be called.
        ValueError: when weights are in half precision or on another device than the image.
    """

    def __init__(
        self,
        predict: Callable[..., Any],
        image: torch.Tensor,
        inferer: Callable[..., Any] | None = None,
        intensity: IntensityMap | None = None,
        precision: Precision | None = None,
        output: Any = None,
        compile_network: bool = False,
    ) -> None:
        if not callable(predict):
            raise TypeError(f"the network must be a torch.nn.Module or a callable, got {type(predict).__name__}.")
        self.network = unwrap(predict)
        self.networks = modules_of(self.network)
        self.intensity, self.output = intensity, output
        self.precision = precision or Precision("float32", image)
        self.forwards = 0
        self.inferer = inferer
        if inferer is not None:
            # Imported here: inferers may in turn use attacks.
            from monai_adversarial.inferers import memory_bounded

            if hasattr(inferer, "for_image"):
                inferer = inferer.for_image(image)
            self.inferer = memory_bounded(inferer)
        self._inferer_of_all = self.inferer
        self._check_weights(image)
        if compile_network and isinstance(self.network, nn.Module):
            if self.network not in _compiled:
                # Not dynamic: torch 2.13 fails to compile this backward pass for a second shape that way.
                _compiled[self.network] = torch.compile(self.network, dynamic=False)
            self.network = _compiled[self.network]
        # Around the network alone: an inferer's resampling stays in float32, and a backward pass that calls the network
        # again, window by window, does so in the same precision.
        self.network = self.precision.wrap(self.network)

    def use_samples(self, indices: Sequence[int]) -> None:
        """Expect some samples of the clean batch only: an inferer may know each sample's affine."""
        for_samples = getattr(self._inferer_of_all, "for_samples", None)
        if for_samples is not None:
            self.inferer = for_samples(indices)

    def _check_weights(self, image: torch.Tensor) -> None:
        for network in self.networks:
            for name, weight in network.named_parameters():
                if weight.dtype in (torch.float16, torch.bfloat16):
                    raise ValueError(
                        f"the network's weights must be float32, got {weight.dtype} for {name!r}: keep them in "
                        "float32 and choose "
                        "precision='bfloat16' or 'float16', which runs the network under autocast."
                    )
                if weight.device != image.device:
                    raise ValueError(
                        f"the image is on {image.device} but the network's weight {name!r} is on {weight.device}: "
                        "move one of them."
                    )
                break  # networks of mixed dtype are rare, and torch names them itself

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, class, spatial...) of an image in the attack's domain."""
        self.forwards += image.shape[0]
        seen = image if self.intensity is None else self.intensity(image)
        raw = self.network(seen) if self.inferer is None else self.inferer(seen, self.network)
        if self.output is not None:
            raw = self.output(raw) if callable(self.output) else raw[self.output]
        elif isinstance(raw, (list, tuple)) and len(raw) == 1:
            raw = raw[0]
        if not isinstance(raw, torch.Tensor):
            return raw  # check_logits says what is wrong with it
        raw = as_plain(raw)
        return raw.to(image.dtype) if raw.is_floating_point() else raw
