# SPDX-License-Identifier: Apache-2.0
"""Whether the distance to the decision boundary says how robust a defense is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import mean
from typing import Any

import torch
from torch import nn

from benchmarks.claims import outcome, over_seeds
from benchmarks.class_balance import Images, as_many_of_each, balanced, balanced_accuracy
from benchmarks.experiments.defended import DEFENSES
from benchmarks.experiments.subjects import Subjects, right_answers
from benchmarks.survey_defense_claims import attacked_model, xrays
from monai_adversarial.attacks import APGD, FMN, PGD, SquareAttack
from monai_adversarial.metrics import BoundaryDistance

__all__ = ["boundary_distance_of_defenses"]

BUDGET = 4 / 255
#: differences of accuracy that are not counted as an order
ROOM = 0.02


def boundary_distance_of_defenses(
    data: Subjects = xrays,
    seeds: Sequence[int] = (0, 1, 2),
    defenses: Mapping[str, Callable[[Images, int], nn.Module]] = DEFENSES,
    steps: int = 50,
    train: int = 1200,
    each: int = 24,
) -> dict[str, Any]:
    """Order of defenses by the median of the smallest noise, and by the accuracy under the strongest attack.

    Of each image the smallest noise of two searches counts, and the worst of four attacks: gradients of the margin and
    of the cross-entropy, Auto-PGD, and queries. An order that both measures give alike is counted for the claim.

    Source: section 3.1 of the survey; the comparison is ours.

    Survey entry: R22 (own).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        parts = {
            "train": tuple(one[:train] for one in data(seed)["train"]),
            "attacked": as_many_of_each(data(seed), each),
        }
        for name, make in defenses.items():
            network = make(parts, seed)
            model = attacked_model(network)
            image, label = right_answers(parts["attacked"], network)
            metric = BoundaryDistance()
            metric.add([FMN("linf", steps=steps, seed=one)(model, image, label) for one in (0, 1)])
            attacks = {
                "cross-entropy": PGD(BUDGET, objective="cross_entropy"),
                "margin": PGD(BUDGET, objective="margin"),
                "Auto-PGD": APGD(BUDGET),
                "queries": SquareAttack(BUDGET, queries=100),
            }
            # Of as many images of each class: a network that has but one answer looks robust by any other measure.
            changed = {k: attack(model, *parts["attacked"]).adversarial for k, attack in attacks.items()}
            truth = parts["attacked"][1]
            with torch.no_grad():
                right = {k: network(torch.as_tensor(one)).argmax(dim=1) == truth for k, one in changed.items()}
            row = {"seed": seed, "defense": name, "clean": balanced_accuracy(network, parts["attacked"])}
            row["distance"] = round(metric.aggregate()["median"] * 255, 4)
            row["PGD, cross-entropy"] = balanced(right["cross-entropy"], truth)
            rows.append(row | {"worst": balanced(torch.stack(list(right.values())).all(dim=0), truth)})
            print(rows[-1], flush=True)
    return _judged(rows, seeds, train, each)


def _judged(rows: Sequence[dict[str, Any]], seeds: Sequence[int], train: int, each: int) -> dict[str, Any]:
    orders = []
    for seed in seeds:
        for one, other in combinations([row for row in rows if row["seed"] == seed], 2):
            if abs(one["worst"] - other["worst"]) > ROOM:
                orders.append((one["worst"] > other["worst"]) == (one["distance"] > other["distance"]))
    names = list(dict.fromkeys(row["defense"] for row in rows))

    def of(name: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["defense"] == name]

    seen = "; ".join(
        f"{name}: clean {mean(of(name, 'clean')):.2f}, distance {over_seeds(of(name, 'distance'), 1)} of 255, accuracy "
        f"{over_seeds(of(name, 'worst'))} under the worst of four attacks, {mean(of(name, 'PGD, cross-entropy')):.2f} "
        "under PGD on cross-entropy"
        for name in names
    )
    return outcome(
        "the median distance to the decision boundary orders defenses as the accuracy under attack does (section 3.1)",
        "the survey's definition of robustness; the comparison is ours",
        orders,
        seen,
        f"chest X-rays, {train} to train, {each} attacked of each class, {len(seeds)} seeds; smallest L-infinity noise "
        f"by FMN; attacks of 4 of 255; defenses whose accuracy differs by more than {ROOM}; logits x 50 masks "
        "gradients",
        list(rows),
    )
