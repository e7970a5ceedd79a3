# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference whose exact input gradient needs the memory of one window.

Backpropagation through MONAI's sliding window keeps the activations of every window. Here the stitched output is
computed without a graph; the backward pass takes the gradient on the stitched volume and, window by window, runs the
network again with a graph and adds the gradient of that window to the gradient of the volume. Stitching is linear, so
the result equals ordinary backpropagation up to rounding, at the price of a second forward pass for the windows whose
graphs do not fit in memory.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices, get_valid_patch_size
from monai.inferers import SliceInferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.utils import (
    BlendMode,
    PytorchPadMode,
    convert_to_dst_type,
    ensure_tuple,
    ensure_tuple_rep,
    fall_back_tuple,
    look_up_option,
)

from monai_adversarial.inferers.gaussian_votes import NoisyCopiesInferer
from monai_adversarial.inferers.outputs import map_outputs
from monai_adversarial.inferers.purified import PurifiedInferer
from monai_adversarial.inferers.scanner_space import ScannerSpaceInferer
from monai_adversarial.inferers.window_pass import WindowPass, pack_outputs, stitch_with_input_gradient

__all__ = ["MemoryBoundedSliceInferer", "MemoryBoundedSlidingWindowInferer", "WindowPlan", "memory_bounded"]

InfererType = TypeVar("InfererType")
_BYTES_PER_MEGABYTE = 2**20


