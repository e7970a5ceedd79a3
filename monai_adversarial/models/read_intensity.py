# SPDX-License-Identifier: Apache-2.0
"""The intensity map of a live preprocessing: exact where its transforms say it, fitted per image where they do not."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from monai.transforms import (
    CastToType,
    CastToTyped,
    Compose,
    ConcatItemsd,
    ConvertToMultiChannelBasedOnBratsClasses,
    ConvertToMultiChannelBasedOnBratsClassesd,
    CopyItemsd,
    CuCIM,
    CuCIMd,
    GaussianSmooth,
    GaussianSmoothd,
    ImageFilter,
    ImageFilterd,
    LabelToMask,
    LabelToMaskd,
    Lambda,
    Lambdad,
    MapLabelValue,
    MapLabelValued,
    MapTransform,
    MedianSmooth,
    MedianSmoothd,
    OneOf,
    RandomOrder,
    SomeOf,
    TorchIO,
    TorchIOd,
    TorchVision,
    TorchVisiond,
    Transform,
)
from monai.transforms.traits import RandomizableTrait

from monai_adversarial.models.guidance import GUIDANCE
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.dictionary import Purifierd
from monai_adversarial.utils.intensity import as_intensity_map, gives_floats, map_of_transform
from monai_adversarial.utils.intensity_fit import LARGEST_RESIDUAL, Fit, map_of_rows
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.modules import describe_callable

__all__ = [
    "IntensityStep",
    "PipelineStep",
    "ReadIntensity",
    "UnknownIntensity",
    "check_agrees",
    "keeps_zeros",
    "map_of_batch",
    "pipeline_steps",
    "read_intensity",
]

CHOICES = (OneOf, SomeOf, RandomOrder)
#: rooms of MONAI whose transforms move voxels, or only what is known about them; those of interactive annotation add
#: guidance
NO_INTENSITY = (
    *(f"monai.transforms.{room}." for room in ("spatial", "croppad", "io", "meta_utility", "nvtx", "utility")),
    *(f"monai.apps.{room}." for room in ("deepedit", "deepgrow", "nuclick")),
)
#: the transforms in these rooms that may change values all the same
MAY_CHANGE = (
    *(CastToType, CastToTyped, ConvertToMultiChannelBasedOnBratsClasses, ConvertToMultiChannelBasedOnBratsClassesd),
    *(CuCIM, CuCIMd, ImageFilter, ImageFilterd, LabelToMask, LabelToMaskd, Lambda, Lambdad),
    *(MapLabelValue, MapLabelValued, TorchIO, TorchIOd, TorchVision, TorchVisiond),
)
#: they mix neighbors, as resampling does: values stay in their units, and a change is no larger behind them than before
SMOOTHING = (GaussianSmooth, GaussianSmoothd, MedianSmooth, MedianSmoothd)
#: two fits of the same global map differ by less than this share
SAME_FIT = 1e-3
_SAME = IntensityMap(1.0, 0.0)


class UnknownIntensity(ValueError):
    """There is no map from raw voxels to the network's values; the message says why, in one sentence.

    >>> import torch
    >>> from monai.transforms import ScaleIntensityd
    >>> from monai_adversarial.models import UnknownIntensity, map_of_batch, read_intensity
    >>> read = read_intensity(ScaleIntensityd("image"))
    >>> try:
    ...     map_of_batch(read, torch.rand(1, 1, 8, 8, 8))
    ... except UnknownIntensity as error:
    ...     print(str(error).split(":")[0])
    the batch carries no record of preprocessing (ScaleIntensityd), whose map depends on the image
    """


@dataclass(frozen=True)
class IntensityStep:
    """One transform that changes intensities.

    Args:
        index: its place in the pipeline, nested places one after the other.
        name: its class.
        exact: its map; None where it depends on the image.
    """

    index: tuple[int, ...]
    name: str
    exact: IntensityMap | None

    @property
    def record(self) -> str:
        """Key of the image's meta under which a recorder leaves what it fitted."""
        return "#".join(("recorded_intensity", *map(str, self.index)))


