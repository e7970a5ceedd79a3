# SPDX-License-Identifier: Apache-2.0
"""The networks of docs/detector_table.md, each with clean cases to fit, to calibrate and to hold out, and with scanners
that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch.nn import functional

from benchmarks.classifier_objectives import chest_xrays, trained
from benchmarks.hippocampus_networks import hippocampus_volumes, trained_unet
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import APGD, FGSM, PGD, Attack, BiasFieldAttack, ElasticAttack, SquareAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import BitDepthReduction, MedianDenoise, Purifier

__all__ = ["SUBJECTS", "Subject", "attacks_on", "kept"]

Change = Callable[[torch.Tensor], torch.Tensor]
#: of noise and gains that stand for another scanner; the same for every detector
SEED = 0
#: images that are scaled from 0 to 1 already
UNIT: dict[str, Any] = {"intensity": {"a_min": 0.0, "a_max": 1.0}, "image_units": "network"}
PHANTOM_SPACING = (4.0, 4.0, 5.0)


@dataclass(frozen=True)
class Subject:
    """A network, and clean cases that no one of its other uses has seen.

    Args:
        model: what is protected; images are in its units, here always about 0 to 1.
        fit, calibrate, held_out: clean batches of different cases.
        attacked: held-out cases with their label, one batch.
        shifted: what stands for another scanner -> its batches.
        attacks: name -> attack.
        purifiers: of feature squeezing.
        rate: share of clean cases that may be rejected.
        weights: of the detector in the attacker's objective.
        attackers: who know the detector; see ``evaluate_detector``.
    """

    model: AttackedModel
    fit: list[torch.Tensor]
    calibrate: list[torch.Tensor]
    held_out: list[torch.Tensor]
    attacked: tuple[torch.Tensor, torch.Tensor]
    shifted: dict[str, list[torch.Tensor]]
    attacks: dict[str, Attack]
    purifiers: tuple[Purifier, ...] = field(
        default=(
            BitDepthReduction(16.0, intensity={"a_min": 0.0, "a_max": 255.0}),
            MedianDenoise(3),
        )
    )
    rate: float = 0.05
    weights: tuple[float, ...] = (2.0, 10.0)
    attackers: tuple[str, ...] = ("evading",)


def attacks_on(epsilon: float, steps: int, queries: int, millimeters: float) -> dict[str, Attack]:
    """The attacks of the table.

    Args:
        epsilon: L-infinity, in network values.
        steps: gradients.
        queries: of the black box.
        millimeters: largest displacement; a voxel without spacing is 1 mm wide.
    """
    return {
        "FGSM": FGSM(epsilon),
        "PGD": PGD(epsilon, steps=steps),
        "Auto-PGD": APGD(epsilon, steps=steps),
        "bias field": BiasFieldAttack(0.3, steps=steps),
        "elastic": ElasticAttack(millimeters, control_spacing=8.0, steps=steps),
        "black box": SquareAttack(epsilon, queries=queries),
    }


def noisy(amount: float) -> Change:
    """More noise, of this standard deviation."""

    def change(image: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return (image + amount * torch.randn(image.shape, generator=generator)).clamp(0, 1)

    return change


def coarser(image: torch.Tensor) -> torch.Tensor:
    """Three quarters of the resolution, on the same grid."""
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    small = functional.interpolate(image, scale_factor=0.75, mode=mode, align_corners=False)
    return functional.interpolate(small, size=image.shape[2:], mode=mode, align_corners=False)


def other_contrast(image: torch.Tensor) -> torch.Tensor:
    """Another curve between dose and gray value: exponent 0.8."""
    return image.clamp(0, 1).pow(0.8)


def shaded(image: torch.Tensor) -> torch.Tensor:
    """A coil's gain that falls by a third along the first axis."""
    shape = [1, 1, image.shape[2], *[1] * (image.ndim - 3)]
    return (image * torch.linspace(1.15, 0.85, image.shape[2]).view(shape)).clamp(0, 1)


def _with_spacing(image: torch.Tensor, spacing: Sequence[float]) -> MetaTensor:
    """Deformations are in mm."""
    return MetaTensor(image, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))


