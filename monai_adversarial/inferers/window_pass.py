# SPDX-License-Identifier: Apache-2.0
"""One pass of a network over the windows of a volume: the stitched output, and its exact gradient window by window."""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.utils import optional_import
from torch.autograd.function import once_differentiable

from monai_adversarial.inferers.kept_windows import KeptWindows, window_leaves
from monai_adversarial.utils.allocator import give_back_growth
from monai_adversarial.utils.backward_pass import differentiate, in_force, in_force_again

tqdm, _has_tqdm = optional_import("tqdm", name="tqdm")

Index = tuple[slice, ...]
Outputs = list[torch.Tensor]


@dataclass(frozen=True)
class OutputGrid:
    """Where an output of the network is stitched: ``size`` voxels stand for a window of ``window_size``."""

    window_size: tuple[int, ...]
    size: tuple[int, ...]
    weight: torch.Tensor | None

    def _scaled(self, voxels: tuple[int, ...]) -> tuple[int, ...]:
        # MONAI's int(voxels * scale) without its rounding errors, at which it stops (44 * (3 / 11) < 12).
        return tuple(v * size // w for v, size, w in zip(voxels, self.size, self.window_size, strict=True))

    def place(self, index: Index) -> Index:
        """Full index (image, channels, spatial slices) of a window on this grid."""
        if self.size == self.window_size:
            return index
        starts = self._scaled(tuple(part.start for part in index[2:]))
        stops = self._scaled(tuple(part.stop for part in index[2:]))
        return (*index[:2], *(slice(*ends) for ends in zip(starts, stops, strict=True)))

    def volume_size(self, image: torch.Tensor) -> tuple[int, ...]:
        """Spatial size of the stitched output of an image (B, C, spatial)."""
        return self._scaled(tuple(image.shape[2:]))

    def empty_volume(self, image: torch.Tensor, batch_size: int, channels: int, device: torch.device) -> torch.Tensor:
        """Zeros (B, K, spatial) for the stitched output."""
        return torch.zeros((batch_size, channels, *self.volume_size(image)), dtype=image.dtype, device=device)

    def weight_sum(self, image: torch.Tensor, slices: list[Index], device: torch.device) -> torch.Tensor | None:
        """Sum of the blending weights per voxel (1, 1, spatial), or None where it is one everywhere."""
        if self.weight is None and len(slices) * math.prod(self.size) == math.prod(self.volume_size(image)):
            return None
        total = self.empty_volume(image, 1, 1, device)
        weight = 1.0 if self.weight is None else self.weight.to(device)
        for window in slices:
            total[self.place((slice(None), slice(None), *window))] += weight
        return total


@dataclass
class WindowPass:
    """A network, what to call it with, and where the windows are.

    Windows are taken image by image in the order of ``slices``, ``windows_per_batch`` at a time, as MONAI does.
    After the first forward pass ``keys`` tells the keys of a dictionary output, sorted, and ``grids`` where each output
    is stitched.
    """

    network: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    condition: torch.Tensor | None
    slices: list[Index]
    window_size: tuple[int, ...]
    windows_per_batch: int
    weight: torch.Tensor | None
    window_device: torch.device
    output_device: torch.device
    pass_coordinates: bool = False
    progress: bool = False
    keys: list[Any] | None = field(default=None, init=False)
    grids: list[OutputGrid] = field(default_factory=list, init=False)

    def batches(self, batch_size: int) -> list[list[Index]]:
        """Full index (image, channels, spatial slices) of each window, in batches of windows."""
        everything = [
            (slice(image, image + 1), slice(None), *window) for image in range(batch_size) for window in self.slices
        ]
        step = self.windows_per_batch
        return [everything[start : start + step] for start in range(0, len(everything), step)]

    def predict(self, windows: Sequence[torch.Tensor], where: list[Index]) -> Outputs:
        """Outputs of the network on some windows, in the caller's gradient mode, flattened to a list."""
        kwargs = self.kwargs
        if self.condition is not None:
            condition = torch.cat([self.condition[index] for index in where]).to(self.window_device)
            kwargs = {**kwargs, "condition": condition}
        # torch.cat copies also a single window: a network that works in place cannot reach the image
        data = torch.cat(list(windows)).to(self.window_device)
        coordinates = [[list(index) for index in where]] if self.pass_coordinates else []
        outputs, self.keys = _flatten_outputs(self.network(data, *coordinates, *self.args, **kwargs))
        for output in outputs:
            fits = isinstance(output, torch.Tensor) and output.ndim == data.ndim and output.shape[0] == len(where)
            if not fits:
                got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                hint = "" if getattr(output, "ndim", 0) not in (1, 2) else "; a classifier is attacked on whole images"
                raise ValueError(
                    f"network must return tensors of shape ({len(where)}, channels, spatial...) with "
                    f"{len(self.window_size)} spatial axes for windows of {self.window_size}, got {got}{hint}."
                )
        return outputs

    def stitch(self, image: torch.Tensor) -> Outputs:
        """Stitched outputs (B, K, spatial) in the caller's gradient mode."""
        return self.blend(image, lambda _, where: self.predict([image[index] for index in where], where))[0]

    def blend(
        self, image: torch.Tensor, run: Callable[[int, list[Index]], Outputs]
    ) -> tuple[Outputs, list[torch.Tensor | None]]:
        """Weighted mean of ``run(number of the batch, where)`` over all windows; also returns the sums of weights.

        An output of another resolution than the window is stitched on a grid of its own, as MONAI does.
        """
        stitched: Outputs = []
        batches = self.batches(image.shape[0])
        for number, where in enumerate(tqdm(batches) if self.progress and _has_tqdm else batches):
            outputs = run(number, where)
            if not stitched:
                self.grids = self._grids_of(outputs)
                stitched = [
                    grid.empty_volume(image, image.shape[0], output.shape[1], self.output_device)
                    for grid, output in zip(self.grids, outputs, strict=True)
                ]
            for total, grid, output in zip(stitched, self.grids, outputs, strict=True):
                for index, window in zip(where, output.split(1), strict=True):
                    weighted = window if grid.weight is None else window * grid.weight
                    total[grid.place(index)] += weighted.to(self.output_device)
            del outputs
        sums = [grid.weight_sum(image, self.slices, self.output_device) for grid in self.grids]
        for total, weights in zip(stitched, sums, strict=True):
            if weights is not None:
                total /= weights
        return stitched, sums

    def _grids_of(self, outputs: Outputs) -> list[OutputGrid]:
        grids, weight = [], self.weight
        for output in outputs:
            size = tuple(output.shape[2:])
            if size == self.window_size:
                weight = self.weight
            elif weight is not None:
                # MONAI resamples the weights from one output to the next: the same voxels are picked here.
                weight = F.interpolate(weight, size, mode="nearest-exact")
            grids.append(OutputGrid(self.window_size, size, weight))
        return grids

    def output_gradient(
        self,
        gradient: torch.Tensor,
        weights: torch.Tensor | None,
        grid: OutputGrid,
        where: list[Index],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Gradient on one output of the network for some windows, from the gradient on the stitched volume."""
        parts = []
        for index in where:
            place = grid.place(index)
            part = gradient[place]
            if weights is not None:
                part = part / weights[(slice(None), slice(None), *place[2:])]
            part = part.to(self.window_device)
            parts.append(part if grid.weight is None else part * grid.weight)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(dtype)

    def module(self) -> torch.nn.Module | None:
        """The module behind the network, also behind a bound method or a partial, if it can be found."""
        network: Any = self.network
        while isinstance(network, functools.partial):
            network = network.func
        network = network.__self__ if inspect.ismethod(network) else network
        return network if isinstance(network, torch.nn.Module) else None


def stitch_with_input_gradient(image: torch.Tensor, windows: WindowPass, keep_bytes: float | None = None) -> Outputs:
    """Stitched outputs whose gradient with respect to ``image`` is computed window by window.

    Args:
        image: (B, C, spatial), requires a gradient, at least as large as the window.
        windows: what to run.
        keep_bytes: memory for graphs that are kept from the forward pass instead of computed again, besides that of the
            last windows; None for a share of what is free.

    Raises:
        ValueError: when an argument of the network requires a gradient, which would be lost.
    """
    extra = [windows.condition, *windows.args, *windows.kwargs.values()]
    if any(isinstance(value, torch.Tensor) and value.requires_grad for value in extra):
        raise ValueError("only inputs may require a gradient, got another argument of the network that requires one.")
    return list(_WindowByWindow.apply(image, windows, keep_bytes))


class _WindowByWindow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: torch.Tensor, windows: WindowPass, keep_bytes: float | None
    ) -> tuple[torch.Tensor, ...]:
        module = windows.module()
        device_type = windows.window_device.type
        ctx.autocast = {
            "device_type": device_type,
            "enabled": torch.is_autocast_enabled(device_type),
            "dtype": torch.get_autocast_dtype(device_type),
        }
        # Outside the main thread the global generators belong to somebody else's training: they are set back only where
        # the network may draw from them, in training mode or as a callable of which this is not known.
        may_draw = module is None or any(part.training for part in module.modules())
        watch = may_draw or threading.current_thread() is threading.main_thread()
        ctx.in_force = in_force()
        ctx.random_states = {}
        ctx.kept = KeptWindows(windows, image, module, keep_bytes)

        def run(number: int, where: list[Index]) -> Outputs:
            state = _random_state(windows.window_device) if watch else None
            outputs = ctx.kept.run(number, where)
            if state is not None and not _is_random_state(windows.window_device, state):
                ctx.random_states[number] = state
            return outputs

        with _frozen(module):
            stitched, sums = windows.blend(image, run)
        give_back_growth(windows.window_device)  # what comes next works on volumes
        ctx.windows = windows
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(image, *sums)
        return tuple(stitched)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        image, *_ = ctx.saved_tensors
        windows: WindowPass = ctx.windows
        result = torch.zeros_like(image)
        connected = False
        give_back_growth(windows.window_device)  # what comes next works on windows
        with (
            _frozen(windows.module()),
            _forked_random_state(windows.window_device, bool(ctx.random_states)),
            in_force_again(ctx.in_force),
        ):
            batches = windows.batches(image.shape[0])
            last = len(batches) - 1
            # The last graph is in memory already: it goes before another is built, and is added in its turn.
            ready = {last: _window_gradients(ctx, gradients, last, batches[last])} if last in ctx.kept else {}
            for number, where in enumerate(batches):
                if number in ready:
                    parts = ready.pop(number)
                else:
                    parts = _window_gradients(ctx, gradients, number, where)
                for index, part in zip(where, parts, strict=True):
                    if part is not None:
                        connected = True
                        result[index] += part
        give_back_growth(windows.window_device)
        if not connected and any(gradient is not None for gradient in gradients):
            raise RuntimeError("the network's output does not depend differentiably on its input in any window.")
        return result, None, None


def _window_gradients(
    ctx: Any, gradients: Sequence[torch.Tensor | None], number: int, where: list[Index]
) -> Sequence[torch.Tensor | None]:
    """Gradient to each window of one batch, None where there is none; its graph is gone afterwards."""
    image, *sums = ctx.saved_tensors
    windows: WindowPass = ctx.windows
    # A graph that was kept serves once; a second backward pass computes it again.
    leaves, outputs = ctx.kept.pop(number) or _recompute(ctx, image, windows, number, where)
    roots, root_gradients = [], []
    for output, gradient, weights, grid in zip(outputs, gradients, sums, windows.grids, strict=True):
        if gradient is not None and output.requires_grad:
            roots.append(output)
            root_gradients.append(windows.output_gradient(gradient, weights, grid, where, output.dtype))
    del outputs  # not held while the graph is gone through
    return differentiate(roots, leaves, root_gradients, allow_unused=True) if roots else [None] * len(where)


def _recompute(
    ctx: Any, image: torch.Tensor, windows: WindowPass, number: int, where: list[Index]
) -> tuple[list[torch.Tensor], Outputs]:
    """Forward pass of some windows with a graph, under the autocast and random state of the first one."""
    if number in ctx.random_states:
        _set_random_state(windows.window_device, ctx.random_states[number])
    leaves = window_leaves(image, where)
    with torch.enable_grad(), torch.autocast(**ctx.autocast):
        return leaves, windows.predict(leaves, where)


@contextmanager
def _frozen(module: torch.nn.Module | None) -> Iterator[None]:
    """Parameters take no part in the graph, so that it saves and computes nothing for their gradients."""
    parameters: Iterable[torch.nn.Parameter] = module.parameters() if module is not None else ()
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _is_random_state(device: torch.device, state: tuple[torch.Tensor, torch.Tensor | None]) -> bool:
    """Whether no random number was drawn since."""
    pairs = zip(_random_state(device), state, strict=True)
    return all(now is None or before is None or torch.equal(now, before) for now, before in pairs)


def _set_random_state(device: torch.device, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _forked_random_state(device: torch.device, enabled: bool) -> Any:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=enabled)


def _flatten_outputs(outputs: Any) -> tuple[Outputs, list[Any] | None]:
    keys = None
    if isinstance(outputs, torch.Tensor):
        outputs = [outputs]
    elif isinstance(outputs, Mapping):
        keys = sorted(outputs)
        outputs = [outputs[key] for key in keys]
    return [output.as_tensor() if isinstance(output, MetaTensor) else output for output in outputs], keys


def pack_outputs(outputs: Outputs, keys: list[Any] | None) -> Any:
    """Tensor, tuple or dictionary, as the network returned it; a sequence of one becomes a tensor, as in MONAI."""
    if keys is not None:
        return dict(zip(keys, outputs, strict=True))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
