# SPDX-License-Identifier: Apache-2.0
"""Transforms of a live pipeline that leave the intensity map which they applied in the image's meta."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Transform

from monai_adversarial.models.read_intensity import IntensityStep, keeps_zeros, pipeline_steps
from monai_adversarial.utils.intensity_fit import LARGEST_RESIDUAL, Fit, fit_intensity, sampled_places
from monai_adversarial.utils.intensity_map import IntensityMap

__all__ = ["RecordedIntensity", "install_recorders"]

#: more slices than this along the first axis are no channels
MOST_CHANNELS = 32
#: voxels that must be found again in the input of a step that only moves voxels
SOUGHT = 4096


class RecordedIntensity:
    """Calls another transform and fits, for each channel, the clipped affine map between the image before and after.

    The image is what the transform made of it, to the bit; only its meta gets an entry. Random states, keys and the
    inverse are those of the transform. Subclasses make it the kind of thing that the transform is, which MONAI asks for
    when it caches, inverts and composes.

    Args:
        transform: the transform that is called.
        image_key: key of the image where data are dictionaries.
        record: key of the meta.
    """

    def __init__(self, transform: Any, image_key: str, record: str) -> None:
        self.recorded_transform = transform
        self.image_key, self.record = image_key, record
        # Known to be held, also where zero would lie on the line of the others.
        self.held = (0.0,) if keeps_zeros(transform) else ()

    def __call__(self, data: Any) -> Any:
        """The transform's answer."""
        # What loads and scales in one step leaves no image before it: MONAI's own loaders only load.
        only_loads = type(self.recorded_transform).__module__.startswith("monai.")
        before = _Before(data, self.image_key, only_loads)
        answer = self.recorded_transform(data)
        after = _image_of(answer, self.image_key)
        if isinstance(after, MetaTensor):
            after.meta[self.record] = before.fit(after.as_tensor(), self.held)
        return answer

    def inverse(self, data: Any) -> Any:
        """The transform's inverse."""
        return self.recorded_transform.inverse(data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.recorded_transform!r})"


class RecordedTransform(RecordedIntensity, Transform):
    """A recorded array transform."""


class RecordedInvertible(RecordedIntensity, InvertibleTransform):
    """A recorded array transform with an inverse."""


class RecordedMapTransform(RecordedIntensity, MapTransform):
    """A recorded dictionary transform."""

    @property
    def keys(self) -> Any:  # type: ignore[override]
        """The transform's keys."""
        return self.recorded_transform.keys

    @property
    def allow_missing_keys(self) -> bool:  # type: ignore[override]
        """The transform's own, which MONAI switches while it inverts."""
        return bool(self.recorded_transform.allow_missing_keys)

    @allow_missing_keys.setter
    def allow_missing_keys(self, value: bool) -> None:
        self.recorded_transform.allow_missing_keys = value


class RecordedInvertibleMap(RecordedMapTransform, InvertibleTransform):
    """A recorded dictionary transform with an inverse."""


class RecordedMaker(RecordedInvertible):
    """A recorded transform of dictionaries that makes the image from others: the record holds what was done to the
    intensities of the image that each channel is a copy of. The image leaves it as a ``MetaTensor``.

    Args:
        transform, image_key, record: see :class:`RecordedIntensity`.
        sources: what was done to the intensities of each key's image; None where it is not known.
    """

    def __init__(
        self, transform: Any, image_key: str, record: str, sources: Mapping[Hashable, IntensityMap | None]
    ) -> None:
        super().__init__(transform, image_key, record)
        self.sources = dict(sources)

    def __call__(self, data: Any) -> Any:
        """The transform's answer."""
        if not isinstance(data, Mapping) or self.image_key in data:
            return super().__call__(data)
        others = {key: _as_tensor(value) for key, value in data.items() if _is_image(value) and value.ndim > 1}
        answer = self.recorded_transform(data)
        after = _image_of(answer, self.image_key)
        if not _is_image(after) or after.ndim < 2:
            return answer
        rows = [self._fit(channel, others).row() for channel in _as_tensor(after)]
        image = after if isinstance(after, MetaTensor) else MetaTensor(torch.as_tensor(after))
        image.meta[self.record] = torch.tensor(rows, dtype=torch.float64)
        answer[self.image_key] = image
        return answer

    def _fit(self, channel: torch.Tensor, others: Mapping[Hashable, torch.Tensor]) -> Fit:
        """What was done to the image that a channel is a copy of; no fit where that is none, or not one only."""
        found: list[IntensityMap] = []
        for key, image in others.items():
            same = (
                one.shape == channel.shape and torch.equal(one.to(channel.dtype), channel) for one in (image, *image)
            )
            one = self.sources.get(key, IntensityMap(1.0, 0.0))
            if any(same) and one is not None and one.is_uniform and one not in found:
                found.append(one)
        if len(found) != 1:
            return Fit(1.0, 0.0, residual=torch.inf)
        scale, offset, low, high, held, held_at = (None if n is None else float(n) for n in found[0].values)
        assert scale is not None and offset is not None
        made = Fit(scale, offset, -torch.inf if low is None else low, torch.inf if high is None else high)
        if held is None:
            return made
        return replace(made, held=held, held_at=torch.nan if held_at is None else held_at)


def _recorded(
    transform: Any, image_key: str, record: str, sources: Mapping[Hashable, IntensityMap | None] | None
) -> RecordedIntensity:
    if sources is not None:
        return RecordedMaker(transform, image_key, record, sources)
    invertible = isinstance(transform, InvertibleTransform)
    if isinstance(transform, MapTransform):
        kind: type[RecordedIntensity] = RecordedInvertibleMap if invertible else RecordedMapTransform
    elif isinstance(transform, Transform):
        kind = RecordedInvertible if invertible else RecordedTransform
    else:
        kind = RecordedIntensity
    return kind(transform, image_key, record)


