# SPDX-License-Identifier: Apache-2.0
"""The networks of docs/detector_table.md, each with clean cases to fit, to calibrate and to hold out, and with scanners
that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged, Spacingd
from torch.nn import functional

from benchmarks.classifier_objectives import chest_xrays, trained
from benchmarks.hippocampus_networks import hippocampus_volumes, small_unet, trained_unet
from benchmarks.strength import BUNDLE, WINDOW, bundle_network
from monai_adversarial.attacks import APGD, FGSM, PGD, Attack, BiasFieldAttack, ElasticAttack, SquareAttack
from monai_adversarial.data import CTPhantomDataset
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.denoising_unet import DenoisingUNet
from monai_adversarial.transforms import AutoencoderDenoise, BitDepthReduction, MedianDenoise, Purifier
from monai_adversarial.utils.hashing import weights_hash
from monai_adversarial.utils.plain import as_plain

__all__ = ["BUDGETS", "LONG", "MRI", "SUBJECTS", "Budget", "Effort", "Subject", "kept", "without_repetitions"]

Change = Callable[[torch.Tensor], torch.Tensor]
#: of noise and gains that stand for another scanner; the same for every detector
SEED = 0
#: images that are scaled from 0 to 1 already
UNIT: dict[str, Any] = {"intensity": {"a_min": 0.0, "a_max": 1.0}, "image_units": "network"}
GRAY_VALUES: dict[str, Any] = {"a_min": 0.0, "a_max": 255.0}
#: the attack that follows where a detector stands against Auto-PGD
LONG = "Auto-PGD, long"
#: of the CT bundle, of which a small part of the body is generated
PHANTOM_SPACING, PHANTOM_SIZE, PHANTOM_SEED = (3.2, 3.2, 4.0), (48, 48, 48), 7000
#: what is looked at of a phantom: 102 x 102 x 192 mm in the middle of the body, where all organs are
MIDDLE = (..., slice(8, 40), slice(8, 40), slice(None))


@dataclass(frozen=True)
class Effort:
    """How hard the attackers who know a detector try.

    Args:
        weights: of the detector in their objective.
        attackers: who they are; see ``evaluate_detector``.
    """

    weights: tuple[float, ...]
    attackers: tuple[str, ...]

    def of(self, tried: Sequence[str]) -> Effort:
        """With those alone who took part: queries follow no gradient, and a classifier has no anatomy to misplace."""
        names = {name.partition(",")[0] for name in tried}
        return replace(self, attackers=tuple(one for one in self.attackers if one in names))

    def __str__(self) -> str:
        """Both, for a CSV file."""
        return f"{' '.join(self.attackers)}, weight {' '.join(f'{weight:g}' for weight in self.weights)}"


@dataclass(frozen=True)
class Subject:
    """A network, and clean cases that no one of its other uses has seen.

    Args:
        model: what is protected; images are in its units, here always about 0 to 1.
        fit, calibrate, held_out: clean batches of different cases.
        attacked: held-out cases with their label, one batch.
        shifted: what stands for another scanner -> its batches.
        attacks: name -> attack; :data:`LONG` among them follows where a detector stands.
        effort: of those who know the detector.
        long_effort: the same of :data:`LONG`.
        purifiers: of feature squeezing.
        autoencoder: makes the one of MagNet, trained on other cases; None where there is none.
        others: makes networks of other trainings, for an ensemble; None where there are none.
        rate: share of clean cases that may be rejected.
        spacing: mm of a voxel along each axis, of all images: a detector that measures organs must not see some in mm
            and others in voxels.
        every: of the clean cases every so manieth is shown to detectors that take many passes.
        left_out: detectors that take too long on this network.
    """

    model: AttackedModel
    fit: list[torch.Tensor]
    calibrate: list[torch.Tensor]
    held_out: list[torch.Tensor]
    attacked: tuple[torch.Tensor, torch.Tensor]
    shifted: dict[str, list[torch.Tensor]]
    attacks: dict[str, Attack]
    effort: Effort
    long_effort: Effort
    purifiers: tuple[Purifier, ...] = field(
        default=(
            BitDepthReduction(16.0, intensity=GRAY_VALUES),
            MedianDenoise(3),
        )
    )
    autoencoder: Callable[[], Purifier] | None = None
    others: Callable[[], list[AttackedModel]] | None = None
    rate: float = 0.05
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    every: int = 1
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("fit", "calibrate", "held_out"):
            object.__setattr__(self, name, _sized(getattr(self, name), self.spacing))
        shifted = {name: _sized(batches, self.spacing) for name, batches in self.shifted.items()}
        object.__setattr__(self, "shifted", shifted)
        image, label = self.attacked
        object.__setattr__(self, "attacked", (_with_spacing(as_plain(image), self.spacing), label))

    @property
    def training(self) -> str:
        """The beginning of the SHA-256 of the network's weights: the same recipe gives others on another processor."""
        return weights_hash(self.model.network)[:8]

    def thinned(self) -> Subject:
        """With every so manieth of its clean cases, for a detector that takes many passes."""

        def thin(batches: list[torch.Tensor]) -> list[torch.Tensor]:
            size = len(batches[0])
            return list(torch.cat([as_plain(batch) for batch in batches])[:: self.every].split(size))

        if self.every == 1:
            return self
        fewer = {name: thin(batches) for name, batches in self.shifted.items()}
        return replace(
            self, fit=thin(self.fit), calibrate=thin(self.calibrate), held_out=thin(self.held_out), shifted=fewer
        )


