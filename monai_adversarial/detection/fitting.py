# SPDX-License-Identifier: Apache-2.0
"""Fit and calibrate a detector on the cases of one loader, without using any of them twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from scipy.stats import betabinom

from monai_adversarial.detection.base import Detector
from monai_adversarial.utils.validation import check_count, check_fraction, check_instance

__all__ = ["UNLIKELY", "chance_of_rejecting", "fit_and_calibrate", "least_calibration_cases"]

D = TypeVar("D", bound=Detector)
#: probability below which more rejected clean images than asked for are no chance
UNLIKELY = 0.05


def least_calibration_cases(false_positive_rate: float) -> int:
    """The fewest clean cases from which a rate of rejected ones can be promised.

    >>> from monai_adversarial.detection import least_calibration_cases
    >>> least_calibration_cases(0.05)
    19
    """
    return math.ceil(1 / check_fraction("false_positive_rate", false_positive_rate) - 1 - 1e-9)


def chance_of_rejecting(rejected: int, cases: int, calibration_cases: int, false_positive_rate: float) -> float:
    """Probability that a detector rejects so many clean images, or more, although they are like those of its
    calibration. The rate of a conformal threshold follows a beta distribution over the calibrations.

    >>> from monai_adversarial.detection import chance_of_rejecting
    >>> round(chance_of_rejecting(1, 20, 19, 0.05), 2), round(chance_of_rejecting(10, 20, 19, 0.05), 5)
    (0.51, 0.00029)

    Args:
        rejected: clean images above the threshold.
        cases: clean images in all.
        calibration_cases: on which the threshold was chosen.
        false_positive_rate: that was asked for.
    """
    below = min(calibration_cases, math.ceil((1 - false_positive_rate) * (calibration_cases + 1) - 1e-9))
    return float(betabinom(cases, calibration_cases + 1 - below, below).sf(rejected - 1))


def fit_and_calibrate(
    detector: D,
    cases: Iterable[Any],
    fit_cases: int = 12,
    calibration_cases: int | None = None,
    false_positive_rate: float = 0.05,
    image_key: str = "image",
) -> D:
    """Fit a detector to the first clean cases, calibrate it on the next ones.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import GaussianDensity, fit_and_calibrate
    >>> cases = ({"image": example_case(16, seed)[1]} for seed in range(12))
    >>> fit_and_calibrate(GaussianDensity(example_case()[0]), cases, 8, false_positive_rate=0.2).false_positive_rate
    0.2

    Args:
        detector: that is fitted, and handed back.
        cases: batches of one image each (1, channel, spatial...) in the units of the detector's model, or mappings that
            hold them, such as a loader of MONAI gives.
        fit_cases: number of cases to fit to.
        calibration_cases: number of cases after them; None for the fewest that the rate allows.
        false_positive_rate: share of clean cases that may be rejected.
        image_key: of the image in a mapping.

    Raises:
        TypeError: for something else than a detector.
        ValueError: for too few cases, and as ``fit`` and ``calibrate``.
    """
    check_instance("detector", detector, Detector, "GaussianDensity(model)")
    fitted_on = check_count("fit_cases", fit_cases)
    least = least_calibration_cases(false_positive_rate)
    wanted = least if calibration_cases is None else check_count("calibration_cases", calibration_cases)
    if wanted < least:
        raise ValueError(
            f"calibration_cases must be at least {least} for false_positive_rate={false_positive_rate:g}, got {wanted}."
        )
    images = _images(cases, image_key)

    def part(before: int, number: int) -> Iterator[torch.Tensor]:
        """One image after the other, in the memory of one."""
        found = before
        for image in islice(images, number):
            found += 1
            yield image
        if found < before + number:
            raise ValueError(
                f"cases must hold {fitted_on} clean cases to fit to and {wanted} others to calibrate on, got {found}."
            )

    detector.fit(part(0, fitted_on))
    detector.calibrate(part(fitted_on, wanted), false_positive_rate)
    return detector


def _images(cases: Iterable[Any], key: str) -> Iterator[torch.Tensor]:
    for case in cases:
        if isinstance(case, Mapping):
            if key not in case:
                raise ValueError(f"cases must hold the key {key!r}, got {', '.join(map(str, case))}.")
            case = case[key]
        yield case
