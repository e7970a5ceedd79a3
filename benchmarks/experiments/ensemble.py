# SPDX-License-Identifier: Apache-2.0
"""Transfer of noise that was made with one network or with several, targeted and untargeted (Liu 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import mean
from typing import Any

import torch
from torch import nn

from benchmarks.claims import outcome, over_seeds
from benchmarks.experiments.subjects import Subjects, hippocampus_slices, right_answers, trained_on
from benchmarks.survey_defense_claims import attacked_model
from monai_adversarial.attacks import BIM, CrossEntropy, SurrogateGradient

__all__ = ["ensemble_transfer", "targeted_transfer", "transferred"]

#: of the range of 0 to 1
BUDGET, STEPS, NETWORKS = 16 / 255, 10, 4


def transferred(networks: Sequence[nn.Module], image: torch.Tensor, label: torch.Tensor) -> list[dict[str, float]]:
    """Of each network as a target: success of noise made with each other one alone, and with all others.

    Args:
        networks: classifiers.
        image: that all answer right, from 0 to 1.
        label: class of each.
    """
    with torch.no_grad():
        classes = networks[0](image[:1]).shape[1]
    wanted = (label + 1) % classes
    rows = []
    for place, target in enumerate(networks):
        others = [attacked_model(one) for one in networks[:place] + networks[place + 1 :]]
        row: dict[str, float] = {}
        for targeted in (False, True):
            found = []
            for surrogates in [[one] for one in others] + [others]:
                attack = BIM(
                    BUDGET,
                    steps=STEPS,
                    objective=CrossEntropy(),
                    gradient=SurrogateGradient(surrogates),
                    targeted=targeted,
                )
                given = wanted if targeted else label
                changed = torch.as_tensor(attack(attacked_model(target), image, given).adversarial)
                with torch.no_grad():
                    said = target(changed).argmax(dim=1)
                found.append(round(float((said == wanted if targeted else said != label).float().mean()), 4))
            kind = "targeted" if targeted else "untargeted"
            row |= {f"{kind}, best single": max(found[:-1]), f"{kind}, mean single": round(mean(found[:-1]), 4)}
            row[f"{kind}, ensemble"] = found[-1]
        rows.append(row)
    return rows


@cache
def _rows(subjects: Subjects, seeds: tuple[int, ...], epochs: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        data = subjects(seed)
        networks = [trained_on(*data["train"], NETWORKS * seed + number, epochs) for number in range(NETWORKS)]
        image, label = right_answers(data["attacked"], *networks)
        for target, row in enumerate(transferred(networks, image, label)):
            rows.append({"seed": seed, "target": target, "images": len(label)} | row)
            print(rows[-1], flush=True)
    return rows


def _seen(rows: Sequence[dict[str, Any]]) -> str:
    return "; ".join(
        f"{kind}: ensemble {over_seeds(row[f'{kind}, ensemble'] for row in rows)}, the best single surrogate "
        f"{over_seeds(row[f'{kind}, best single'] for row in rows)}, a single one "
        f"{mean(row[f'{kind}, mean single'] for row in rows):.2f}"
        for kind in ("untargeted", "targeted")
    )


def _data(seeds: Sequence[int]) -> str:
    return (
        f"middle slices of patches of hippocampus MRI, 3 classes; {NETWORKS} networks of one architecture and other "
        f"seeds, each once the target, {len(seeds)} seeds; BIM with {STEPS} steps, 16/255"
    )


def ensemble_transfer(
    subjects: Subjects = hippocampus_slices, seeds: Sequence[int] = (0, 1, 2), epochs: int = 6
) -> dict[str, Any]:
    """Whether an ensemble of surrogates transfers better than each of them.

    Source: Liu et al. 2016, there on ImageNet.

    Survey entry: R16 (adapted).
    """
    rows = _rows(subjects, tuple(seeds), epochs)
    return outcome(
        "noise against an ensemble transfers better than that of its best single member, targeted and untargeted",
        "Liu 2016 in the survey",
        [row[f"{k}, ensemble"] > row[f"{k}, best single"] for row in rows for k in ("untargeted", "targeted")],
        _seen(rows),
        _data(seeds),
        rows,
    )


def targeted_transfer(
    subjects: Subjects = hippocampus_slices, seeds: Sequence[int] = (0, 1, 2), epochs: int = 6
) -> dict[str, Any]:
    """Whether a wanted class transfers less than any wrong one.

    Source: Liu et al. 2016, there on ImageNet.

    Survey entry: R16 (adapted).
    """
    rows = _rows(subjects, tuple(seeds), epochs)
    return outcome(
        "targeted noise transfers less than untargeted noise",
        "Liu 2016 in the survey",
        [row[f"targeted, {k}"] < row[f"untargeted, {k}"] for row in rows for k in ("mean single", "ensemble")],
        _seen(rows),
        _data(seeds),
        rows,
    )
