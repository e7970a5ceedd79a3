# SPDX-License-Identifier: Apache-2.0
"""Figure 3: how far bias fields and noise of the same visibility transfer between classifiers of chest X-rays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from monai.metrics import SSIMMetric
from monai.networks.nets import ResNet
from torch import nn

from benchmarks.claims import outcome, over_seeds
from benchmarks.class_balance import Images
from benchmarks.experiments.subjects import Subjects, right_answers, small_network, trained_on
from benchmarks.survey_defense_claims import attacked_model, xrays
from monai_adversarial.attacks import BIM, FGSM, MIFGSM, Attack, BiasFieldAttack, CrossEntropy

__all__ = ["VISIBILITY", "bias_field_transfer", "same_visibility"]

MAX_GAIN, STEPS = 0.3, 10
NOISE: dict[str, Callable[[float], Attack]] = {
    "FGSM": lambda e: FGSM(e, objective=CrossEntropy()),
    "BIM": lambda e: BIM(e, steps=STEPS, objective=CrossEntropy()),
    "MI-FGSM": lambda e: MIFGSM(e, steps=STEPS, objective=CrossEntropy()),
}


def _root_mean_square(changed: torch.Tensor, clean: torch.Tensor) -> float:
    return float((changed - clean).flatten(1).square().mean(dim=1).sqrt().mean())


def _dissimilarity(changed: torch.Tensor, clean: torch.Tensor) -> float:
    similarity = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=11, reduction="none")
    return 1 - float(torch.as_tensor(similarity(changed, clean)).mean())


#: what "the same visibility" may mean: larger is more visible
VISIBILITY: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "RMS": _root_mean_square,
    "SSIM": _dissimilarity,
}


def same_visibility(
    make: Callable[[float], Attack],
    wanted: float,
    measure: Callable[[torch.Tensor, torch.Tensor], float],
    run: Callable[[Attack], torch.Tensor],
    clean: torch.Tensor,
    halvings: int = 6,
) -> torch.Tensor:
    """What an attack makes of images at the largest budget, by halving, at which it is no more visible than wanted.

    Args:
        make: budget -> attack.
        wanted: visibility, by ``measure``.
        measure: of changed and clean images.
        run: attack -> changed images.
        clean: images.
        halvings: from a budget of 0.5.
    """
    low, high, best = 0.0, 0.5, clean
    for _ in range(halvings):
        middle = (low + high) / 2
        made = run(make(middle))
        if measure(made, clean) <= wanted:
            low, best = middle, made
        else:
            high = middle
    return best


def networks(data: Images, seed: int, epochs: int = 4) -> dict[str, nn.Module]:
    """A DenseNet, a ResNet and a plain convolutional network of the same images."""
    images, labels = data["train"]
    classes = int(labels.max()) + 1
    torch.manual_seed(seed)
    made: dict[str, nn.Module] = {
        "DenseNet": small_network(images, classes, seed),
        "ResNet": ResNet(
            "basic", [1, 1, 1, 1], [8, 16, 24, 32], spatial_dims=2, n_input_channels=1, conv1_t_size=3, num_classes=2
        ),
        "plain": nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(384, classes),
        ),
    }  # fmt: skip
    return {name: trained_on(images, labels, seed, epochs, network) for name, network in made.items()}


def bias_field_transfer(
    data: Subjects = xrays, seeds: Sequence[int] = (0, 1, 2), epochs: int = 4, images: int = 32
) -> dict[str, Any]:
    """Success on networks that were not attacked, of a bias field and of noise that is as visible.

    Source: figure 3 of the survey, after Tian et al. 2021: ResNet50, MobileNet and DenseNet121 on chest X-rays.

    Survey entry: R07 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        known = networks(data(seed), seed, epochs)
        image, label = (one[:images] for one in right_answers(data(seed)["attacked"], *known.values()))
        for surrogate, network in known.items():
            model = attacked_model(network)

            def run(attack: Attack, model: Any = model, image: Any = image, label: Any = label) -> torch.Tensor:
                return torch.as_tensor(attack(model, image, label).adversarial)

            field = BiasFieldAttack(MAX_GAIN, steps=STEPS, zero_mean=True, objective=CrossEntropy())
            shaded = run(field)
            made = {"bias field": shaded}
            for named, measure in VISIBILITY.items():
                wanted = measure(shaded, image)
                made |= {
                    f"{kind}, same {named}": same_visibility(make, wanted, measure, run, image)
                    for kind, make in NOISE.items()
                }
            for target, other in known.items():
                row: dict[str, Any] = {"seed": seed, "surrogate": surrogate, "target": target}
                with torch.no_grad():
                    wrong = {k: (other(one).argmax(dim=1) != label).float().mean() for k, one in made.items()}
                rows.append(row | {name: round(float(value), 4) for name, value in wrong.items()})
        print(f"seed {seed}: {len(label)} images that all networks answer right", flush=True)
    across = [row for row in rows if row["surrogate"] != row["target"]]
    comparisons, seen = [], [f"bias field {over_seeds(row['bias field'] for row in across)}"]
    for named in VISIBILITY:
        names = [f"{kind}, same {named}" for kind in NOISE]
        comparisons += [row["bias field"] > max(row[name] for name in names) for row in across]
        means = ", ".join(f"{name.split(',')[0]} {mean(row[name] for row in across):.2f}" for name in names)
        seen.append(f"same {named}: {means}")
    white = mean(row["bias field"] for row in rows if row["surrogate"] == row["target"])
    return outcome(
        "the bias field transfers best at equal visibility (Fig. 3), here: at equal RMS and at equal SSIM",
        "Tian 2021 in the survey; the two measures are ours",
        comparisons,
        f"success on other networks: {'; '.join(seen)}; on the attacked network: bias field {white:.2f}",
        f"{images} chest X-rays, DenseNet, ResNet and a plain network, {len(across)} pairs of others, {len(seeds)} "
        f"seeds; bias field of up to {MAX_GAIN:.0%}, noise at the largest budget that is no more visible",
        rows,
    )
