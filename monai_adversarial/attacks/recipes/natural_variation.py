# SPDX-License-Identifier: Apache-2.0
"""What scanners, protocols and patients do to images, by name and severity, as worst-of-N attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandGibbsNoise,
    RandScaleIntensity,
    RandShiftIntensity,
    RandSimulateLowResolution,
    ShiftIntensity,
)

from monai_adversarial.attacks.perturbations import AffineTransform, Chain, RandomTransform
from monai_adversarial.attacks.recipes.worst_of import WorstOf
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["NATURAL_VARIATIONS", "natural_variation", "scan_rescan"]

MODALITIES = ("CT", "MRI")
SEVERITIES = 5
# HU of air below those of water: attenuation in units of 1/1000 of water's is HU + 1000.
AIR_TO_WATER = 1000.0

Made = tuple[Any, str | None]


def _torchio() -> Any:
    try:
        import torchio
    except ImportError:
        raise ImportError(
            "motion, ghosting and spikes are transforms of TorchIO, which is not installed: "
            'pip install "monai-adversarial[torchio]".'
        ) from None
    return torchio


def _noise(level: int, modality: str) -> Made:
    if modality == "CT":
        return RandGaussianNoise(prob=1.0, std=(10, 20, 30, 45, 60)[level], sample_std=False), "HU"
    return RandGaussianNoise(prob=1.0, std=(0.02, 0.04, 0.06, 0.1, 0.15)[level], sample_std=False), "percentile"


def _blur(level: int, modality: str) -> Made:
    sigma = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.5), (1.5, 2.0))[level]
    return RandGaussianSmooth(sigma, sigma, sigma, prob=1.0), "HU" if modality == "CT" else "percentile"


def _contrast(level: int, modality: str) -> Made:
    largest = (1.1, 1.2, 1.35, 1.5, 2.0)[level]
    return RandAdjustContrast(1.0, gamma=(1 / largest, largest)), "network" if modality == "CT" else "percentile"


def _gibbs(level: int, modality: str) -> Made:
    return RandGibbsNoise(1.0, alpha=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8))[level]), "percentile"


def _spikes(level: int, modality: str) -> Made:
    intensity = ((0.05, 0.1), (0.1, 0.2), (0.2, 0.35), (0.35, 0.6), (0.6, 1.0))[level]
    return _torchio().RandomSpike(num_spikes=(1, 1), intensity=intensity), "percentile"


def _ghosting(level: int, modality: str) -> Made:
    intensity = ((0.1, 0.2), (0.2, 0.35), (0.35, 0.5), (0.5, 0.75), (0.75, 1.0))[level]
    return _torchio().RandomGhosting(num_ghosts=(2, 6), intensity=intensity), "percentile"


def _motion(level: int, modality: str) -> Made:
    amount = (1.0, 2.0, 4.0, 7.0, 10.0)[level]
    return _torchio().RandomMotion(degrees=amount, translation=amount, num_transforms=2), "percentile"


def _low_resolution(level: int, modality: str) -> Made:
    zoom = ((0.8, 0.9), (0.65, 0.8), (0.5, 0.65), (0.35, 0.5), (0.25, 0.35))[level]
    # Mean values of thick voxels: MONAI's default, nearest, moves the image by up to half a thick voxel.
    made = RandSimulateLowResolution(1.0, downsample_mode="area", zoom_range=zoom)
    return made, "HU" if modality == "CT" else "percentile"


def _affine(level: int, modality: str) -> Made:
    amount = (2.0, 5.0, 10.0, 15.0, 20.0)[level]
    return AffineTransform(max_rotation=amount, max_translation=amount, max_scale=amount / 100), None


def _bias_field(level: int, modality: str) -> Made:
    if modality == "MRI":
        largest = (0.05, 0.1, 0.15, 0.2, 0.3)[level]
        return RandBiasField(degree=3, coeff_range=(-largest, largest), prob=1.0), "percentile"
    largest = (0.005, 0.01, 0.02, 0.03, 0.05)[level]
    field = RandBiasField(degree=3, coeff_range=(-largest, largest), prob=1.0)
    return Compose([ShiftIntensity(AIR_TO_WATER), field, ShiftIntensity(-AIR_TO_WATER)]), "HU"


def _window(level: int, modality: str) -> Made:
    if modality != "CT":
        raise ValueError("name='window' is a variation of CT, whose values are HU: MRI has name='contrast'.")
    shift, scale = (10.0, 20.0, 30.0, 45.0, 60.0)[level], (0.02, 0.05, 0.08, 0.12, 0.16)[level]
    moved = RandShiftIntensity(offsets=(-shift, shift), prob=1.0)
    return Compose([RandScaleIntensity(factors=(-scale, scale), prob=1.0), moved]), "HU"


#: name of a variation -> what makes its transform and the units that it sees
NATURAL_VARIATIONS: dict[str, Callable[[int, str], Made]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "gibbs": _gibbs,
    "spikes": _spikes,
    "ghosting": _ghosting,
    "motion": _motion,
    "low_resolution": _low_resolution,
    "affine": _affine,
    "bias_field": _bias_field,
    "window": _window,
}


def natural_variation(name: str, severity: int = 3, modality: str = "CT", draws: int = 16, **options: Any) -> WorstOf:
    """The worst of some draws of a named variation, at one of five severities.

    ==================  ================================================  ======================================
    name                transform                                         severities 1 to 5
    ==================  ================================================  ======================================
    ``noise``           ``RandGaussianNoise``, standard deviation         CT 10, 20, 30, 45, 60 HU; MRI 0.02, 0.04,
                                                                          0.06, 0.1, 0.15 of the image's range
    ``blur``            ``RandGaussianSmooth``, sigma in voxels           0.25-0.5, -0.75, -1, -1.5, -2
    ``contrast``        ``RandAdjustContrast``, gamma 1/g to g            g = 1.1, 1.2, 1.35, 1.5, 2
    ``gibbs``           ``RandGibbsNoise``, alpha                         0.3-0.4, -0.5, -0.6, -0.7, -0.8
    ``spikes``          TorchIO ``RandomSpike``, one spike, share of the  0.05-0.1, -0.2, -0.35, -0.6, -1
                        spectrum's maximum
    ``ghosting``        TorchIO ``RandomGhosting``, 2 to 6 ghosts,        0.1-0.2, -0.35, -0.5, -0.75, -1
                        intensity
    ``motion``          TorchIO ``RandomMotion``, two movements           1, 2, 4, 7, 10 degrees and mm
    ``low_resolution``  ``RandSimulateLowResolution``, share of the       0.9-0.8, -0.65, -0.5, -0.35, -0.25
                        voxels along each axis
    ``affine``          :class:`~monai_adversarial.attacks.               2, 5, 10, 15, 20 degrees, mm and percent
                        AffineTransform`, rigid and scale
    ``bias_field``      ``RandBiasField`` of degree 3, coefficients       MRI 0.05, 0.1, 0.15, 0.2, 0.3; CT 0.005,
                        within +-c, of the attenuation (HU + 1000) in CT  0.01, 0.02, 0.03, 0.05
    ``window``          CT alone: ``RandShiftIntensity`` and              10, 20, 30, 45, 60 HU and 2, 5, 8, 12,
                        ``RandScaleIntensity`` of HU, as a window of      16 %
                        another level and width
    ==================  ================================================  ======================================

    In CT transforms see HU, gamma the network's values, for which the map must be known. In MRI, and for artifacts of
    the k-space in both, 0 and 1 are each image's own 1st and 99th percentile. Gibbs, spikes, ghosting, motion and bias
    fields come from MRI scanners; on CT they are stress tests. The severities are a reconstruction: from hardly visible
    to what a reader would reject. ``affine`` is in mm and degrees, which MONAI's ``RandAffine``, in voxels, is not.

    >>> from monai_adversarial.attacks import natural_variation
    >>> from monai_adversarial.data.example import example_case
    >>> case = example_case(16)
    >>> mild, severe = (natural_variation("noise", level, draws=3)(*case) for level in (1, 5))
    >>> bool(severe.worst_dice < mild.worst_dice)
    True

    Args:
        name: one of the table.
        severity: 1 to 5.
        modality: ``"CT"`` or ``"MRI"``.
        draws: number of draws.
        options: further arguments of :class:`~monai_adversarial.attacks.WorstOf`.

    Raises:
        ValueError: for an unknown name, severity or modality.
        ImportError: for motion, ghosting and spikes without TorchIO.

    Source: Boone et al., "ROOD-MRI: benchmarking the robustness of deep learning segmentation models to out-of-
    distribution and corrupted data in MRI", 2023, for the idea of five severities; ranges and severities are our own.

    Survey entry: X21 (adapted).
    """
    check_choice("name", name, tuple(NATURAL_VARIATIONS))
    check_choice("modality", modality, MODALITIES)
    if check_count("severity", severity) > SEVERITIES:
        raise ValueError(f"severity must be 1 to {SEVERITIES}, got {severity}.")
    transform, units = NATURAL_VARIATIONS[name](severity - 1, modality)
    return WorstOf(transform, draws, units=units, **options)


def scan_rescan(
    max_rotation: float = 2.0,
    max_translation: float = 2.0,
    noise: float = 10.0,
    units: str = "HU",
    draws: int = 16,
    **options: Any,
) -> WorstOf:
    """Repeatability as in a scan and a second one some minutes later: the patient lies a little differently, and the
    noise is another one.

    Each draw is a rotation about each axis, a translation along each axis, and Gaussian noise, on the moved anatomy.
    ``result.volume_variation`` is the coefficient of variation of each organ's predicted volume over the draws,
    ``result.draw_dice`` the agreement with the label that moved along; without a label, with the moved prediction of
    the first scan. It is a simulation on one scan (a reconstruction), no replacement for a test-retest study.

    >>> from monai_adversarial.attacks import scan_rescan
    >>> from monai_adversarial.data.example import example_case
    >>> result = scan_rescan(noise=5, draws=3)(*example_case(16))
    >>> result.volume_variation.shape, bool((result.volume_variation < 1).all())
    (torch.Size([1, 4]), True)

    Args:
        max_rotation: degrees.
        max_translation: mm.
        noise: standard deviation in ``units``.
        units: ``"HU"``, ``"network"`` or, for MRI, ``"percentile"``: share of the image's range.
        draws: number of draws.
        options: further arguments of :class:`~monai_adversarial.attacks.WorstOf`.
    """
    check_positive("noise", noise, allow_zero=True)
    motion = AffineTransform(max_rotation, max_translation, max_scale=0.0)
    another = RandomTransform(RandGaussianNoise(prob=1.0, std=noise, sample_std=False), units)
    return WorstOf(Chain([motion, another]), draws, **options)
