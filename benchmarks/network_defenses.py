# SPDX-License-Identifier: Apache-2.0
"""Defenses inside the network on real MRI, trained equally and attacked through themselves: docs/network_defenses.md.

    python -m benchmarks.network_defenses docs/network_defenses.csv

Rows that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from monai.networks.nets import UNet
from torch import nn

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.data_folder import data_folder
from benchmarks.detector_subjects import UNIT
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.hippocampus_networks import hippocampus_volumes, trained_unet
from monai_adversarial.attacks import (
    APGD,
    PGD,
    BackwardPassSubstitute,
    ExpectationOverTransformation,
    GradientEstimator,
)
from monai_adversarial.inferers import NoisyMajorityInferer
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel, predict
from monai_adversarial.networks import (
    BoundedReLU,
    SeedEnsemble,
    SignActivationHead,
    insert_feature_denoising,
    insert_feature_noise,
    replace_activations,
    train_by_coordinate_descent,
)

__all__ = ["DEFENSES", "Defense", "Row", "table"]

PAGE, TABLE = "network_defenses.md", "network_defenses.csv"
#: of the range between the 1st and 99th percentile of each image
EPSILON, STEPS, DRAWS = 0.05, 8, 4
TRAIN, CASES, EPOCHS, SEEDS, MEMBERS = 60, 10, 10, (0, 1), 3
#: of Gaussian noise, in the same unit
SIGMA = 0.05
FEATURES = 12
#: of bounded activations
BOUND = 4.0


@dataclass(frozen=True)
class Row:
    """One network under its attacks; mean foreground Dice over the cases.

    Args:
        network: which of ``DEFENSES``.
        seed: of its training.
        cases: held-out patients.
        clean: no attack.
        transfer: an attack on the plain network of another seed.
        plain: Auto-PGD and PGD on the network as it is, the worse of both for each patient.
        adaptive: the worst for each patient of those and of both with the gradient that fits the defense.
        cpu_seconds: of training.
    """

    network: str
    seed: int
    cases: int
    clean: float
    transfer: float
    plain: float
    adaptive: float
    cpu_seconds: float


@dataclass(frozen=True)
class Defense:
    """A network that is trained, and how it is to be attacked.

    Args:
        make: from a seed to the trained network.
        gradient: of the attacker who knows it; None where the exact one is it.
        inferer: around the network as it is deployed; None for none.
        soft: the differentiable form of it, which is attacked.
    """

    make: Callable[[int], nn.Module]
    gradient: Callable[[], GradientEstimator] | None = None
    inferer: Callable[[], NoisyMajorityInferer] | None = None
    soft: Callable[[], NoisyMajorityInferer] | None = None


def base(seed: int) -> nn.Module:
    """A U-Net that ends in features, and a 1 x 1 x 1 head."""
    torch.manual_seed(seed)
    body = UNet(3, 1, FEATURES, (8, 16, 32), (2, 2), num_res_units=0, norm="batch")
    parts = {"body": body, "activation": nn.PReLU(), "head": nn.Conv3d(FEATURES, 3, 1)}
    return nn.Sequential(OrderedDict(parts))


@cache
def patients() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train, then held out; the same order as for the detectors."""
    images, labels = hippocampus_volumes(data_folder())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:TRAIN], order[-CASES:]
    return images[train], labels[train], images[test], labels[test]


class NoisyBatches(PGD):
    """Not an attack: batches with Gaussian noise of ``SIGMA``, for the network behind a majority of noisy copies."""

    def perturb(self, model, image, label=None, **options):  # type: ignore[no-untyped-def, override]
        found = super().perturb(model, image, label, **options)
        return replace(found, adversarial=image + SIGMA * torch.randn_like(image))


def _train(seed: int, make: Callable[[int], nn.Module] = base, attack: PGD | None = None) -> nn.Module:
    images, labels, _, _ = patients()
    return trained_unet(images, labels, EPOCHS, seed, make, attack)


@cache
def plain(seed: int) -> nn.Module:
    """No defense."""
    return _train(seed)


def with_denoising(kind: str) -> Callable[[int], nn.Module]:
    """Blocks behind the second encoder stage and the bottleneck."""

    def make(seed: int) -> nn.Module:
        network = base(seed)
        names = ["body.model.1.submodule.0", "body.model.1.submodule.1.submodule"]
        example = torch.zeros(1, 1, 8, 8, 8)
        return insert_feature_denoising(network, names, example=example, kind=kind)

    return make


def with_noise(seed: int) -> nn.Module:
    """Noise behind every convolution, at test time too."""
    return insert_feature_noise(base(seed), alpha=0.25, always=True, seed=seed)


def with_bounds(seed: int) -> nn.Module:
    """Activations between 0 and ``BOUND``; with 1, the default, the training ended at Dice 0."""
    network = base(seed)
    replace_activations(network, make=lambda: BoundedReLU(BOUND))
    return network