@dataclass(frozen=True)
class ReadIntensity:
    """What a pipeline does to the intensities of an image.

    >>> from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
    >>> from monai_adversarial.models import read_intensity
    >>> window = ScaleIntensityRanged("image", a_min=-160, a_max=240, b_min=0, b_max=1, clip=True)
    >>> read = read_intensity(Compose([LoadImaged("image"), window]))
    >>> read.indices, read.depends_on_image, read.unknown
    (((1,),), False, None)

    Args:
        steps: the transforms that change intensities for good, in order. Random augmentations are not part of it.
        unknown: a sentence that says why there is no map for any image; None where there is one.
        name: what the pipeline is called in texts.
        claimed: a typed map that is checked against that of every batch; see :func:`check_agrees`.
    """

    steps: tuple[IntensityStep, ...] = ()
    unknown: str | None = None
    name: str = "preprocessing"
    claimed: IntensityMap | None = None

    @property
    def indices(self) -> tuple[tuple[int, ...], ...]:
        """Places of the transforms in the pipeline, nested places one after the other."""
        return tuple(step.index for step in self.steps)

    @property
    def depends_on_image(self) -> bool:
        """Whether the map has to be fitted for each image."""
        return any(step.exact is None for step in self.steps)

    @cached_property
    def exact(self) -> IntensityMap | None:
        """The map of all images; None where it depends on the image or is unknown. A pipeline that leaves intensities
        as they are has the map that does so."""
        if self.unknown is not None or self.depends_on_image:
            return None
        return _in_turn([step.exact for step in self.steps if step.exact is not None])

    def where(self, step: IntensityStep) -> str:
        """Name of a step's place."""
        return "#".join((self.name, *map(str, step.index)))

    @property
    def text(self) -> str:
        """What was found, for a report."""
        if self.unknown is not None:
            return f"unknown: {self.unknown}"
        if not self.steps:
            return f"raw values ({self.name} leaves intensities as they are)"
        if self.exact is not None:
            places = " and ".join(self.where(step) for step in self.steps)
            return f"{self.exact} from {places}"
        parts = [
            f"{self.where(step)} ({step.name}{'' if step.exact in (None, _SAME) else f': {step.exact}'})"
            for step in self.steps
        ]
        return f"fitted for each image at {' and '.join(parts)}"

    def __str__(self) -> str:
        return self.text


def _in_turn(maps: Sequence[IntensityMap]) -> IntensityMap:
    found = maps[0] if maps else _SAME
    for one in maps[1:]:
        found = found.then(one)
    return found


@dataclass(frozen=True)
class PipelineStep:
    """One transform of a pipeline, as far as the image's intensities are concerned.

    Args:
        index: its place.
        transform: the transform itself.
        container: the ``Compose`` that holds it; None for a pipeline that is one transform.
        kind: ``"exact"``, ``"fitted"`` or ``"unknown"``.
        exact: the map, for ``"exact"``.
        why: the sentence, for ``"unknown"``.
        sources: for a custom transform that makes the image from others, what was done to the intensities of each;
            None for a key without a known map.
    """

    index: tuple[int, ...]
    transform: Any
    container: Compose | None
    kind: str
    exact: IntensityMap | None = None
    why: str | None = None
    sources: Mapping[Hashable, IntensityMap | None] | None = None


def read_intensity(preprocessing: Any, image_key: str = "image", name: str = "preprocessing") -> ReadIntensity:
    """Read the map from raw voxels (HU) to a network's values from a live pipeline.

    Exact are ``ScaleIntensityRange(d)``, ``NormalizeIntensity(d)`` with given statistics, ``ShiftIntensity(d)``,
    ``ScaleIntensity(d)`` with a factor, ``ThresholdIntensity(d)`` that fills with its threshold, and chains of them.
    Other transforms of the image that are neither random nor spatial (``ScaleIntensity(d)``,
    ``NormalizeIntensity(d)`` by the image's own statistics, ``ScaleIntensityRangePercentiles(d)``, ``Lambda(d)``,
    custom ones) are fitted image by image: see ``install_recorders`` and :func:`map_of_batch`. A custom transform that
    knows its map says it in an attribute ``intensity_map``, an ``IntensityMap``. Nothing is run.

    >>> from monai.transforms import Compose, ScaleIntensityRanged, ShiftIntensityd
    >>> from monai_adversarial.models import read_intensity
    >>> read = read_intensity(Compose([ShiftIntensityd("image", -24), ScaleIntensityRanged("image", -160, 240, 0, 1)]))
    >>> [step.name for step in read.steps], read.depends_on_image
    (['ShiftIntensityd', 'ScaleIntensityRanged'], False)

    Args:
        preprocessing: a MONAI transform, array or dictionary form, a ``Compose`` (also nested), any callable, or None.
        image_key: key of the image in dictionary pipelines.
        name: what the pipeline is called in texts, such as ``preprocessing`` or ``validate#preprocessing``.
    """
    steps: list[IntensityStep] = []
    for step in pipeline_steps(preprocessing, image_key, name):
        if step.kind == "unknown":
            return ReadIntensity(tuple(steps), step.why, name)
        label = _name(step.transform)
        if step.exact is None and keeps_zeros(step.transform):
            label += ", zeros stay zero"
        if step.sources is not None:
            label += _said_of_sources(step.sources)
        if _mixes(step.transform):
            label += ", the budget counts behind it"
        steps.append(IntensityStep(step.index, label, step.exact))
    return ReadIntensity(tuple(steps), None, name)