@dataclass(frozen=True)
class Budget:
    """What the attackers of one network may do.

    Args:
        epsilon: L-infinity, in network values.
        noise: the same, in words.
        displacement: largest, in mm; a voxel without spacing is 1 mm wide.
        steps: gradients.
        queries: of the black box.
        long: gradients of :data:`LONG`.
        unit: of the displacement, in words.
    """

    epsilon: float
    noise: str
    displacement: float
    steps: int
    queries: int
    long: int
    unit: str = "mm"

    def attacks(self) -> dict[str, Attack]:
        """The attacks of the table."""
        return {
            "FGSM": FGSM(self.epsilon),
            "PGD": PGD(self.epsilon, steps=self.steps),
            "Auto-PGD": APGD(self.epsilon, steps=self.steps),
            "bias field": BiasFieldAttack(BIAS, steps=self.steps),
            "elastic": ElasticAttack(self.displacement, control_spacing=8.0, steps=self.steps),
            "black box": SquareAttack(self.epsilon, queries=self.queries),
            LONG: APGD(self.epsilon, steps=self.long),
        }

    def __str__(self) -> str:
        """A sentence for the page."""
        return (
            f"Budgets: noise of {self.noise}, bias fields of {BIAS:.0%}, displacements of {self.displacement:g} "
            f"{self.unit}; {self.steps} steps, {self.queries} queries, {self.long} steps of the long attack."
        )