def _changed(batches: list[torch.Tensor], changes: dict[str, Change]) -> dict[str, list[torch.Tensor]]:
    return {name: [change(batch) for batch in batches] for name, change in changes.items()}


def kept(file: Path, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A trained network, from its file where it was trained before."""
    if file.is_file():
        return torch.load(file, weights_only=False).eval()
    made = make().eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, file)
    return made


def chest_xray(data: Path, cache: Path) -> Subject:
    """A small DenseNet on 2400 of 3882 chest X-rays; the official test set is the other scanner."""
    images, labels, test, _ = chest_xrays(data)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    train, fit, calibrate, held_out = order.split([2400, 400, 400, len(order) - 3200])
    network = kept(
        cache / "chest_xray.pt",
        lambda: trained((images[train], labels[train], images[held_out], labels[held_out]), 4)[0],
    )
    batches = list(images[held_out].split(128))
    return Subject(
        AttackedModel(network, task="classification", **UNIT),
        list(images[fit].split(100)),
        list(images[calibrate].split(100)),
        batches,
        (_with_spacing(images[held_out][:64], (1.0, 1.0)), labels[held_out][:64]),
        _changed(batches, {"noise of 2 %": noisy(0.02), "coarser pixels": coarser, "exponent 0.8": other_contrast})
        | {"the official test set": list(test.split(128))},
        attacks_on(4 / 255, steps=8, queries=60, millimeters=1.5),
        weights=(0.3, 2.0, 10.0),
        attackers=("evading", "hiding", "orthogonal"),
    )


def hippocampus(data: Path, cache: Path) -> Subject:
    """A small U-Net on 80 of 201 real MRI; the others are fitted to, calibrated on and held out."""
    images, labels = hippocampus_volumes(data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    train, fit, calibrate, held_out = order.split([80, 40, 40, len(order) - 160])
    network = kept(cache / "hippocampus.pt", lambda: trained_unet(images[train], labels[train]))
    batches = list(images[held_out].split(8))
    return Subject(
        AttackedModel(network, **UNIT),
        list(images[fit].split(8)),
        list(images[calibrate].split(8)),
        batches,
        (_with_spacing(images[held_out][:6], (1.0, 1.0, 1.0)), labels[held_out][:6]),
        _changed(batches, {"noise of 2 %": noisy(0.02), "coarser voxels": coarser, "coil's shading": shaded}),
        attacks_on(0.04, steps=5, queries=20, millimeters=3.0),
        weights=(10.0,),
        attackers=("evading", "hiding", "orthogonal"),
    )


def phantom(data: Path, cache: Path) -> Subject:
    """The CT bundle's U-Net on small phantoms."""
    from monai.transforms import Compose, Orientationd, ScaleIntensityRanged

    from monai_adversarial.data import CTPhantomDataset

    keys = ("image", "label")
    turn = Compose([Orientationd(keys, axcodes="RAS", labels=None), ScaleIntensityRanged("image", **WINDOW)])
    count = {"fit": 24, "calibrate": 19, "held out": 20}
    cases = CTPhantomDataset(
        sum(count.values()), seed=7000, transform=turn, size=(48, 48, 32), spacing=PHANTOM_SPACING, oblique=False
    )
    items = [cases[number] for number in range(sum(count.values()))]
    images = torch.stack([item["image"].as_tensor() for item in items])
    labels = torch.stack([item["label"].as_tensor().long() for item in items])
    fit, calibrate, held_out = images.split(list(count.values()))
    batches = list(held_out.split(4))
    epsilon = 8 / (WINDOW["a_max"] - WINDOW["a_min"])
    return Subject(
        AttackedModel(bundle_network("cpu"), intensity=WINDOW, image_units="network"),
        list(fit.split(4)),
        list(calibrate.split(4)),
        batches,
        (_with_spacing(held_out[:4], PHANTOM_SPACING), labels[-count["held out"] :][:4]),
        _changed(batches, {"noise of 10 HU": noisy(10 / 400), "softer kernel": coarser}),
        attacks_on(epsilon, steps=3, queries=10, millimeters=5.0),
    )


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "chest X-ray classifier": chest_xray,
    "hippocampus U-Net, real MRI": hippocampus,
    "CT phantom, U-Net": phantom,
}