def with_sign_head(seed: int) -> nn.Module:
    """The plain network with a head of sign units, trained without gradients on its frozen features."""
    whole = plain(seed)
    images, labels, _, _ = patients()
    generator = torch.Generator().manual_seed(seed)
    features, classes = [], []
    with torch.no_grad():
        for image, label in zip(images.split(4), labels.split(4), strict=True):
            found = whole.activation(whole.body(image)).movedim(1, -1).reshape(-1, FEATURES)
            flat = label.flatten()
            for number in (0, 1, 2):
                place = (flat == number).nonzero()[:, 0]
                chosen = place[torch.randperm(len(place), generator=generator)[:120]]
                features.append(found[chosen])
                classes.append(flat[chosen])
    samples, target = torch.cat(features), torch.cat(classes)
    standard = Standardize(samples.mean(dim=0), samples.std(dim=0) + 1e-6)
    head = SignActivationHead(FEATURES, 24, classes=3, seed=seed)
    # voxels of the organs are as many as the others here, and a few percent in an image
    train_by_coordinate_descent(
        head, standard(samples), target, steps=600, batch_size=1024, class_weights=(3.0, 1.0, 1.0), seed=seed
    )
    return nn.Sequential(whole.body, whole.activation, standard, head).eval()


class Standardize(nn.Module):
    """Features of mean 0 and standard deviation 1."""

    def __init__(self, center: torch.Tensor, spread: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, feature, anything...) to the same."""
        shape = (1, -1, *[1] * (features.ndim - 2))
        return (features - self.center.view(shape)) / self.spread.view(shape)


def adversarial(steps: int = 2) -> PGD:
    """The attack of a training step."""
    return PGD(EPSILON, steps=steps)


def _majority(soft: bool) -> NoisyMajorityInferer:
    return NoisyMajorityInferer(sigma=SIGMA, samples=8, soft=soft)


DEFENSES: dict[str, Defense] = {
    "plain": Defense(plain),
    "feature denoising, non-local": Defense(lambda seed: _train(seed, with_denoising("nonlocal_gaussian"))),
    "feature denoising, median": Defense(lambda seed: _train(seed, with_denoising("median"))),
    "feature noise": Defense(lambda seed: _train(seed, with_noise), lambda: ExpectationOverTransformation(DRAWS)),
    "bounded ReLU": Defense(lambda seed: _train(seed, with_bounds)),
    "sign head": Defense(with_sign_head, lambda: BackwardPassSubstitute("surrogate")),
    "seed ensemble of 3": Defense(
        lambda seed: SeedEnsemble([plain(10 * seed + member) for member in range(MEMBERS)]).eval()
    ),
    "noisy majority": Defense(
        lambda seed: _train(seed, attack=NoisyBatches(EPSILON, steps=1)),
        inferer=lambda: _majority(False),
        soft=lambda: _majority(True),
    ),
    "adversarial training": Defense(lambda seed: _train(seed, attack=adversarial())),
    "adversarial training, feature denoising, non-local": Defense(
        lambda seed: _train(seed, with_denoising("nonlocal_gaussian"), adversarial())
    ),
}


def measure(name: str, seed: int) -> Row:
    """Train, attack, score."""
    defense = DEFENSES[name]
    begin = time.process_time()
    network = defense.make(seed)
    seconds = time.process_time() - begin
    _, _, image, label = patients()
    deployed = AttackedModel(network, defense.inferer() if defense.inferer else None, **UNIT)
    attacked = AttackedModel(network, defense.soft(), **UNIT) if defense.soft else deployed

    def score(changed: torch.Tensor) -> torch.Tensor:
        return mean_foreground_dice(predict(deployed, changed), label, 3, "softmax")

    def worst(model: AttackedModel, gradient: GradientEstimator | None) -> torch.Tensor:
        options = {} if gradient is None else {"gradient": gradient}
        recipes = (PGD, APGD)
        return torch.stack(
            [
                score(torch.as_tensor(recipe(EPSILON, steps=STEPS, **options)(model, image, label).adversarial))
                for recipe in recipes
            ]
        ).amin(dim=0)

    other = AttackedModel(plain(seed + 100), **UNIT)
    transfer = PGD(EPSILON, steps=STEPS)(other, image, label)
    by_transfer = score(torch.as_tensor(transfer.adversarial))
    direct = worst(deployed if defense.soft is None else attacked, None)
    found = [by_transfer, direct]
    if defense.gradient is not None:
        found.append(worst(attacked, defense.gradient()))
    numbers = (score(image), by_transfer, direct, torch.stack(found).amin(dim=0))
    return Row(name, seed, len(image), *(round(float(one.mean()), 4) for one in numbers), round(seconds, 1))


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean of the seeds, and each seed's adaptive Dice."""
    lines = [
        "| network | clean | attack on another network | PGD, Auto-PGD as it is | adaptive, worst of all | each seed |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in DEFENSES:
        own = [row for row in rows if row.network == name]
        if own:
            cells = [f"{mean(getattr(row, key) for row in own):.3f}" for key in ("clean", "transfer", "plain")]
            cells.append(f"**{mean(row.adaptive for row in own):.3f}**")
            cells.append(", ".join(f"{row.adaptive:.3f}" for row in own))
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the CSV file in ``folder``."""
    return replace_table(text, TABLE, table(read_rows(folder / TABLE, Row)))


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_defenses", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it has are kept")
    parser.add_argument("--only", nargs="+", choices=tuple(DEFENSES), default=tuple(DEFENSES), help="networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(arguments.output, Row)
    for seed in SEEDS:
        for name in arguments.only:
            if (name, seed) not in {(row.network, row.seed) for row in rows}:
                rows.append(measure(name, seed))
                write_rows(arguments.output, rows, Row)
                print(rows[-1], flush=True)
    page = DOCS / PAGE
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and page.is_file():
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