def pipeline_steps(preprocessing: Any, image_key: str, name: str = "preprocessing") -> list[PipelineStep]:
    """The steps of a pipeline that change the image's intensities, in order."""
    flat = list(_flat(preprocessing))
    transforms = [transform for _, transform, _ in flat]
    keys = _keys_of_image(transforms, image_key)
    maker = _maker(transforms, image_key)
    found = []
    for number, ((index, transform, container), tracked) in enumerate(zip(flat, keys, strict=True)):
        place = "#".join((name, *map(str, index)))
        kind, exact, why = _classify(transform, tracked, place)
        if kind:
            sources = _maps_of_keys(transforms[:number]) if number == maker else None
            found.append(PipelineStep(index, transform, container, kind, exact, why, sources))
    return found


def _maker(transforms: Sequence[Any], image_key: Hashable) -> int | None:
    """Number of the custom transform that makes the image from others, which dictionary transforms have worked on
    before; None where the image is there from the start."""
    seen: set[Hashable] = set()
    for number, transform in enumerate(transforms):
        bare = _unwrapped(transform)
        keys = getattr(bare, "keys", None)
        if isinstance(bare, (*CHOICES, ConcatItemsd, CopyItemsd)) or (keys is not None and image_key in keys):
            return None
        if isinstance(bare, MapTransform) and keys is not None:
            seen.update(keys)
        elif seen and not f"{type(bare).__module__}.".startswith("monai."):
            return number
    return None


def _maps_of_keys(transforms: Sequence[Any]) -> dict[Hashable, IntensityMap | None]:
    """What dictionary transforms have done to the intensities of each of their keys; None for what is not known."""
    maps: dict[Hashable, IntensityMap | None] = {}
    for transform in transforms:
        for key in getattr(transform, "keys", ()):
            kind, exact, _ = _classify(transform, frozenset({key}), "")
            before = maps.setdefault(key, _SAME)
            if kind == "exact" and before is not None and exact is not None:
                maps[key] = before.then(exact)
            elif kind:
                maps[key] = None
    return maps


def _said_of_sources(sources: Mapping[Hashable, IntensityMap | None]) -> str:
    scaled: dict[str, list[str]] = {}
    for key, one in sources.items():
        if one is not None and one != _SAME:
            scaled.setdefault(str(one), []).append(str(key))
    if not scaled:
        return ", makes the image from others"
    return ", makes the image from others: " + ", ".join(f"{'/'.join(keys)} {one}" for one, keys in scaled.items())


def _flat(transform: Any, index: tuple[int, ...] = (), container: Compose | None = None) -> Iterator[Any]:
    if transform is None:
        return
    if isinstance(transform, Compose) and not isinstance(transform, CHOICES):
        for i, inner in enumerate(transform.transforms):
            yield from _flat(inner, (*index, i), transform)
    else:
        yield index, transform, container


def _unwrapped(transform: Any) -> Any:
    return getattr(transform, "recorded_transform", transform)


def keeps_zeros(transform: Any) -> bool:
    """Whether a transform is ``NormalizeIntensity(d)`` of the voxels that are not zero."""
    transform = _unwrapped(transform)
    return getattr(getattr(transform, "normalizer", transform), "nonzero", False) is True


def _name(transform: Any) -> str:
    transform = _unwrapped(transform)
    return type(transform).__name__ if isinstance(transform, Transform) else describe_callable(transform)


