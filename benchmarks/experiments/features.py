# SPDX-License-Identifier: Apache-2.0
"""Features that are not robust and generalize all the same (Ilyas 2019): two training sets made of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.claims import outcome, over_seeds
from benchmarks.class_balance import as_many_of_each, balanced_accuracy
from benchmarks.experiments.defended import hardened
from benchmarks.experiments.subjects import Subjects, trained_on
from benchmarks.survey_defense_claims import attacked_model, xrays
from monai_adversarial.attacks import PGD, AdditiveNoise, Attack, SteepestAscent

__all__ = ["mislabeled_set", "robust_set", "robustified"]

#: Euclidean noise per image of the mislabeled set, and the budgets of the attacks, of the range of 0 to 1
LENGTH, BUDGET = 1.0, 2 / 255


def mislabeled_set(
    data: Subjects = xrays, seeds: Sequence[int] = (0, 1, 2), epochs: int = 16, size: int = 1600
) -> dict[str, Any]:
    """Trains on attacked images with the attacker's classes alone, every one of them wrong, and tests on clean ones.

    Source: Ilyas et al. 2019, section 3.2, there CIFAR-10. Classes are drawn at random, as for their first set, so that
    the true class says nothing about the label.

    Survey entry: R21 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        images, labels = (one[:size] for one in data(seed)["train"])
        network = trained_on(images, labels, seed)
        wanted = torch.randint(0, 2, labels.shape, generator=torch.Generator().manual_seed(seed))
        noise, search = AdditiveNoise(LENGTH, norm="l2"), SteepestAscent(2.0, schedule="linear")
        attack = Attack(noise, "cross_entropy", search, steps=20, targeted=True)
        model = attacked_model(network)
        changed = torch.cat(
            [
                torch.as_tensor(attack(model, x, t).adversarial)
                for x, t in zip(images.split(200), wanted.split(200), strict=True)
            ]
        )
        # Labels are random with regard to the true class: chance is 0.5 for whoever looks at robust features.
        student = trained_on(changed, wanted, seed + 100, epochs)
        control = trained_on(images, wanted, seed + 100, epochs)
        test = data(seed)["clean"]
        with torch.no_grad():
            reached = (network(changed).argmax(dim=1) == wanted).float().mean()
        rows.append(
            {
                "seed": seed,
                "reached": round(float(reached), 4),
                "agreement with the truth": round(float((wanted == labels).float().mean()), 4),
                "trained on truth": balanced_accuracy(network, test),
                "trained on attacks": balanced_accuracy(student, test),
                "control": balanced_accuracy(control, test),
            }
        )
        print(rows[-1], flush=True)
    return outcome(
        "a network that was trained on attacked images with the attacker's random classes is right on clean images "
        "(here a balanced accuracy 0.05 above chance and above the same classes without the attack)",
        "Ilyas 2019 in the survey; the bound is ours",
        [row["trained on attacks"] > max(0.5, row["control"]) + 0.05 for row in rows],
        f"balanced accuracy {over_seeds(row['trained on attacks'] for row in rows)}; the same classes on images that "
        f"were not attacked {over_seeds(row['control'] for row in rows)}, trained on the truth "
        f"{over_seeds(row['trained on truth'] for row in rows)}",
        f"chest X-rays, {size} attacked with Euclidean noise of {LENGTH:g}, {len(seeds)} seeds",
        rows,
    )


def _representation(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Pooled features of a DenseNet."""
    return network.class_layers[:3](network.features(images))  # type: ignore[index, operator]


def robustified(
    network: nn.Module, images: torch.Tensor, seed: int, steps: int = 40, rate: float = 0.05
) -> torch.Tensor:
    """Images that begin as other ones and are moved until a network's features are those of the given ones.

    Args:
        network: a DenseNet whose features are to be kept.
        images: from 0 to 1.
        seed: of which image each begins as.
        steps, rate: of Adam.
    """
    with torch.no_grad():
        wanted = _representation(network, images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    made = images[order].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([made], rate)
    for _ in range(steps):
        distance = (_representation(network, made) - wanted).square().sum()
        made.grad = torch.autograd.grad(distance, made)[0]
        optimizer.step()
        with torch.no_grad():
            made.clamp_(0, 1)
    return made.detach()


def robust_set_rows(data: Subjects, seed: int, epochs: int, size: int, each: int) -> list[dict[str, Any]]:
    """Balanced accuracy, clean and under PGD, of a robust network and of plain trainings on three sets, of one seed."""
    parts = data(seed)
    images, labels = as_many_of_each(parts, size, ("train",))
    image, label = as_many_of_each(parts, each)
    robust = hardened({"train": (images, labels)}, seed, PGD(4 / 255, steps=3, objective="cross_entropy"), 0.5, epochs)
    plain = trained_on(images, labels, seed, epochs)
    sets = {
        "images as they are": images,
        "features of a robust network": _in_parts(robust, images, seed),
        "features of a plain network": _in_parts(plain, images, seed),
    }
    networks = {"the robust network itself": robust} | {
        name: trained_on(shown, labels, seed + 50, epochs) for name, shown in sets.items()
    }
    rows = []
    for name, network in networks.items():
        changed = torch.as_tensor(PGD(BUDGET)(attacked_model(network), image, label).adversarial)
        rows.append(
            {
                "seed": seed,
                "set": name,
                "clean": balanced_accuracy(network, parts["clean"]),
                "attacked": balanced_accuracy(network, (changed, label)),
            }
        )
        print(rows[-1], flush=True)
    return rows


def robust_set(
    data: Subjects = xrays, seeds: Sequence[int] = (0, 1, 2), epochs: int = 10, size: int = 400, each: int = 32
) -> dict[str, Any]:
    """Trains plainly on images that hold a robust network's features alone, and attacks the result.

    Source: Ilyas et al. 2019, section 3.1, there CIFAR-10.

    Survey entry: R21 (adapted).
    """
    rows = [row for seed in seeds for row in robust_set_rows(data, seed, epochs, size, each)]
    names = list(dict.fromkeys(row["set"] for row in rows))

    def of(name: str, key: str = "attacked") -> list[float]:
        return [row[key] for row in rows if row["set"] == name]

    return outcome(
        "plain training on images that hold the features of a robust network gives some robustness, and those of a "
        "plain network do not (here: more accuracy under PGD than both)",
        "Ilyas 2019 in the survey",
        [kept > other for name in (names[1], names[3]) for kept, other in zip(of(names[2]), of(name), strict=True)],
        "; ".join(f"{name}: clean {over_seeds(of(name, 'clean'))}, attacked {over_seeds(of(name))}" for name in names),
        f"chest X-rays, up to {size} of each class to train (of one there are fewer), {each} of each attacked, PGD "
        f"with 2 of 255, {len(seeds)} seeds",
        rows,
    )


def _in_parts(network: nn.Module, images: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.cat([robustified(network, part, seed + place) for place, part in enumerate(images.split(200))])