#: largest change of the gain
BIAS = 0.3
XRAY, PHANTOM = "chest X-ray classifier", "CT phantom, the bundle's U-Net"
MRI = "hippocampus U-Net with dropout, real MRI"
#: of each network of the page, in its order
BUDGETS = {
    XRAY: Budget(4 / 255, "4 of 255 gray values", 1.5, 8, 60, 40, "pixels"),
    MRI: Budget(0.06, "6 % of the range", 5.0, 6, 30, 20),
    PHANTOM: Budget(8 / (WINDOW["a_max"] - WINDOW["a_min"]), "8 HU", 8.0, 4, 15, 6),
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


def softer(image: torch.Tensor) -> torch.Tensor:
    """A softer kernel: half of each voxel is the mean of its neighborhood."""
    mean = functional.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
    return (image + mean) / 2


def sharper(image: torch.Tensor) -> torch.Tensor:
    """A sharper kernel: half of what sets a voxel apart from its neighborhood is added."""
    return (2 * image - softer(image)).clamp(0, 1)


def thicker(image: torch.Tensor) -> torch.Tensor:
    """Slices twice as thick: each is the mean of itself and the next one."""
    return (image + torch.cat([image[..., 1:], image[..., -1:]], dim=-1)) / 2


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


def _sized(batches: Iterable[torch.Tensor], spacing: Sequence[float]) -> list[torch.Tensor]:
    return [_with_spacing(as_plain(batch), spacing) for batch in batches]


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


def without_repetitions(images: torch.Tensor, differ: float = 1 / 255) -> torch.Tensor:
    """Places of the images that no earlier one is like.

    Args:
        images: (case, ...), from 0 to 1.
        differ: root of the mean square of the difference from which on two are different.
    """
    flat = images.flatten(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
    return (~torch.tril(apart < differ, diagonal=-1).any(dim=1)).nonzero()[:, 0]


def chest_xray(data: Path, cache: Path) -> Subject:
    """A small DenseNet on 2400 chest X-rays, and others; the official test set is the other scanner. No image is a copy
    of another one."""
    images, labels, test, _ = chest_xrays(data)
    more, their_labels = chest_xrays(data, second="val")[2:]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    order = torch.cat([order, len(labels) + torch.arange(len(more))])  # those of the validation set are held out
    images, labels = torch.cat([images, more]), torch.cat([labels, their_labels])
    order = order[without_repetitions(images[order])]
    train, fit, calibrate, held_out = order.split([2400, 400, 400, len(order) - 3200])
    test = test[without_repetitions(test)]
    data_of = images[train], labels[train], images[held_out], labels[held_out]

    def network(seed: int) -> AttackedModel:
        made = kept(cache / f"chest_xray_{seed}.pt", lambda: trained(data_of, 4, seed)[0])
        return AttackedModel(made, task="classification", **UNIT)

    def autoencoder() -> Purifier:
        made = kept(cache / "chest_xray_autoencoder.pt", lambda: trained_autoencoder(images[train]))
        return AutoencoderDenoise(network=made, window=(0.0, 255.0), intensity=GRAY_VALUES)

    batches = list(images[held_out].split(128))
    few = batches[:5]
    return Subject(
        network(0),
        list(images[fit].split(100)),
        list(images[calibrate].split(100)),
        batches,
        (images[held_out][:64], labels[held_out][:64]),
        _changed(few, {"noise of 2 %": noisy(0.02), "coarser pixels": coarser, "exponent 0.8": other_contrast})
        | {"the official test set": list(test.split(128))},
        BUDGETS[XRAY].attacks(),
        Effort((0.3, 2.0, 10.0), ("evading", "hiding", "orthogonal")),
        Effort((0.3, 2.0, 10.0, 50.0), ("evading", "hiding", "orthogonal")),
        autoencoder=autoencoder,
        others=lambda: [network(1), network(2)],
        spacing=(1.0, 1.0),
    )


def trained_autoencoder(images: torch.Tensor, epochs: int = 12, noise: float = 0.05) -> torch.nn.Module:
    """MagNet's denoising autoencoder for images of 2 dimensions.

    Args:
        images: (case, 1, height, width), from 0 to 1.
        epochs: passes over them.
        noise: largest standard deviation of what is added.
    """
    torch.manual_seed(SEED)
    network = DenoisingUNet(2, channels=(8, 16, 32))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            clean = images[rows]
            strength = noise * torch.rand(len(clean), *[1] * (clean.ndim - 1))
            optimizer.zero_grad()
            (network(clean + strength * torch.randn_like(clean)) - clean).abs().mean().backward()
            optimizer.step()
    return network


def hippocampus(data: Path, cache: Path) -> Subject:
    """A small U-Net with dropout on 80 of 201 real MRI; the others are fitted to, calibrated on and held out."""
    images, labels = hippocampus_volumes(data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    train, fit, calibrate, held_out = order.split([80, 40, 40, len(order) - 160])

    def network(seed: int) -> AttackedModel:
        make = partial(small_unet, dropout=0.1)
        made = kept(
            cache / f"hippocampus_dropout_{seed}.pt",
            lambda: trained_unet(images[train], labels[train], seed=seed, make=make),
        )
        return AttackedModel(made, **UNIT)

    batches = list(images[held_out].split(8))
    return Subject(
        network(0),
        list(images[fit].split(8)),
        list(images[calibrate].split(8)),
        batches,
        (images[held_out][:10], labels[held_out][:10]),
        _changed(batches, {"noise of 2 %": noisy(0.02), "coarser voxels": coarser, "coil's shading": shaded}),
        BUDGETS[MRI].attacks(),
        Effort((10.0,), ("evading", "hiding", "orthogonal")),
        Effort((1.0, 3.0, 10.0), ("evading", "orthogonal", "misplacing")),
        others=lambda: [network(1), network(2)],
    )


def phantom_volumes(cache: Path, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Phantoms on the grid and in the window of the CT bundle's pipeline, from their file where they were made before.

    Args:
        cache: folder of the file.
        first: seed of the first one.
        count: of them.

    Returns:
        images (case, 1, *PHANTOM_SIZE) and labels.
    """
    file = cache / f"phantoms_{first}_{count}.pt"
    if not file.is_file():
        keys = ("image", "label")
        prepare = Compose(
            [
                Orientationd(keys, axcodes="RAS", labels=None),
                Spacingd(keys, pixdim=PHANTOM_SPACING, mode=("bilinear", "nearest")),
                ScaleIntensityRanged("image", **WINDOW),
            ]
        )
        made = CTPhantomDataset(
            count, seed=first, transform=prepare, size=PHANTOM_SIZE, spacing=PHANTOM_SPACING, oblique=False
        )
        items = [made[number] for number in range(count)]
        stacked = {key: torch.stack([item[key].as_tensor() for item in items]) for key in keys}
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({"image": stacked["image"], "label": stacked["label"].byte()}, file)
    found = torch.load(file, weights_only=True)
    return found["image"], found["label"].long()


def phantom(data: Path, cache: Path) -> Subject:
    """The CT bundle's U-Net on small phantoms: the purifier's autoencoder and the hardened network are the bundle's."""
    parts = [phantom_volumes(cache, PHANTOM_SEED + first, 100) for first in range(0, 600, 100)]
    images, labels = (torch.cat([part[number][MIDDLE] for part in parts]) for number in range(2))
    fit, calibrate, held_out = images.split([50, 250, 300])
    batches, few = list(held_out.split(10)), list(held_out[:100].split(10))
    gray = 1 / (WINDOW["a_max"] - WINDOW["a_min"])

    def network(weights: str) -> AttackedModel:
        return AttackedModel(bundle_network("cpu", weights), intensity=WINDOW, image_units="network")

    changes = {
        "noise of 10 HU": noisy(10 * gray),
        "softer kernel": softer,
        "sharper kernel": sharper,
        "slices of 8 mm": thicker,
    }
    return Subject(
        network("model.pt"),
        list(fit.split(10)),
        list(calibrate.split(10)),
        batches,
        (held_out[:8], labels[-len(held_out) :][:8]),
        _changed(few, changes),
        BUDGETS[PHANTOM].attacks(),
        Effort((10.0,), ("evading", "hiding", "orthogonal")),
        Effort((1.0, 3.0, 10.0), ("evading", "orthogonal", "misplacing")),
        autoencoder=lambda: AutoencoderDenoise(BUNDLE / "models" / "purifier_autoencoder.pt", intensity=WINDOW),
        others=lambda: [network("hardened.pt")],
        spacing=PHANTOM_SPACING,
        every=3,
        left_out=("AttributionReconstruction", "NoiseSensitivity"),
    )


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    XRAY: chest_xray,
    MRI: hippocampus,
    PHANTOM: phantom,
}