def _keys_of_image(transforms: Sequence[Any], image_key: Hashable) -> list[frozenset[Hashable]]:
    """For each transform the keys whose voxels end in the image."""
    tracked = frozenset({image_key})
    found = []
    for transform in reversed(transforms):
        found.append(tracked)
        if isinstance(transform, ConcatItemsd) and transform.name in tracked:
            tracked = (tracked - {transform.name}) | frozenset(transform.keys)
        elif isinstance(transform, CopyItemsd):
            count = len(transform.keys)
            for i, made in enumerate(transform.names):
                if made in tracked:
                    tracked = (tracked - {made}) | {transform.keys[i % count]}
    return found[::-1]


def _classify(
    transform: Any, tracked: frozenset[Hashable], place: str
) -> tuple[str | None, IntensityMap | None, str | None]:
    """Kind, exact map and reason of a step; no kind for one that leaves the image's intensities."""
    transform = _unwrapped(transform)
    said = getattr(transform, "intensity_map", None)
    if isinstance(said, IntensityMap):
        return ("exact", said, None) if said != _SAME else (None, None, None)
    if isinstance(transform, CHOICES):
        members = (inner for child in transform.transforms for _, inner, _ in _flat(child))
        if any(_classify(inner, tracked, place)[0] for inner in members):
            why = (
                f"{place} ({type(transform).__name__}) chooses at random among transforms that change intensities for "
                "good."
            )
            return "unknown", None, why
        return None, None, None
    if isinstance(transform, (RandomizableTrait, ConcatItemsd, CopyItemsd)) and not _mixes(transform):
        return None, None, None
    touched = tracked
    if isinstance(transform, GUIDANCE):
        return None, None, None
    if isinstance(transform, MapTransform) and hasattr(transform, "keys"):
        touched = tracked & frozenset(transform.keys)
        if isinstance(transform, Lambdad):
            pairs = list(zip(transform.keys, transform.overwrite, strict=True))
            made = [over for _, over in pairs if isinstance(over, str) and over in tracked]
            if made:
                return "unknown", None, f"{place} (Lambdad) makes {made[0]!r} from another image."
            touched = tracked & frozenset(key for key, over in pairs if over is True)
        if not touched:
            return None, None, None
    if _leaves_intensities(transform, touched):
        return None, None, None
    exact = _SAME if _mixes(transform) else map_of_transform(transform)
    if len(tracked) > 1 and (exact is None or touched != tracked):
        why = (
            f"{place} ({type(transform).__name__}) changes intensities of images before ConcatItemsd joins them "
            f"({', '.join(sorted(map(str, tracked)))})."
        )
        return "unknown", None, why
    if exact is not None:
        said = exact != _SAME or _mixes(transform)
        return ("exact", exact, None) if said else (None, None, None)
    return "fitted", None, None


def _mixes(transform: Any) -> bool:
    """Whether it mixes neighbors and leaves the units: smoothing, and purifiers of this package."""
    return type(transform) in SMOOTHING or isinstance(transform, (Purifier, Purifierd))


def _leaves_intensities(transform: Any, touched: frozenset[Hashable]) -> bool:
    if isinstance(transform, CastToTyped):
        pairs = zip(transform.keys, transform.dtype, strict=True)
        return gives_floats([kind for key, kind in pairs if key in touched])
    if isinstance(transform, CastToType):
        return gives_floats(transform.dtype)
    if isinstance(transform, MAY_CHANGE):
        return False
    # Not what is derived from them: it may do anything besides.
    return f"{type(transform).__module__}.".startswith(NO_INTENSITY)


def map_of_batch(read: ReadIntensity, image: torch.Tensor) -> IntensityMap:
    """The map of one batch: exact steps and those that recorders fitted for its images, in the pipeline's order.

    >>> import torch
    >>> from monai.transforms import ScaleIntensityRanged
    >>> from monai_adversarial.models import map_of_batch, read_intensity
    >>> read = read_intensity(ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True))
    >>> map_of_batch(read, torch.rand(2, 1, 8, 8, 8)).window
    (-160.0, 240.0)

    Args:
        read: what the pipeline does.
        image: the collated batch, (batch, channel, spatial...); a ``MetaTensor`` where steps depend on the image.

    Returns:
        One map for all images where every step is exact; otherwise one per sample and channel.

    Raises:
        UnknownIntensity: where there is none: a transform that is no clipped affine map of its input (named, with what
            the fit missed), or whose record did not reach the batch.
        ValueError: where the map that was typed for the model contradicts it.
    """
    if read.unknown is not None:
        raise UnknownIntensity(read.unknown)
    found = read.exact
    if found is None:
        found = _in_turn([_map_of_step(read, step, image) for step in read.steps])
    claimed = read.claimed
    if claimed is not None and not claimed.agrees_with(found, SAME_FIT):
        if claimed.unclipped_within(image, found).agrees_with(found, SAME_FIT):
            return claimed  # no voxel of the batch has reached the edges that it knows of
        raise ValueError(_contradiction(claimed, f"{found} for this batch", read))
    return found


