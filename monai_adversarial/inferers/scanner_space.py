# SPDX-License-Identifier: Apache-2.0
"""Inference on raw scanner volumes, with orientation, resampling and intensity map inside the attacked function."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from monai.utils import GridSampleMode, SpaceKeys, convert_to_dst_type, ensure_tuple, look_up_option

from monai_adversarial.inferers.network_grid import NetworkGrid, valid_axcodes
from monai_adversarial.inferers.outputs import map_outputs
from monai_adversarial.utils.plain import as_plain

__all__ = ["ScannerSpaceInferer"]

_LARGEST_CACHE = 8  # geometries; an attack works on one at a time


class ScannerSpaceInferer(Inferer):
    """Runs a network on volumes in scanner space, bringing its logits back to the native grid, all differentiably.

    For each sample: flip and permute the axes to ``axcodes`` (exact; the affine stays oblique), resample to ``pixdim``
    (linear), apply ``intensity``, run ``inferer``, resample the outputs back (linear), undo the flips. This is what
    MONAI's ``Orientationd`` + ``Spacingd`` + intensity transform before the network and ``Invertd`` on its logits do,
    with the same sampling positions (MONAI's defaults: ``diagonal=False``, ``align_corners=False``, border padding).
    A gradient taken through it is per native voxel, in the units of the input (HU).

    The affine is that of the inputs when they are a MetaTensor, else the one given to :py:meth:`for_affine` or
    :py:meth:`for_image`.

    >>> import torch
    >>> from monai.transforms import ScaleIntensityRange
    >>> from monai_adversarial.data.example import ExampleNetwork, example_case
    >>> from monai_adversarial.inferers import ScannerSpaceInferer
    >>> model, image, label = example_case(32)
    >>> window = ScaleIntensityRange(-160, 340, 0, 1, clip=True)
    >>> inferer = ScannerSpaceInferer(pixdim=4.0, axcodes="LPS", intensity=window)
    >>> prediction = inferer(image, ExampleNetwork()).argmax(dim=1, keepdim=True)
    >>> prediction.shape == label.shape, float((prediction == label).float().mean()) > 0.8
    (True, True)

    Args:
        inferer: inferer in the network's space, default :py:class:`monai.inferers.SimpleInferer`.
        pixdim: spacing in mm the network works at, one number or one per axis of ``axcodes``; numbers <= 0 keep the
            scanner's spacing of that axis. Default None: no resampling.
        axcodes: orientation the network works at, such as ``"RAS"``; None keeps the scanner's.
        intensity: differentiable elementwise map from HU to what the network sees, such as
            :py:class:`monai.transforms.ScaleIntensityRange`. Default None: identity.
        mode: only ``"bilinear"`` (linear along each axis, MONAI's name) is supported, since nearest has no gradient.

    Raises:
        ValueError: when ``axcodes``, ``pixdim`` or ``mode`` is not one of the above.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        pixdim: Sequence[float] | float | None = None,
        axcodes: str | None = "RAS",
        intensity: Callable[[torch.Tensor], torch.Tensor] | None = None,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        if look_up_option(mode, GridSampleMode) != GridSampleMode.BILINEAR:
            raise ValueError(f"mode must be 'bilinear', the only one with a useful gradient, got {mode!r}.")
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.pixdim = None if pixdim is None else tuple(float(value) for value in ensure_tuple(pixdim))
        if self.pixdim is not None and not (self.pixdim and np.all(np.isfinite(self.pixdim))):
            raise ValueError(f"pixdim must be finite spacings in mm, got {pixdim}.")
        self.axcodes = None if axcodes is None else valid_axcodes(axcodes)
        self.intensity = intensity
        self.mode = mode
        self._affine: np.ndarray | None = None
        self._grids: OrderedDict[tuple[Any, ...], NetworkGrid] = OrderedDict()

    def for_affine(self, affine: np.ndarray | torch.Tensor | Sequence[Sequence[float]]) -> ScannerSpaceInferer:
        """A copy that takes plain tensors on the grid of ``affine``.

        Args:
            affine: voxel to world (RAS+, mm) matrix of shape (4, 4), or (B, 4, 4) with one per sample; (3, 3) in 2D.

        Raises:
            ValueError: when ``affine`` has another shape or is not finite.
        """
        bound = copy.copy(self)
        bound._affine = _valid_affine(affine)
        bound._grids = OrderedDict()
        return bound

    def for_image(self, image: torch.Tensor) -> ScannerSpaceInferer:
        """A copy that takes plain tensors on the grid of ``image``.

        Args:
            image: MetaTensor (B, C, spatial); of an inferer that already has an affine, also a plain tensor.

        Raises:
            ValueError: when there is no affine.
        """
        known = self._affine is not None and not isinstance(image, MetaTensor)
        bound = self if known else self.for_affine(_affine_of(image))
        if hasattr(self.inferer, "for_image"):
            bound = copy.copy(bound)
            # Without the affine, which is that of the scanner's grid.
            bound.inferer = self.inferer.for_image(as_plain(image))
        return bound

    def for_samples(self, indices: Sequence[int]) -> ScannerSpaceInferer:
        """A copy that takes some samples of the batch it is bound to, for attacks that leave solved samples out.

        Args:
            indices: positions in the batch whose affines were given; they must exist.

        Raises:
            ValueError: when no affine was given.
        """
        if self._affine is None:
            raise ValueError("for_samples needs an inferer with affines: call for_affine or for_image first.")
        part = copy.copy(self)  # shares the geometries
        part._affine = self._affine if len(self._affine) == 1 else self._affine[list(indices)]
        if hasattr(self.inferer, "for_samples"):
            part.inferer = self.inferer.for_samples(indices)
        return part

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Outputs of ``network`` on the native grid of ``inputs``.

        Args:
            inputs: (B, C, spatial) in HU on the scanner's grid, MetaTensor, or plain tensor after :py:meth:`for_affine`
                or :py:meth:`for_image`. Integer and half-precision types are computed in float32.
            network: called by the inner inferer.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.

        Returns:
            tensor, tuple or dictionary of tensors (B, K, spatial), as the inner inferer returns it, at least float32;
            MetaTensors with the metadata of ``inputs`` if that is a MetaTensor.

        Raises:
            ValueError: when the affine is missing, cannot be used, or does not fit the inputs, or no output of the
                network has the spatial size of its input (lower resolutions beside one that has are returned as they
                are).
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if image.ndim not in (4, 5):
            raise ValueError(f"inputs must have shape (batch, channel, 2 or 3 spatial axes), got {tuple(image.shape)}.")
        affines = self._affines(inputs)
        if len(affines) == 1:
            outputs = self._run(image, affines[0], network, args, kwargs)
        else:
            # grids differ, and with them the sizes in the network's space
            samples = []
            for number, affine in enumerate(affines):
                one = self._for_one(number)
                samples.append(one._run(image[number : number + 1], affine, network, args, kwargs))
            outputs = _concatenate(samples)
        if isinstance(inputs, MetaTensor):
            like = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
            outputs = map_outputs(lambda output: convert_to_dst_type(output, like, dtype=output.dtype)[0], outputs)
        return outputs

    def _affines(self, inputs: torch.Tensor) -> np.ndarray:
        """Affines (1 or B, 4, 4): one if all samples share it."""
        if isinstance(inputs, MetaTensor):
            affines = _valid_affine(_affine_of(inputs))
        elif self._affine is not None:
            affines = self._affine
        else:
            raise ValueError(
                "inputs is a plain tensor without an affine: give a MetaTensor, or bind the geometry with "
                "for_affine(affine) or for_image(image)."
            )
        if len(affines) > 1 and np.array_equal(affines, np.broadcast_to(affines[:1], affines.shape)):
            affines = affines[:1]
        if len(affines) not in (1, inputs.shape[0]):
            raise ValueError(f"inputs has {inputs.shape[0]} samples, but there are {len(affines)} different affines.")
        return affines

    def _for_one(self, number: int) -> ScannerSpaceInferer:
        """Itself, or a copy whose inner inferer expects one sample of the batch it is bound to."""
        return self.for_samples([number]) if getattr(self.inferer, "is_bound", False) else self

    def _run(
        self, image: torch.Tensor, affine: np.ndarray, network: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        grid = self._grid(tuple(image.shape[2:]), affine)
        image = grid.to_network(_at_least_float32(image))
        if self.intensity is not None:
            image = self.intensity(image)
            if isinstance(image, MetaTensor):  # MONAI's transforms wrap what they return
                image = image.as_tensor()
        outputs = self.inferer(image, network, *args, **kwargs)
        several = not isinstance(outputs, torch.Tensor) and any(_is_on(grid, output) for output in _values(outputs))

        def back(output: torch.Tensor) -> torch.Tensor:
            # Deep supervision: lower resolutions beside the full one are handed on as they are.
            return output if several and not _is_on(grid, output) else _to_scanner(grid, output)

        return map_outputs(back, outputs)

    def _grid(self, shape: tuple[int, ...], affine: np.ndarray) -> NetworkGrid:
        key = (shape, affine.tobytes())
        grid = self._grids.get(key)
        if grid is None:
            grid = self._grids[key] = NetworkGrid(shape, affine, self.pixdim, self.axcodes)
            for old in list(self._grids)[:-_LARGEST_CACHE]:
                self._grids.pop(old, None)  # another thread may have been faster
        return grid


def _affine_of(image: torch.Tensor) -> np.ndarray:
    affine = getattr(image, "affine", None)
    if affine is None:
        raise ValueError(f"image must be a MetaTensor with an affine, got {type(image).__name__} without one.")
    matrix = np.asarray(torch.as_tensor(affine).detach().cpu(), dtype=np.float64)
    space = getattr(image, "meta", {}).get("space")
    space = space[0] if isinstance(space, (list, tuple)) and space else space
    if space is not None and str(space) == str(SpaceKeys.LPS.value):
        matrix = np.diag([-1.0, -1.0] + [1.0] * (matrix.shape[-1] - 2)) @ matrix
    return matrix


def _valid_affine(affine: Any) -> np.ndarray:
    matrix = affine.detach().cpu().numpy() if isinstance(affine, torch.Tensor) else affine
    matrix = np.array(matrix, dtype=np.float64)
    if matrix.ndim == 2:
        matrix = matrix[None]
    if matrix.ndim != 3 or matrix.shape[1:] not in ((3, 3), (4, 4)) or not np.all(np.isfinite(matrix)):
        raise ValueError(f"affine must be finite, of shape (4, 4) or (batch, 4, 4), got shape {np.shape(affine)}.")
    return matrix


def _at_least_float32(image: torch.Tensor) -> torch.Tensor:
    return image if image.dtype == torch.float64 else image.float()


def _values(outputs: Any) -> list[Any]:
    return list(outputs.values()) if isinstance(outputs, Mapping) else list(outputs)


def _is_on(grid: NetworkGrid, output: torch.Tensor) -> bool:
    return tuple(output.shape[2:]) == grid.network_shape


def _to_scanner(grid: NetworkGrid, output: torch.Tensor) -> torch.Tensor:
    plain = output.as_tensor() if isinstance(output, MetaTensor) else output
    if tuple(plain.shape[2:]) != grid.network_shape:
        raise ValueError(
            f"the network's outputs must have the spatial size of its input {grid.network_shape}, "
            f"got shape {tuple(plain.shape)}."
        )
    return grid.to_scanner(_at_least_float32(plain))


def _concatenate(samples: list[Any]) -> Any:
    first = samples[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(samples)
    if isinstance(first, Mapping):
        return {key: torch.cat([sample[key] for sample in samples]) for key in first}
    return tuple(torch.cat(values) for values in zip(*samples, strict=True))
