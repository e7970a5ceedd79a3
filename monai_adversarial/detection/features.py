# SPDX-License-Identifier: Apache-2.0
"""What density detectors look at: a few numbers per image, from inside a network or from the image itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from monai_adversarial.detection.answers import predictor_of
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor

__all__ = ["Features", "NetworkFeatures", "RadialSpectrum", "encoder_layers"]

#: added to a variance before its root, so that channels that are constant have a gradient
_TINY = 1e-12


class Features(ABC):
    """Image -> (batch, number), differentiable."""

    @abstractmethod
    def __call__(self, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The numbers of each image, float64.

        Args:
            image: (batch, channel, spatial...), plain tensor.
            like: the same or the clean batch, with metadata if there is any.
        """

    def groups(self, width: int) -> list[slice]:
        """The numbers that belong together, for example those of one layer."""
        return [slice(0, width)]


class NetworkFeatures(Features):
    """Mean and standard deviation over the volume of every channel of some layers, by hooks, window by window.

    With gradients each batch of windows is computed again in the backward pass, so that the memory is that of one.
    Overlapping windows count equally; so do voxels that pad a window.

    Args:
        model: whose network is watched.
        layers: names as in ``network.named_modules()``; None for the end of each encoder stage and of the bottleneck,
            as seen on the first image.

    Raises:
        ValueError: for names that the network does not have, layers that return no tensor, and a network that cannot be
            watched.
    """

    def __init__(self, model: AttackedModel, layers: Sequence[str] | None = None) -> None:
        self.model = model
        self.layers = None if layers is None else tuple(layers)
        self._widths: list[int] = []

    def groups(self, width: int) -> list[slice]:
        """One per layer."""
        ends = [0]
        for size in self._widths:
            ends.append(ends[-1] + size)
        return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def __call__(self, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        predictor = predictor_of(self.model, image, like)
        if self.layers is None:
            self.layers = encoder_layers(predictor, image)
        run = predictor.windows(image)
        if run is None:
            pooled = self._whole(predictor, image)
        else:
            rows: list[list[list[torch.Tensor]]] = [[] for _ in range(image.shape[0])]
            for where in run.batches():

                def pooled_windows(*windows: torch.Tensor, where: Any = where) -> tuple[torch.Tensor, ...]:
                    with self._watched(predictor.networks) as calls:
                        run.outputs(list(windows), where)
                    return tuple(part for name in self.layers or () for part in _only(calls, name))

                windows = [run.plan.image[index] for index in where]
                if torch.is_grad_enabled() and image.requires_grad:
                    found = checkpoint(pooled_windows, *windows, use_reentrant=False, preserve_rng_state=False)
                else:
                    found = pooled_windows(*windows)
                for number, index in enumerate(where):
                    rows[index[0].start].append([part[number] for part in found])
            # mean over windows of means and of mean squares, (sample, channel) of each layer
            pooled = [
                torch.stack([torch.stack([window[place] for window in row]).mean(dim=0) for row in rows])
                for place in range(len(rows[0][0]))
            ]
        if torch.is_grad_enabled() and image.requires_grad and not all(part.requires_grad for part in pooled):
            raise ValueError(
                f"no gradient flows from the image into {', '.join(self.layers)}: choose other layers, or a model "
                "whose inferer is None or a SlidingWindowInferer."
            )
        means, squares = pooled[0::2], pooled[1::2]
        self._widths = [2 * part.shape[1] for part in means]
        return torch.cat(
            [
                piece
                for mean, square in zip(means, squares, strict=True)
                for piece in (mean, ((square - mean.square()).clamp_min(0) + _TINY).sqrt())
            ],
            dim=1,
        )

    def _whole(self, predictor: Predictor, image: torch.Tensor) -> list[torch.Tensor]:
        """Of a network that is called on whole images, or any number of times for one."""
        with self._watched(predictor.networks) as calls:
            predictor(image)
        found = []
        for name in self.layers or ():
            for parts in zip(*calls.get(name, []), strict=True):
                if len(parts) == 1 and parts[0].shape[0] == image.shape[0]:
                    found.append(parts[0])
                elif image.shape[0] == 1:
                    found.append(torch.cat(parts).mean(dim=0, keepdim=True))
                else:
                    raise ValueError(
                        f"the inferer calls the network {len(parts)} times for {image.shape[0]} images, so that what "
                        "belongs to which is not known: pass one image at a time."
                    )
        if len(found) != 2 * len(self.layers or ()):
            raise ValueError(f"layers: not all of {list(self.layers or ())} ran in the network's forward pass.")
        return found

    @contextmanager
    def _watched(self, networks: Sequence[nn.Module]) -> Iterator[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
        known = {name: module for network in networks for name, module in network.named_modules() if name}
        calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        with ExitStack() as stack:
            for name in self.layers or ():
                if name not in known:
                    some = ", ".join(map(repr, list(known)[:8]))
                    raise ValueError(f"layers must be names of the network's layers such as {some}, got {name!r}.")

                def keep(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    output = output[0] if isinstance(output, (tuple, list)) and output else output
                    if not isinstance(output, torch.Tensor):
                        raise ValueError(f"layers: {name!r} must return a tensor, got {type(output).__name__}.")
                    calls.setdefault(name, []).append(_moments(output))

                stack.callback(known[name].register_forward_hook(keep).remove)
            yield calls


def _only(calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name not in calls:
        raise ValueError(f"layers: {name!r} did not run in the network's forward pass.")
    return calls[name][-1]


def _moments(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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


def encoder_layers(predictor: Predictor, image: torch.Tensor) -> tuple[str, ...]:
    """The last layer at each resolution on the way down, and the last one at the coarsest: encoder stages and
    bottleneck of a U-Net, the stages of a classifier.

    Args:
        predictor: the model.
        image: of which one window is looked at.
    """
    order: list[tuple[str, int]] = []
    hooks = []
    for network in predictor.networks:
        for name, module in network.named_modules():
            if name and not any(True for _ in module.children()):

                def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, torch.Tensor) and output.ndim == image.ndim:
                        order.append((name, output[0, 0].numel()))

                hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            run = predictor.windows(image[:1].detach())
            if run is None:
                predictor(image[:1].detach())
            else:
                where = run.batches()[0][:1]
                run.outputs([run.plan.image[index] for index in where], where)
    finally:
        for hook in hooks:
            hook.remove()
    if not order:
        raise ValueError("layers: no layer of the network could be watched; pass their names.")
    coarsest = min(size for _, size in order)
    first = next(place for place, (_, size) in enumerate(order) if size == coarsest)
    stages = {size: name for name, size in order[:first]}  # the last one of each resolution stays
    bottleneck = [name for name, size in order if size == coarsest][-1]
    return (*stages.values(), bottleneck)


class RadialSpectrum(Features):
    """Logarithm of the spectral power in bands of frequency, from 0 to half a cycle per voxel, and the corners beyond.

    Args:
        bands: number of bands below half a cycle per voxel.

    Raises:
        ValueError: for more bands than the image has frequencies.
    """

    def __init__(self, bands: int = 8) -> None:
        self.bands = bands

    def __call__(self, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
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