def _map_of_step(read: ReadIntensity, step: IntensityStep, image: torch.Tensor) -> IntensityMap:
    if step.exact is not None:
        return step.exact
    meta = getattr(image, "meta", None)
    rows = meta.get(step.record) if isinstance(meta, dict) else None
    batch, channels = image.shape[:2]
    where = f"{read.where(step)} ({step.name})"
    if not isinstance(rows, torch.Tensor):
        raise UnknownIntensity(
            f"the batch carries no record of {where}, whose map depends on the image: install_recorders must be called "
            "on the pipeline before data is cached or loaded, and the image must stay a MetaTensor."
        )
    rows = rows[None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or rows.shape[0] not in (1, batch):
        raise UnknownIntensity(
            f"the record of {where} has shape {tuple(rows.shape)}, which does not fit a batch of {batch}."
        )
    residual = float(rows[..., Fit.RESIDUAL].max())
    if not residual <= LARGEST_RESIDUAL:
        missed = f"misses voxels by {residual:.2g} of its range" if residual < float("inf") else "cannot be made"
        raise UnknownIntensity(
            f"{where} is no clipped affine map of its input: the best fit {missed} ({LARGEST_RESIDUAL:g} is allowed)."
        )
    return map_of_rows(rows if rows.shape[1] in (1, channels) else _one_channel(rows, where, channels))


def _one_channel(rows: torch.Tensor, where: str, channels: int) -> torch.Tensor:
    """What the channels of a record have in common, for an image that got other channels later."""
    maps = []
    for sample in rows:
        told = sample[sample[:, Fit.FLAT] == 0]  # a channel without contrast does not tell
        told = told if len(told) else sample
        first = map_of_rows(told[None, :1])
        if not all(map_of_rows(one[None, None]).agrees_with(first, SAME_FIT) for one in told):
            raise UnknownIntensity(
                f"{where} maps the {rows.shape[1]} channels of its image differently, and the batch has {channels}: "
                "which is which is not known."
            )
        maps.append(told[:1])
    return torch.stack(maps)


def check_agrees(typed: Any, read: ReadIntensity, name: str = "intensity") -> IntensityMap | ReadIntensity:
    """Refuse a typed map that contradicts the pipeline.

    The values of an image cannot show every wrong window: one that was scaled from -57..164 HU to 0..1 looks as one
    scaled from -1000..1000 HU to 0..1. The pipeline can.

    >>> from monai.transforms import ScaleIntensityRanged
    >>> from monai_adversarial.models import check_agrees, read_intensity
    >>> read = read_intensity(ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True))
    >>> check_agrees({"a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1, "clip": True}, read) is read
    True
    >>> check_agrees({"a_min": -1000, "a_max": 1000, "b_min": 0, "b_max": 1, "clip": True}, read)
    Traceback (most recent call last):
    ValueError: ...

    Args:
        typed: whatever ``as_intensity_map`` reads, or None for nothing typed.
        read: what the pipeline does.
        name: what ``typed`` is called in the sentence.

    Returns:
        What is to be used: what was read; where that depends on the image, together with the typed map, so that
        ``map_of_batch`` compares the two on every batch; the typed map where the pipeline's is unknown.

    Raises:
        ValueError: where they differ, with both maps in the sentence.
    """
    claimed = as_intensity_map(typed)
    if claimed is None:
        return read
    if read.unknown is not None:
        return claimed
    if read.exact is None:
        return replace(read, claimed=claimed)
    if not claimed.agrees_with(read.exact):
        raise ValueError(_contradiction(claimed, read.text, read, name))
    return read


def _contradiction(claimed: IntensityMap, text: str, read: ReadIntensity, name: str = "intensity") -> str:
    return (
        f"{name} is given as {claimed}, but {read.name} maps {text}: leave {name} out, or give the map that the "
        "pipeline applies."
    )
