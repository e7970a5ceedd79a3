# SPDX-License-Identifier: Apache-2.0
"""Whether a batch, its intensity map and a budget can belong together.

A map that did not make the image freezes its voxels, and a budget in the wrong units drowns it or does nothing: all of
that would pass for a result. What cannot be is an error in scripts and in evaluation; what is unlikely is a warning. In
training, where one odd batch must not end a run, both are a warning, once for each network.

Values show only so much. A batch in a network's values looks the same under every window that ends at the same values,
so a wrong ``a_min`` or ``a_max`` is found by comparison with the pipeline (``models.check_agrees``). Without one it
shows where the image was not resampled: a CT file holds whole HU, which by a window that is too wide lie too far apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise, BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.search import Search, SteepestAscent
from monai_adversarial.models.doubts import doubt, warn_once
from monai_adversarial.utils.intensity_map import MOST_OUTSIDE
from monai_adversarial.utils.scene import Scene

__all__ = ["check_reach", "check_scale"]

#: largest value of an image that is taken to be scaled already, in HU
SCALED = 10.0
#: share of the map's range below which the range of an image was made by another map
LEAST_RANGE = 0.01
#: share of voxels that can change, or that the network's window shows, below which there is a warning
LEAST_CHANGEABLE = 0.05
#: share of the image's range below which a budget does next to nothing
LEAST_BUDGET = 1e-4
#: HU below which the file of a CT, which holds whole HU, keeps nothing of a change
LEAST_HU = 0.5
#: share of the budget's radius that all steps together must reach
LEAST_WAY = 0.99
#: share of the smallest voxel below which a displacement does next to nothing
LEAST_DISPLACEMENT = 0.1
#: gain above which a percentage was probably meant
LARGEST_GAIN = 1.0
#: HU between the gray values of a CT above which they are not those of its file
GRAY_STEP = 1.05
#: voxels that are looked at for it, different values they must have at least, and how evenly these must lie
GRAY_VOXELS, LEAST_GRAYS, EVENLY = 1 << 15, 16, 0.05
#: share of voxels at the lowest (highest) value of an image that looks like clipping, and how far inside the window
PILE, INSIDE = 0.05, 0.05


def check_scale(
    scene: Scene, perturbation: Perturbation, training: bool, network: Any, map_was_read: bool = False
) -> None:
    """Say what does not fit.

    Args:
        scene: the clean batch.
        perturbation: what is about to change it.
        training: warn instead of raising.
        network: what is attacked; training says each kind of doubt once for it.
        map_was_read: the intensity map is that of a live pipeline, which is compared elsewhere.

    Raises:
        ValueError: in scripts, for what cannot be.
    """
    for kind, impossible, sentence in _doubts(scene, perturbation):
        if impossible:
            doubt(network, kind, sentence, training)
        elif training:
            warn_once(network, kind, sentence)
        else:
            warnings.warn(sentence, stacklevel=4)
    if not training and not map_was_read and getattr(perturbation, "units", None) == "HU":
        _say_gray_step(scene)


def _say_gray_step(scene: Scene) -> None:
    """Warn where the map that was told makes steps of several HU of the steps of one that a CT file has."""
    intensity = scene.intensity
    if intensity is None or scene.image_units != "network" or not intensity.is_uniform:
        return
    step = _gray_step(scene.image) / float(intensity.size)
    if step > GRAY_STEP:
        warnings.warn(
            f"by the intensity map ({intensity}) the image's gray values lie {step:.3g} HU apart, and those of a CT "
            "file lie 1 HU apart: where the image comes from one, its window was narrower by that factor, and a budget "
            "in HU is too small by it; check a_min and a_max.",
            stacklevel=5,
        )


def _gray_step(image: torch.Tensor) -> float:
    """The distance of an image's gray values where they lie evenly; 0 where they do not, as after a resampling."""
    flat = image.detach().flatten()
    flat = flat[:: max(1, flat.numel() // GRAY_VOXELS)].cpu().double()
    inside = flat[(flat > flat.min()) & (flat < flat.max())].unique()
    steps = inside.diff()
    # Rounding in float32 makes two neighbors of one value.
    steps = steps[steps > 1e-6 * (inside[-1] - inside[0])] if len(inside) > LEAST_GRAYS else steps[:0]
    if len(steps) < LEAST_GRAYS:
        return 0.0
    counts = steps / steps.min()
    return float(steps.min()) if bool(((counts - counts.round()).abs() <= EVENLY).all()) else 0.0


def check_reach(perturbation: Perturbation, search: Search, steps: int) -> None:
    """Warn of steps that end before the edge of the budget: what lies behind them was not attacked.

    Args:
        perturbation: what changes the image.
        search: how it moves.
        steps: how often.
    """
    if not isinstance(perturbation, AdditiveNoise) or not isinstance(search, SteepestAscent):
        return
    way = sum(search.step_at(step, steps) for step in range(steps))
    if way < LEAST_WAY and 0 < perturbation.epsilon < math.inf:
        warnings.warn(
            f"{steps} steps of this size go {way:.2g} of the budget's radius together, and never reach its edge: what "
            "the attack leaves is not what the budget allows; pass more steps, or step_size=None.",
            stacklevel=4,
        )


def _doubts(scene: Scene, perturbation: Perturbation) -> Iterator[tuple[str, bool, str]]:
    """Kind, whether it cannot be, and the sentence."""
    if scene.image.numel() == 0:
        return
    yield from _doubts_of_map(scene)
    if isinstance(perturbation, AdditiveNoise) and 0 < perturbation.epsilon < math.inf:
        yield from _doubts_of_budget(scene, perturbation)
    for part in getattr(perturbation, "perturbations", (perturbation,)):
        yield from _doubts_of_size(scene, part)


def _doubts_of_map(scene: Scene) -> Iterator[tuple[str, bool, str]]:
    clean, intensity = scene.image, scene.intensity
    lowest, highest = float(clean.min()), float(clean.max())
    values = f"{lowest:.3g} to {highest:.3g}"
    if scene.image_units == "HU":
        # A constant image, such as a crop of padding, says nothing about its units.
        if max(abs(lowest), abs(highest)) <= SCALED and lowest < highest:
            yield (
                "scaled",
                True,
                f"image_units is 'HU' but the image's values lie within {values}: it looks already scaled; give the "
                "AttackedModel intensity= (the map that scaled it) and image_units='network'.",
            )
        elif intensity is not None and intensity.window is not None:
            low, high = (intensity.like(edge, clean) for edge in intensity.window)
            seen = float(((clean > low) & (clean < high)).float().mean())
            if seen < LEAST_CHANGEABLE:
                yield (
                    "window",
                    seen == 0,
                    f"{seen:.1%} of the image's voxels ({values} HU) lie within the window of the intensity map "
                    f"({intensity}): the network sees next to nothing of a change; check the map and the units.",
                )
        return
    if intensity is None or intensity.low is None or intensity.high is None:
        return
    outside = intensity.fraction_outside(clean)
    ends = f"{_text(intensity.low)} to {_text(intensity.high)}"
    if outside > MOST_OUTSIDE:
        raw = max(abs(lowest), abs(highest)) > SCALED
        yield (
            "outside",
            True,
            f"intensity maps to {ends}, but {outside:.0%} of the image's voxels lie far outside ({values}): "
            + ("if the image is in HU, pass image_units='HU'; else " if raw else "")
            + "it is not the map that scaled this image, or an augmentation came after it.",
        )
        return
    if not intensity.is_uniform:
        return
    low, high = float(intensity.low), float(intensity.high)
    span = high - low
    if 0 < highest - lowest < LEAST_RANGE * span:
        yield (
            "range",
            True,
            f"intensity maps to {ends}, but the image spans {values} only, {(highest - lowest) / span:.2%} of that: it "
            "is not the map that scaled this image.",
        )
        return
    for edge, value, gap in (("low", lowest, lowest - low), ("high", highest, high - highest)):
        piled = float((clean == value).float().mean())
        if gap > INSIDE * span and piled >= PILE and highest > lowest:
            yield (
                f"pile {edge}",
                False,
                f"{piled:.0%} of the image's voxels lie at its {edge}est value {value:.3g}, as if it were clipped "
                f"there, but intensity clips at {ends}: check that it is the map that scaled this image.",
            )


def _doubts_of_budget(scene: Scene, noise: AdditiveNoise) -> Iterator[tuple[str, bool, str]]:
    bound = noise.bind(scene)
    assert isinstance(bound, BoundAdditiveNoise)
    amount = f"epsilon is {noise.epsilon:g} {_named(noise.units)}"
    if noise.units == "network" and scene.image_units == "HU" and isinstance(bound.epsilon, float):
        amount += f" ({bound.epsilon:.6g} HU)"
    if noise.norm in ("linf", "rms"):
        flat = scene.image.flatten(2)
        span = flat.amax(dim=2) - flat.amin(dim=2)
        radius = torch.as_tensor(bound.epsilon).to(span).flatten(1) if isinstance(bound.epsilon, torch.Tensor) else None
        shares = ((bound.epsilon if radius is None else radius) / span)[span > 0]
        if len(shares) and float(shares.min()) > 1:
            advice = "pass units='HU' and intensity= if it is meant in HU"
            yield (
                "large",
                False,
                f"{amount}, more than the whole range of the image ({float(span.max()):.3g}): "
                f"{advice if noise.units == 'network' else 'check units and intensity'}.",
            )
        elif len(shares) and float(shares.max()) < LEAST_BUDGET:
            yield (
                "small",
                False,
                f"{amount}, {float(shares.max()):.1g} of the range of the image ({float(span.max()):.3g}), which does "
                "next to nothing: check units and intensity.",
            )
        elif noise.units == "HU" and noise.norm == "linf" and noise.epsilon < LEAST_HU:
            yield (
                "small",
                False,
                f"{amount}, below the half HU that a file of whole HU rounds away, and far below the noise of a scan: "
                "what the attack leaves is no robustness; pass units='network' or 'fraction' if it is meant so.",
            )
    changeable = bound.changeable
    share = float(changeable.mean())
    if share < LEAST_CHANGEABLE:
        yield (
            "changeable",
            float(changeable.max()) == 0,
            f"{share:.1%} of the voxels can change: "
            + (
                "the others mark what lies outside the field of view (-1500 HU and below)."
                if scene.image_units == "HU"
                else "the others are clipped by the intensity map or held by the pipeline; check that the map is the "
                "one that scaled this image."
            ),
        )


def _doubts_of_size(scene: Scene, perturbation: Perturbation) -> Iterator[tuple[str, bool, str]]:
    """A displacement or a gain in other units than mm and shares of one."""
    gain = getattr(perturbation, "max_gain", None)
    if isinstance(gain, float) and gain > LARGEST_GAIN:
        yield (
            "gain",
            False,
            f"max_gain is {gain:g}, a gain of {100 * gain:g} %: give {gain / 100:g} if {gain:g} % is meant.",
        )
    most = getattr(perturbation, "max_displacement", None)
    if most is None or scene.spacing is None or not bool(torch.isfinite(scene.spacing).all()):
        return
    length, voxel = float(torch.as_tensor(most).max()), float(scene.spacing.min())
    if 0 < length < LEAST_DISPLACEMENT * voxel:
        yield (
            "displacement",
            False,
            f"max_displacement is {length:g} mm, {length / voxel:.2g} of a voxel of {voxel:g} mm, which does next to "
            "nothing: it is a length in mm, not a share of the image.",
        )


def _named(units: str) -> str:
    return {
        "HU": "HU",
        "network": "in the network's units",
        "fraction": "of the intensity window",
        "percentile": "of the image's range",
    }[units]


def _text(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{value:g}"
    ends = sorted({float(value.min()), float(value.max())})
    return " or ".join(f"{one:g}" for one in ends)
