# SPDX-License-Identifier: Apache-2.0
"""What density detectors look at: a few numbers per image, from inside a network or from the image itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from monai_adversarial.detection.answers import predictor_of
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.layers import check_layers, encoder_layers
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.modules import modules_of, unwrap

__all__ = ["Features", "Kept", "NetworkFeatures", "RadialSpectrum"]

#: of one layer, (window, ...) each
Kept = tuple[torch.Tensor, ...]

#: added to a variance before its root, so that channels that are constant have a gradient
_TINY = 1e-12


class Features(ABC):
    """Image -> (batch, number), differentiable.

    >>> from monai_adversarial.detection import Features, RadialSpectrum
    >>> issubclass(RadialSpectrum, Features), RadialSpectrum(bands=4).groups(5)
    (True, [slice(0, 5, None)])

    Attributes:
        has_stand_in: what is differentiated are smooth numbers instead of those that decide.
    """

    has_stand_in: bool = False

    @abstractmethod
    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        """The numbers of each image, float64.

        Args:
            image: (batch, channel, spatial...), plain tensor.
            like: the same or the clean batch, with metadata if there is any.
            smooth: the stand-in, where there is one.
        """

    def groups(self, width: int) -> list[slice]:
        """The numbers that belong together, for example those of one layer."""
        return [slice(0, width)]


class NetworkFeatures(Features):
    """Mean and standard deviation over the volume of every channel of some layers, by hooks, window by window.

    With gradients each batch of windows is computed again in the backward pass, so that the memory is that of one.
    Overlapping windows count equally; so do voxels that pad a window.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import NetworkFeatures
    >>> model, image, _ = example_case(16)
    >>> NetworkFeatures(model, layers=["smoothing"])(image, image).shape  # mean and standard deviation
    torch.Size([1, 2])

    Args:
        model: whose network is watched.
        layers: names as in ``network.named_modules()``; None for the end of each encoder stage and of the bottleneck,
            as seen on the first image.

    Raises:
        ValueError: for names that the network does not have (here, where the network is known), layers that return no
            tensor, and a network that cannot be watched.
    """

    def __init__(self, model: AttackedModel, layers: Sequence[str] | None = None) -> None:
        self.model = model
        self.layers = None if layers is None else tuple(layers)
        networks = modules_of(unwrap(model.network))
        if self.layers is not None and networks:
            check_layers(self.layers, networks)
        self._widths: list[int] = []

    def groups(self, width: int) -> list[slice]:
        """One per layer."""
        ends = [0]
        for size in self._widths:
            ends.append(ends[-1] + size)
        return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        predictor = predictor_of(self.model, image, like)
        if self.layers is None:
            self.layers = self._default_layers(predictor, image)
        run = predictor.windows(image)
        if run is None:
            pooled = self._whole(predictor, image, smooth)
        else:
            rows: list[list[list[torch.Tensor]]] = [[] for _ in range(image.shape[0])]
            for where in run.batches():

                def pooled_windows(*windows: torch.Tensor, where: Any = where) -> tuple[torch.Tensor, ...]:
                    with self._watched(predictor, smooth) as passes:
                        run.outputs(list(windows), where)
                    return passes[-1]

                windows = [run.plan.image[index] for index in where]
                if torch.is_grad_enabled() and image.requires_grad:
                    found = checkpoint(pooled_windows, *windows, use_reentrant=False, preserve_rng_state=False)
                else:
                    found = pooled_windows(*windows)
                for number, index in enumerate(where):
                    rows[index[0].start].append([part[number] for part in found])
            # mean over windows of what each layer was pooled to
            pooled = [
                torch.stack([torch.stack([window[place] for window in row]).mean(dim=0) for row in rows])
                for place in range(len(rows[0][0]))
            ]
        by_layer = self._numbers(pooled)
        if torch.is_grad_enabled() and image.requires_grad and not all(part.requires_grad for part in by_layer):
            raise ValueError(
                f"no gradient flows from the image into {', '.join(self.layers)}: choose other layers, or a model "
                "whose inferer is None or a SlidingWindowInferer."
            )
        self._widths = [part.shape[1] for part in by_layer]
        return torch.cat(by_layer, dim=1)

    def _default_layers(self, predictor: Predictor, image: torch.Tensor) -> tuple[str, ...]:
        return encoder_layers(predictor, image)

    def _keep(self, output: torch.Tensor) -> Kept:
        """What is kept of a layer's output until the network has answered."""
        return _moments(output)

    def _pooled(self, kept: list[Kept], logits: Callable[[], torch.Tensor], smooth: bool) -> Kept:
        """What one pass of the network is pooled to, (window, ...) each; the mean over windows is taken of it.

        Args:
            kept: of each layer.
            logits: gives those of the windows, (window, class, spatial...).
            smooth: of the stand-in.
        """
        return tuple(part for layer in kept for part in layer)

    def _numbers(self, pooled: list[torch.Tensor]) -> list[torch.Tensor]:
        """(sample, number) of each layer."""
        return [
            torch.cat([mean, ((square - mean.square()).clamp_min(0) + _TINY).sqrt()], dim=1)
            for mean, square in zip(pooled[0::2], pooled[1::2], strict=True)
        ]

    def _whole(self, predictor: Predictor, image: torch.Tensor, smooth: bool) -> list[torch.Tensor]:
        """Of a network that is called on whole images, or any number of times for one."""
        with self._watched(predictor, smooth) as passes:
            predictor(image)
        if len(passes) == 1 and passes[0][0].shape[0] == image.shape[0]:
            return list(passes[0])
        if image.shape[0] == 1:
            return [torch.cat(parts).mean(dim=0, keepdim=True) for parts in zip(*passes, strict=True)]
        raise ValueError(
            f"the inferer calls the network {len(passes)} times for {image.shape[0]} images, so that what belongs to "
            "which is not known: pass one image at a time."
        )

    @contextmanager
    def _watched(self, predictor: Predictor, smooth: bool) -> Iterator[list[Kept]]:
        """What each pass of the network inside is pooled to."""
        known = check_layers(self.layers or (), predictor.networks)
        kept: dict[str, Kept] = {}
        passes: list[Kept] = []
        with ExitStack() as stack:
            for name in self.layers or ():

                def keep(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    output = output[0] if isinstance(output, (tuple, list)) and output else output
                    if not isinstance(output, torch.Tensor):
                        raise ValueError(f"layers: {name!r} must return a tensor, got {type(output).__name__}.")
                    kept[name] = self._keep(output)

                stack.callback(known[name].register_forward_hook(keep).remove)

            def finish(logits: Callable[[], torch.Tensor]) -> None:
                missing = [name for name in self.layers or () if name not in kept]
                if missing:
                    raise ValueError(f"layers: {missing[0]!r} did not run in the network's forward pass.")
                passes.append(self._pooled([kept.pop(name) for name in self.layers or ()], logits, smooth))

            stack.enter_context(predictor.watching_answers(finish))
            yield passes


def _moments(output: torch.Tensor) -> Kept:
    """Mean and mean square over the voxels of each channel, (sample, channel), float64."""
    if output.ndim == 3:  # tokens, (sample, token, channel)
        output = output.movedim(-1, 1)
    if torch.is_grad_enabled() and output.requires_grad:
        output = output.clone()  # the next layer may write into it
    if output.ndim == 2:
        mean = output.double()
        return mean, mean.square()
    wide = torch.promote_types(output.dtype, torch.float32)
    variance, mean = torch.var_mean(output.to(wide).flatten(2), dim=2, correction=0)
    mean = mean.double()
    return mean, variance.double() + mean.square()


class RadialSpectrum(Features):
    """Logarithm of the spectral power in bands of frequency, from 0 to half a cycle per voxel, and the corners beyond.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import RadialSpectrum
    >>> image, spectrum = example_case(16)[1], RadialSpectrum(bands=4)
    >>> noisy = image + 8 * torch.randn(image.shape).sign()
    >>> bool(spectrum(noisy, noisy)[0, -1] > spectrum(image, image)[0, -1])
    True

    Args:
        bands: number of bands below half a cycle per voxel.

    Raises:
        ValueError: for more bands than the image has frequencies.
    """

    def __init__(self, bands: int = 8) -> None:
        self.bands = bands

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        dims = tuple(range(2, image.ndim))
        shape = image.shape[2:]
        power = torch.fft.fftn(image.double(), dim=dims).abs().square().flatten(2) / shape.numel()
        axes = [torch.fft.fftfreq(size, dtype=torch.float64, device=image.device) for size in shape]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0).sqrt().flatten()
        # a band holds its upper edge; frequency 0 is left out
        band = (radius * 2 * self.bands - 1e-9).ceil().long().sub(1).clamp_max(self.bands)[1:]
        power = power[:, :, 1:]
        count = torch.bincount(band, minlength=self.bands + 1).to(power)
        if bool((count <= 0).any()):
            raise ValueError(f"bands must be fewer than {self.bands} for an image of {tuple(shape)} voxels.")
        total = power.new_zeros(*power.shape[:2], self.bands + 1).index_add(2, band, power)
        return (total / count + _TINY).log().flatten(1)
