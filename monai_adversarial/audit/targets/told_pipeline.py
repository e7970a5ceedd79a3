# SPDX-License-Identifier: Apache-2.0
"""Preprocessing, windows and postprocessing of a network whose file says nothing of them: as the user tells them."""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
    Spacingd,
)

from monai_adversarial.audit.facts import Fact, Missing, TargetError
from monai_adversarial.audit.targets.pipeline_file import read_pipeline_file

__all__ = ["NO_WINDOW", "PipelineOptions", "ToldPipeline", "build_pipeline"]

#: ``window`` of a network that takes the values of the file
NO_WINDOW = "none"
#: told instead of axis codes where images keep their own
AS_IN_FILE = "file"
DEFAULT_OVERLAP = 0.25
#: options that a pipeline file says by itself
_IN_FILE = (
    *("window", "output_range", "spacing", "orientation", "crop_foreground", "roi_size", "overlap", "blending"),
    *("whole_size", "sw_batch_size"),
)


@dataclass(frozen=True)
class PipelineOptions:
    """What an exported model cannot say of its pipeline.

    The image is loaded, turned to ``orientation``, resampled to ``spacing``, windowed, cropped to its foreground and
    resized to ``whole_size``, in this order and as far as told. The network's answer becomes probabilities, is brought
    back to the file's grid (linear interpolation) and is then made a segmentation.

    Args:
        window: (low, high) in HU or raw values of the file, mapped to ``output_range`` and clipped; ``"none"`` for a
            network that takes the values of the file. None: not known, which an audit asks for.
        output_range: what the ends of the window become. Default (0, 1).
        spacing: voxel size in mm that the image is resampled to (linear); None for the file's own.
        orientation: axis codes such as ``"RAS"`` that the image is turned to; ``"file"`` for the file's own. None: not
            known, which an audit asks for: a network that was trained on turned images finds little in others and
            says nothing.
        roi_size: voxels of the sliding windows along each axis.
        overlap: share of a window that the next one covers, 0 to below 1. None: 0.25, MONAI's default.
        blending: ``"constant"`` (default, as MONAI) or ``"gaussian"`` weights where windows overlap.
        sw_batch_size: windows that go through the network at once. Default 1.
        whole_size: the whole image is resized to this many voxels (trilinear), instead of windows.
        crop_foreground: crop to the bounding box of what is above the low end of ``output_range`` (above 0 without a
            window).
        activation: ``"softmax"`` (exclusive classes) or ``"sigmoid"`` (channels that may overlap). None: sigmoid for
            one output channel, softmax for several, unless the answer shows otherwise.
        output_values: ``"logits"`` or ``"probabilities"``. None: seen on a first image of noise.
        output: index or name of the output to attack, for a network with several.
        in_channels: channels of the image. None: read from the network.
        class_names: names of the output channels; with softmax the background first.
        pipeline_file: MONAI config (YAML or JSON) with ``preprocessing``, ``inferer`` and ``postprocessing``, instead
            of the above. Its expressions (``$...``) are Python and run.

    Raises:
        TargetError: for a value that cannot be meant, or what is told twice.
    """

    window: tuple[float, float] | str | None = None
    output_range: tuple[float, float] = (0.0, 1.0)
    spacing: tuple[float, ...] | None = None
    orientation: str | None = None
    roi_size: tuple[int, ...] | None = None
    overlap: float | None = None
    blending: str = "constant"
    sw_batch_size: int = 1
    whole_size: tuple[int, ...] | None = None
    crop_foreground: bool = False
    activation: str | None = None
    output_values: str | None = None
    output: int | str | None = None
    in_channels: int | None = None
    class_names: Sequence[str] | None = None
    pipeline_file: str | None = None

    def __post_init__(self) -> None:
        if self.window != NO_WINDOW:
            _set(self, "window", _pair("window", self.window, f"(low, high) or {NO_WINDOW!r}"))
        _set(self, "output_range", _pair("output_range", self.output_range, "(low, high)"))
        for name in ("roi_size", "whole_size"):
            _set(self, name, _sizes(name, getattr(self, name), whole=True))
        _set(self, "spacing", _sizes("spacing", self.spacing, whole=False))
        if self.orientation != AS_IN_FILE:
            _check_orientation(self.orientation)
        if self.overlap is not None and not (_is_number(self.overlap) and 0 <= self.overlap < 1):
            raise TargetError(f"overlap must be a number from 0 to below 1, got {self.overlap!r}.")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise TargetError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
        for name in ("sw_batch_size", "in_channels"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise TargetError(f"{name} must be an integer >= 1, got {value!r}.")
        if not isinstance(self.crop_foreground, bool):
            raise TargetError(f"crop_foreground must be True or False, got {self.crop_foreground!r}.")
        if isinstance(self.output, bool) or not isinstance(self.output, (int, str, type(None))):
            raise TargetError(f"output must be the index or name of an output, got {self.output!r}.")
        _set(self, "class_names", _names(self.class_names))
        if self.roi_size is not None and self.whole_size is not None:
            raise TargetError("roi_size and whole_size are both told: a network runs in windows or on the whole image.")
        if self.whole_size is not None and self.overlap is not None:
            raise TargetError("overlap is told, but whole_size leaves no windows that could overlap.")
        if self.pipeline_file is not None:
            defaults = PipelineOptions()
            twice = [name for name in _IN_FILE if getattr(self, name) != getattr(defaults, name)]
            if twice:
                raise TargetError(f"{' and '.join(twice)} told beside pipeline_file, which says it: leave one out.")

    @classmethod
    def of(cls, told: PipelineOptions | Mapping[str, Any] | None) -> PipelineOptions:
        """The options themselves, or those of a mapping.

        Raises:
            TargetError: for a key that is no option, with the nearest one.
        """
        if isinstance(told, PipelineOptions):
            return told
        known = [one.name for one in fields(cls)]
        for key in told or {}:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
                raise TargetError(f"{key!r} is no option of a told pipeline: {hint}")
        return cls(**(told or {}))

    @property
    def low(self) -> float:
        """The network's value of what lies below the window."""
        return 0.0 if self.window == NO_WINDOW or self.window is None else self.output_range[0]


@dataclass(frozen=True)
class ToldPipeline:
    """What the options make.

    Args:
        preprocessing: dictionary transform from a path to the network's input.
        inferer: sliding windows, or None for the whole image.
        postprocessing: dictionary transform from the network's answer to the segmentation on the file's grid; None
            where a pipeline file has none.
        facts, missing: what was told, and what still has to be.
        image_key, pred_key: keys of the item.
        hashes: SHA-256 of the pipeline file.
    """

    preprocessing: Callable[..., Any]
    inferer: Callable[..., Any] | None
    postprocessing: Callable[..., Any] | None
    facts: list[Fact] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    image_key: str = "image"
    pred_key: str = "pred"
    hashes: dict[str, str] = field(default_factory=dict)


def build_pipeline(options: PipelineOptions, activation: str, values: str, spatial_dims: int = 3) -> ToldPipeline:
    """Preprocessing, inferer and postprocessing as told.

    Args:
        options: what is told.
        activation: ``"softmax"`` or ``"sigmoid"``, which the answer is read by.
        values: ``"logits"`` or ``"probabilities"``, which the network returns.
        spatial_dims: of the network's input.

    Raises:
        TargetError: for sizes of another number of axes, or a pipeline file that cannot be read.
    """
    if options.pipeline_file is not None:
        file = read_pipeline_file(options.pipeline_file)
        return ToldPipeline(
            file.preprocessing,
            file.inferer,
            file.postprocessing,
            file.facts,
            [],
            file.image_key,
            file.pred_key,
            {"pipeline file": file.hash},
        )
    for name in ("roi_size", "whole_size", "spacing"):
        value = getattr(options, name)
        if value is not None and len(value) != spatial_dims:
            raise TargetError(
                f"{name} must have {spatial_dims} numbers, as the network's input has axes, got {len(value)}."
            )
    facts, missing = _said(options)
    preprocessing = _preprocessing(options, spatial_dims)
    return ToldPipeline(
        preprocessing, _inferer(options), _postprocessing(preprocessing, activation, values), facts, missing
    )


def _preprocessing(options: PipelineOptions, spatial_dims: int) -> Compose:
    image = "image"
    steps: list[Any] = [LoadImaged(image), EnsureChannelFirstd(image)]
    if options.orientation not in (None, AS_IN_FILE):
        steps.append(Orientationd(image, axcodes=options.orientation, labels=None))
    if options.spacing is not None:
        steps.append(Spacingd(image, pixdim=options.spacing, mode="bilinear"))
    if isinstance(options.window, tuple):
        steps.append(ScaleIntensityRanged(image, *options.window, *options.output_range, clip=True))
    if options.crop_foreground:
        above = functools.partial(operator.lt, options.low)
        steps.append(CropForegroundd(image, source_key=image, select_fn=above, allow_smaller=True))
    if options.whole_size is not None:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[spatial_dims]
        steps.append(Resized(image, spatial_size=options.whole_size, mode=mode))
    return Compose([*steps, EnsureTyped(image)])


def _inferer(options: PipelineOptions) -> SlidingWindowInferer | None:
    if options.roi_size is None:
        return None
    overlap = DEFAULT_OVERLAP if options.overlap is None else options.overlap
    return SlidingWindowInferer(options.roi_size, options.sw_batch_size, overlap, mode=options.blending)


def _postprocessing(preprocessing: Compose, activation: str, values: str) -> Compose:
    steps: list[Any] = []
    if values == "logits":
        # Before the inverse, which fills what was cropped with 0: a probability of 0 is no foreground, a logit of 0 is.
        steps.append(Activationsd("pred", softmax=activation == "softmax", sigmoid=activation == "sigmoid"))
    steps.append(Invertd("pred", preprocessing, "image", nearest_interp=False, to_tensor=True))
    discrete = {"argmax": True} if activation == "softmax" else {"threshold": 0.5}
    return Compose([*steps, AsDiscreted("pred", **discrete)])


def _said(options: PipelineOptions) -> tuple[list[Fact], list[Missing]]:
    facts, missing = [], []

    def say(what: str, option: str, text: str, absent: str) -> None:
        told = getattr(options, option) not in (None, False)
        facts.append(Fact(what, text if told else absent, _flag(option) if told else "default", told))

    if options.window is None:
        why = "a budget in HU, and what the network sees, depend on it"
        missing.append(Missing("intensity window", f"--window LOW HIGH, or --window {NO_WINDOW}", why))
    elif isinstance(options.window, str):
        facts.append(Fact("intensity window", "none: the network takes the values of the file", "--window", True))
    else:
        low, high = options.window
        start, end = options.output_range
        text = f"{low:g}..{high:g} to {start:g}..{end:g}, clipped"
        facts.append(Fact("intensity window", text, "--window", True))
    if options.orientation is None:
        why = "on images that are turned otherwise the network finds little, and says nothing"
        missing.append(Missing("orientation", f"--orientation RAS, or --orientation {AS_IN_FILE}", why))
    else:
        turned = "as in the file" if options.orientation == AS_IN_FILE else f"turned to {options.orientation}"
        facts.append(Fact("orientation", turned, "--orientation", True))
    spacing = "" if options.spacing is None else " x ".join(f"{size:g}" for size in options.spacing)
    say("spacing", "spacing", f"resampled to {spacing} mm", "as in the file")
    say("crop", "crop_foreground", f"to what is above {options.low:g}", "none")
    if options.whole_size is not None:
        text = f"whole image, resized to {_times(options.whole_size)} voxels"
        facts.append(Fact("inferer", text, "--whole-size", True))
    elif options.roi_size is not None:
        windows = f"sliding windows of {_times(options.roi_size)} voxels"
        facts.append(Fact("inferer", windows, "--roi-size", True))
        overlap = DEFAULT_OVERLAP if options.overlap is None else options.overlap
        source = "default" if options.overlap is None else "--overlap"
        text = f"{overlap:g}, {options.blending} weights"
        facts.append(Fact("overlap of windows", text, source, options.overlap is not None))
    else:
        why = "the network's answer depends on what it sees at once"
        missing.append(Missing("input size", "--roi-size X Y Z, or --whole-size X Y Z", why))
    return facts, missing


_CHOICES = {
    "blending": ("constant", "gaussian"),
    "activation": ("softmax", "sigmoid"),
    "output_values": ("logits", "probabilities"),
}


def _set(options: PipelineOptions, name: str, value: Any) -> None:
    object.__setattr__(options, name, value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) < float("inf")


def _listed(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _pair(name: str, value: Any, expected: str) -> tuple[float, float] | None:
    if value is None and name == "window":
        return None
    pair = _listed(value)
    if pair is None or len(pair) != 2 or not all(map(_is_number, pair)) or not pair[0] < pair[1]:
        raise TargetError(f"{name} must be {expected} with low < high, got {value!r}.")
    return float(pair[0]), float(pair[1])


def _sizes(name: str, value: Any, whole: bool) -> tuple[Any, ...] | None:
    if value is None:
        return None
    sizes = _listed(value)

    def right(size: Any) -> bool:
        return _is_number(size) and size > 0 and (not whole or size == int(size))

    if sizes is None or not 1 <= len(sizes) <= 3 or not all(map(right, sizes)):
        unit = "whole numbers of voxels" if whole else "lengths in mm"
        raise TargetError(f"{name} must be 1 to 3 {unit} above 0, one for each axis, got {value!r}.")
    return tuple(int(size) if whole else float(size) for size in sizes)


def _check_orientation(codes: Any) -> None:
    pairs = ("LR", "PA", "IS")
    right = codes is None or (
        isinstance(codes, str)
        and 1 <= len(codes) <= 3
        and all(sum(code in pair for code in codes) <= 1 for pair in pairs)
        and all(code in "".join(pairs) for code in codes)
    )
    if not right:
        raise TargetError(f"orientation must be axis codes such as 'RAS', each axis once, got {codes!r}.")


def _names(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = _listed(value)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise TargetError(f"class_names must be different names, one for each output channel, got {value!r}.")
    return tuple(names)