def install_recorders(preprocessing: Any, image_key: str = "image") -> Any:
    """Let the transforms of a live pipeline whose intensity map depends on the image record it.

    A ``Compose`` is changed in place, nested ones too; transforms that are recorded already stay as they are. Call it
    before data is cached and before worker processes start: what they made before carries no record.

    >>> import torch
    >>> from monai.data import MetaTensor, list_data_collate
    >>> from monai.transforms import Compose, ScaleIntensityd
    >>> from monai_adversarial.models import install_recorders, map_of_batch, read_intensity
    >>> pipeline = install_recorders(Compose([ScaleIntensityd("image")]))
    >>> ct = MetaTensor(torch.linspace(-100, 300, 512).reshape(1, 8, 8, 8))
    >>> batch = list_data_collate([pipeline({"image": ct})])
    >>> found = map_of_batch(read_intensity(pipeline), batch["image"])
    >>> [round(float(edge)) for edge in found.inverse(torch.tensor([[[0.0, 1.0]]])).flatten()]
    [-100, 300]

    Args:
        preprocessing: as for ``read_intensity``.
        image_key: key of the image in dictionary pipelines.

    Returns:
        ``preprocessing`` itself; for a single transform that needs it, the recorded transform to be used in its place.
    """
    for step in pipeline_steps(preprocessing, image_key):
        if step.kind != "fitted" or isinstance(step.transform, RecordedIntensity):
            continue
        record = IntensityStep(step.index, "", None).record
        recorded = _recorded(step.transform, image_key, record, step.sources)
        if step.container is None:
            return recorded
        place = step.index[-1]
        transforms = list(step.container.transforms)
        transforms[place] = recorded
        step.container.transforms = tuple(transforms)
    return preprocessing


def _image_of(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else data


class _Before:
    """Some voxels of an image before a transform, which may change it in place."""

    def __init__(self, data: Any, key: str, only_loads: bool) -> None:
        image = _image_of(data, key)
        self.image: torch.Tensor | None = None
        # A file name, and nothing else that an image could be made of: the transform loads it.
        self.loads = (
            only_loads
            and not _is_image(image)
            and not (isinstance(data, Mapping) and any(_is_image(value) and value.ndim > 2 for value in data.values()))
        )
        if _is_image(image) and image.ndim > 1:
            self.image = _as_tensor(image)
            rows = _rows(self.image)
            self.places = [sampled_places(row) for row in rows]
            self.values = [row[at].double() for row, at in zip(rows, self.places, strict=True)]

    def fit(self, after: torch.Tensor, held: tuple[float, ...]) -> torch.Tensor:
        """Fitted numbers, (channel or 1, 8), float64."""
        return torch.tensor([fit.row() for fit in self._fits(after, held)], dtype=torch.float64)

    def _fits(self, after: torch.Tensor, held: tuple[float, ...]) -> list[Fit]:
        if self.image is None:
            return [Fit(1.0, 0.0, residual=0.0 if self.loads else torch.inf)]
        if after.shape == self.image.shape:
            made = [row[at].double() for row, at in zip(_rows(after), self.places, strict=True)]
            fits = [fit_intensity(b, a, held) for b, a in zip(self.values, made, strict=True)]
            if all(fit.residual <= LARGEST_RESIDUAL for fit in fits) or not self._moved(after):
                return fits
            return [Fit(1.0, 0.0)]
        if after.shape[1:] == self.image.shape[1:] and len(after) > len(self.image):
            # Channels of guidance that were put behind those of the image.
            first = after[: len(self.image)]
            if first.shape == self.image.shape and bool((first == self.image).all()) and self._untouched():
                return [Fit(1.0, 0.0)] * len(self.values)
        return [Fit(1.0, 0.0, residual=0.0 if self._cut(after) else torch.inf)]

    def _untouched(self) -> bool:
        """Whether the image still holds the voxels that were read before."""
        assert self.image is not None
        now = [row[at].double() for row, at in zip(_rows(self.image), self.places, strict=True)]
        return all(torch.equal(a, b) for a, b in zip(now, self.values, strict=True))

    def _moved(self, after: torch.Tensor) -> bool:
        """Whether the voxels are the same, in other places."""
        assert self.image is not None
        if not self._untouched():
            return False
        kind = torch.promote_types(self.image.dtype, after.dtype)
        return torch.equal(self.image.flatten().to(kind).sort().values, after.flatten().to(kind).sort().values)

    def _cut(self, after: torch.Tensor) -> bool:
        """Whether all voxels, as far as is looked, are among those of the image."""
        assert self.image is not None
        if not self._untouched() or after.numel() == 0:
            return False
        flat = after.flatten()
        kind = torch.promote_types(self.image.dtype, after.dtype)
        step = max(1, flat.numel() // SOUGHT)
        return bool(torch.isin(flat[::step].to(kind), self.image.to(kind)).all())


def _as_tensor(value: Any) -> torch.Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else torch.as_tensor(value)


def _is_image(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return np.issubdtype(value.dtype, np.number)
    return isinstance(value, torch.Tensor)


def _rows(image: torch.Tensor) -> torch.Tensor:
    """(channel or 1, voxels)."""
    return image.reshape(image.shape[0] if image.ndim > 2 and len(image) <= MOST_CHANNELS else 1, -1)