class MemoryBoundedSlidingWindowInferer(SlidingWindowInferer):
    """MONAI's sliding-window inferer with exact input gradients in the memory of one batch of windows.

    The output equals that of :py:class:`monai.inferers.SlidingWindowInferer`. When the inputs require a gradient and
    gradients are enabled, the call is one node of the autograd graph: the gradient with respect to the inputs is exact,
    the network's parameters receive none. Without a gradient to compute, the network simply runs in the caller's mode.

    Autocast and (for networks in training mode, or callables whose mode is unknown) the random state of each
    window's forward pass are restored for its second forward pass. The network must not change between forward
    and backward; batch normalization in training mode counts each window that is computed again twice.

    Differences from MONAI, none of which changes a valid result: the outputs of the network are never modified in
    place (so softmax, ReLU or identity at its end are fine); ``buffer_steps`` and ``buffer_dim`` are accepted and have
    no effect, since windows are stitched one by one anyway. Outputs of other resolutions than the window (deep
    supervision) are stitched on grids of their own, as in MONAI.

    >>> import torch
    >>> from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer
    >>> network = torch.nn.Conv3d(1, 2, 3, padding=1)
    >>> inferer = MemoryBoundedSlidingWindowInferer((8, 8, 8), sw_batch_size=2, overlap=0.5)
    >>> volume = torch.rand(1, 1, 12, 12, 12, requires_grad=True)
    >>> (gradient,) = torch.autograd.grad(inferer(volume, network).square().sum(), volume)
    >>> gradient.shape, bool((gradient != 0).all())
    (torch.Size([1, 1, 12, 12, 12]), True)

    Args:
        roi_size: see :py:class:`monai.inferers.SlidingWindowInferer`, as all arguments up to ``with_coord``.
        sw_batch_size: number of windows per forward pass; the memory needed is that of so many windows.
        overlap: fraction of the window, one number or one per axis.
        mode: ``"constant"`` or ``"gaussian"`` blending.
        sigma_scale: width of the gaussian as a fraction of the window.
        padding_mode: how images smaller than the window are padded.
        cval: fill value of constant padding, in the units of the image.
        sw_device: device of the windows, default that of the inputs.
        device: device of the stitched output, default that of the inputs.
        progress: show a progress bar of the forward pass.
        cache_roi_weight_map: compute the blending weights once.
        cpu_thresh: stitch on the CPU above this number of voxels.
        buffer_steps: no effect.
        buffer_dim: no effect.
        with_coord: pass the coordinates of the windows to the network as second argument.
        keep_windows_megabytes: graphs of the first windows are kept from the forward pass, and not computed again, as
            far as their activations fit in this many megabytes (2**20 bytes); 0 for none. None: in a third of the
            memory that is free on the windows' device after the first batch (for networks in training mode as 0).
            The graph of the last batch is kept in any case, since it is the only one when the backward pass begins.
            Gradients are the same to the bit.

    Raises:
        ValueError: when ``keep_windows_megabytes`` is negative or not finite.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: BlendMode | str = BlendMode.CONSTANT,
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: PytorchPadMode | str = PytorchPadMode.CONSTANT,
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        cache_roi_weight_map: bool = False,
        cpu_thresh: int | None = None,
        buffer_steps: int | None = None,
        buffer_dim: int = -1,
        with_coord: bool = False,
        keep_windows_megabytes: float | None = None,
    ) -> None:
        super().__init__(
            roi_size=roi_size,
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            mode=mode,
            sigma_scale=sigma_scale,
            padding_mode=padding_mode,
            cval=cval,
            sw_device=sw_device,
            device=device,
            progress=progress,
            cache_roi_weight_map=cache_roi_weight_map,
            cpu_thresh=cpu_thresh,
            buffer_steps=buffer_steps,
            buffer_dim=buffer_dim,
            with_coord=with_coord,
        )
        self.keep_windows_megabytes = _valid_megabytes(keep_windows_megabytes)

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor | Sequence[torch.Tensor] | dict[Any, torch.Tensor]],
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Run ``network`` on every window of ``inputs`` and stitch the outputs.

        Args:
            inputs: image of shape (B, C, spatial).
            network: maps windows (N, C, roi_size) to a tensor, sequence or dictionary of tensors (N, K, spatial), of
                the window's size or of a fixed fraction of it.
            args: passed on to ``network``.
            kwargs: passed on to ``network``, except ``device``, ``buffer_steps``, ``buffer_dim`` (as in MONAI) and
                ``condition``, a tensor of the shape of ``inputs`` that is cut into windows with it.

        Raises:
            ValueError: when the inputs do not fit ``roi_size``, an output has other axes than the window, or a gradient
                with respect to anything but ``inputs`` is asked for.
        """
        plan = self.plan(inputs, network, *args, **kwargs)
        image, windows = plan.image, plan.windows
        if torch.is_grad_enabled() and image.requires_grad:
            megabytes = self.keep_windows_megabytes
            outputs = stitch_with_input_gradient(
                image, windows, None if megabytes is None else megabytes * _BYTES_PER_MEGABYTE
            )
        else:
            outputs = windows.stitch(image)
        if plan.is_padded:
            padded = tuple(image.shape[2:])
            outputs = [output[_crop(tuple(output.shape[2:]), padded, plan.before, plan.shape)] for output in outputs]

        packed = pack_outputs(outputs, windows.keys)
        # the same conversion as MONAI, so that type and metadata of the result are the same
        like = MetaTensor([]).copy_meta_from(inputs, copy_attr=False) if isinstance(inputs, MetaTensor) else inputs
        return convert_to_dst_type(packed, like, device=plan.device)[0]  # type: ignore[return-value]

    def plan(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> WindowPlan:
        """The windows of a call with the same arguments, for work that looks at one after the other.

        Raises:
            ValueError: when the inputs do not fit ``roi_size``.
        """
        condition = kwargs.pop("condition", None)
        device = kwargs.pop("device", self.device)
        kwargs.pop("buffer_steps", None)
        kwargs.pop("buffer_dim", None)
        spatial_shape = tuple(inputs.shape[2:])
        self._check(inputs, condition)
        if device is None and self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh:
            device = "cpu"

        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        condition = condition.as_tensor() if isinstance(condition, MetaTensor) else condition
        window_size = fall_back_tuple(self.roi_size, spatial_shape)
        before = [max(window - size, 0) // 2 for window, size in zip(window_size, spatial_shape, strict=True)]
        after = [
            max(window - size, 0) - half for window, size, half in zip(window_size, spatial_shape, before, strict=True)
        ]
        if any(after):
            # ordinary autograd operations around the window pass: their gradient is exact for every padding mode
            padding = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
            padding_mode = look_up_option(self.padding_mode, PytorchPadMode)
            fill = self.cval if padding_mode == PytorchPadMode.CONSTANT else None
            image = F.pad(image, padding, mode=padding_mode, value=fill)
            if condition is not None:
                condition = F.pad(condition, padding, mode=padding_mode, value=fill)

        window_device = torch.device(self.sw_device or inputs.device)
        windows = WindowPass(
            network=network,
            args=args,
            kwargs=kwargs,
            condition=condition,
            slices=self._slices(tuple(image.shape[2:]), window_size),
            window_size=window_size,
            windows_per_batch=self.sw_batch_size,
            weight=self._weight(tuple(image.shape[2:]), window_size, window_device, image.dtype),
            window_device=window_device,
            output_device=torch.device(device or inputs.device),
            pass_coordinates=self.with_coord,
            progress=self.progress,
        )
        return WindowPlan(image, windows, tuple(before), spatial_shape, device)

    def _check(self, inputs: torch.Tensor, condition: torch.Tensor | None) -> None:
        if inputs.ndim < 3:
            raise ValueError(f"inputs must have shape (batch, channel, spatial), got {tuple(inputs.shape)}.")
        if isinstance(self.roi_size, Sequence) and len(self.roi_size) != inputs.ndim - 2:
            raise ValueError(
                f"inputs must have {len(self.roi_size)} spatial axes as roi_size {tuple(self.roi_size)} has, "
                f"got shape {tuple(inputs.shape)}."
            )
        if condition is not None and condition.shape != inputs.shape:
            raise ValueError(
                f"condition must have the shape of inputs {tuple(inputs.shape)}, got {tuple(condition.shape)}."
            )

    def _slices(self, image_size: tuple[int, ...], window_size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        overlap = ensure_tuple_rep(self.overlap, len(image_size))
        if any(not 0 <= fraction < 1 for fraction in overlap):
            raise ValueError(f"overlap must be >= 0 and < 1, got {overlap}.")
        interval = tuple(
            window if window == size else max(int(window * (1 - fraction)), 1)
            for window, size, fraction in zip(window_size, image_size, overlap, strict=True)
        )
        return dense_patch_slices(image_size, window_size, interval)

    def _weight(
        self, image_size: tuple[int, ...], window_size: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Blending weights (1, 1, window), or None for the constant weight one."""
        if self.mode == BlendMode.CONSTANT:
            return None
        weight = self.roi_weight_map
        if (
            weight is None
            or weight.ndim != len(window_size)
            or get_valid_patch_size(image_size, window_size) != window_size
        ):
            weight = compute_importance_map(
                window_size, mode=self.mode, sigma_scale=self.sigma_scale, device=device, dtype=dtype
            )
        return weight.to(device=device, dtype=dtype)[None, None]


class MemoryBoundedSliceInferer(MemoryBoundedSlidingWindowInferer):
    """MONAI's ``SliceInferer`` (a 2D network over the slices of a volume) with exact input gradients in the memory of
    one batch of windows, whatever the number of slices.

    Outputs equal those of :py:class:`monai.inferers.SliceInferer`, which hands no further inputs than ``condition`` to
    the network either.

    >>> import torch
    >>> from monai.inferers import SliceInferer
    >>> from monai_adversarial.inferers import MemoryBoundedSliceInferer
    >>> network, volume = torch.nn.Conv2d(1, 2, 3, padding=1), torch.rand(1, 1, 6, 8, 8)
    >>> ours = MemoryBoundedSliceInferer(spatial_dim=0, roi_size=(8, 8))(volume, network)
    >>> monai = SliceInferer(spatial_dim=0, roi_size=(8, 8))(volume, network)
    >>> ours.shape, torch.allclose(ours, monai, atol=1e-5)
    (torch.Size([1, 2, 6, 8, 8]), True)

    Args:
        spatial_dim: axis that the slices are cut along: 0, 1 or 2.
        args: see :py:class:`MemoryBoundedSlidingWindowInferer`; ``roi_size`` has two axes.
        kwargs: see :py:class:`MemoryBoundedSlidingWindowInferer`.
    """

    def __init__(self, spatial_dim: int = 0, *args: Any, **kwargs: Any) -> None:
        self.spatial_dim = spatial_dim
        super().__init__(*args, **kwargs)
        self.orig_roi_size = ensure_tuple(self.roi_size)

    def plan(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> WindowPlan:
        """The windows of the 2D ``network`` on every slice.

        Args:
            inputs: volume of shape (B, C, three spatial axes).
            network: maps windows (N, C, roi_size) to a tensor, sequence or dictionary of tensors.
            args: not passed on, as in MONAI.
            kwargs: ``condition``, a tensor of the shape of ``inputs``, is the network's second argument; others are not
                passed on, as in MONAI.

        Raises:
            ValueError: for inputs that are no volume, a ``roi_size`` that has not two axes, or ``with_coord``.
        """
        if self.spatial_dim not in (0, 1, 2) or len(self.orig_roi_size) != 2 or inputs.ndim != 5 or self.with_coord:
            raise ValueError(
                "slices need inputs (batch, channel, three spatial axes), a roi_size of two axes, spatial_dim 0, 1 or "
                f"2 and no with_coord, got inputs {tuple(inputs.shape)}, roi_size {self.orig_roi_size}, spatial_dim "
                f"{self.spatial_dim} and with_coord={self.with_coord}."
            )
        condition = {"condition": kwargs["condition"]} if kwargs.get("condition") is not None else {}
        if args or set(kwargs) - {"condition"}:
            warnings.warn("SliceInferer passes no further inputs to the network: they are left out.", stacklevel=2)
        window = list(self.orig_roi_size)
        window.insert(self.spatial_dim, 1)
        whole = copy.copy(self)  # calls in several threads do not meet
        whole.roi_size = tuple(window)
        return super(MemoryBoundedSliceInferer, whole).plan(
            inputs, _SliceNetwork(network, self.spatial_dim + 2), **condition
        )


class _SliceNetwork(torch.nn.Module):
    """A 2D network as one that takes and returns volumes of one slice."""

    def __init__(self, network: Callable[..., Any], axis: int) -> None:
        super().__init__()
        self.network, self.axis = network, axis
        # Of a callable it is not known whether it draws random numbers. Only its own flag: eval() would go deeper.
        self.training = network.training if isinstance(network, torch.nn.Module) else True

    def forward(self, image: torch.Tensor, condition: torch.Tensor | None = None) -> Any:
        further = () if condition is None else (condition.squeeze(self.axis),)
        return map_outputs(lambda output: output.unsqueeze(self.axis), self.network(image.squeeze(self.axis), *further))


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one volume.

    Args:
        image: (B, C, spatial), padded to the size of a window where it is smaller.
        windows: the network and where its windows are, on the padded image.
        before: voxels of padding before the image's own, along each axis.
        shape: spatial shape without padding.
        device: of the stitched output; None for that of the inputs.
    """

    image: torch.Tensor
    windows: WindowPass
    before: tuple[int, ...]
    shape: tuple[int, ...]
    device: Any

    @property
    def is_padded(self) -> bool:
        """Whether the image was smaller than a window."""
        return tuple(self.image.shape[2:]) != self.shape

    def inside(self, where: Sequence[slice]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of a box of the padded image that belongs to the image: in the image, and within the box."""
        image, box = [], []
        for part, first, size in zip(where, self.before, self.shape, strict=True):
            start, stop = max(part.start - first, 0), min(part.stop - first, size)
            image.append(slice(start, stop))
            box.append(slice(start + first - part.start, stop + first - part.start))
        return tuple(image), tuple(box)


def _crop(
    size: tuple[int, ...], padded: tuple[int, ...], before: Sequence[int], wanted: tuple[int, ...]
) -> tuple[slice, ...]:
    """Index of what belongs to the image in a stitched output of the padded image, on the output's own grid."""
    spatial = []
    for voxels, whole, first, inside in zip(size, padded, before, wanted, strict=True):
        zoom = voxels / whole
        spatial.append(slice(round(first * zoom), round((first + inside) * zoom)))
    return (slice(None), slice(None), *spatial)


def memory_bounded(inferer: InfererType, keep_windows_megabytes: float | None = None) -> InfererType:
    """Give ``inferer`` exact input gradients in the memory of one batch of windows, where that is possible.

    A plain :py:class:`monai.inferers.SlidingWindowInferer` or ``SlidingWindowInfererAdapt`` becomes a
    :py:class:`MemoryBoundedSlidingWindowInferer` with the same settings (without Adapt's retries when memory runs out),
    a plain ``SliceInferer`` a :py:class:`MemoryBoundedSliceInferer`. In a :py:class:`ScannerSpaceInferer`,
    :py:class:`PurifiedInferer` or smoothing inferer the inner inferer is converted, in a copy. Anything else,
    subclasses and None included, is returned unchanged.

    >>> from monai.inferers import SimpleInferer, SlidingWindowInferer
    >>> from monai_adversarial.inferers import memory_bounded
    >>> plain, windows = SimpleInferer(), SlidingWindowInferer((96, 96, 96), overlap=0.5)
    >>> type(memory_bounded(windows)).__name__, memory_bounded(windows).overlap, memory_bounded(plain) is plain
    ('MemoryBoundedSlidingWindowInferer', 0.5, True)

    Args:
        inferer: any inferer or None. It is not modified.
        keep_windows_megabytes: see :py:class:`MemoryBoundedSlidingWindowInferer`.

    Raises:
        ValueError: when ``keep_windows_megabytes`` is negative or not finite.
    """
    megabytes = _valid_megabytes(keep_windows_megabytes)
    kind = _MEMORY_BOUNDED.get(type(inferer))
    if kind is not None:
        converted = kind.__new__(kind)
        converted.__dict__.update(vars(inferer))  # same attributes, without computing the weight map again
        converted.keep_windows_megabytes = megabytes
        return converted  # type: ignore[return-value]
    if isinstance(inferer, (ScannerSpaceInferer, PurifiedInferer, NoisyCopiesInferer)):
        inner = memory_bounded(inferer.inferer, megabytes)
        if inner is inferer.inferer:
            return inferer
        outer = copy.copy(inferer)
        outer.inferer = inner
        return outer
    return inferer


_MEMORY_BOUNDED: dict[type, type[MemoryBoundedSlidingWindowInferer]] = {
    SlidingWindowInferer: MemoryBoundedSlidingWindowInferer,
    SlidingWindowInfererAdapt: MemoryBoundedSlidingWindowInferer,
    SliceInferer: MemoryBoundedSliceInferer,
}


def _valid_megabytes(value: float | None) -> float | None:
    if value is None:
        return None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"keep_windows_megabytes must be None or a finite number >= 0, got {value}.")
    return float(value)
