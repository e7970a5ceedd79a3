# SPDX-License-Identifier: Apache-2.0
"""Noise that a trained network makes in one pass, against noise that is optimized for each image (Xiao 2018)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.claims import outcome, over_seeds
from benchmarks.class_balance import balanced, balanced_accuracy
from benchmarks.experiments.subjects import Subjects, right_answers, trained_on, xrays_of_each
from benchmarks.survey_defense_claims import attacked_model
from monai_adversarial.attacks import FGSM, PGD, Attack
from monai_adversarial.generators import AdvGAN

__all__ = ["generated_noise"]

BUDGET = 4 / 255


def _one_by_one(make: Any, images: torch.Tensor) -> float:
    """Milliseconds of CPU time for an image, each alone."""
    make(images[:1], 0)
    began = time.process_time()
    for row in range(len(images)):
        make(images[row : row + 1], row)
    return round((time.process_time() - began) / len(images) * 1e3, 2)


def generated_noise(
    data: Subjects = xrays_of_each,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    train: int = 640,
    timed: int = 16,
) -> dict[str, Any]:
    """Success and time of AdvGAN and of PGD at the same budget.

    Source: Xiao et al. 2018; in the survey as a fast attack that needs the network for its training alone.

    Survey entry: R18 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        images, labels = data(seed)["train"]
        network = trained_on(images, labels, seed)
        model = attacked_model(network)
        image, label = right_answers(data(seed)["attacked"], network)
        generator = AdvGAN(
            BUDGET, objective="cross_entropy", spatial_dims=2, channels=(8, 16, 32), hinge=0.0, seed=seed, rate=3e-3
        )
        batches = list(zip(images[:train].split(64), labels[:train].split(64), strict=True))
        began = time.process_time()
        generator.fit(model, batches, epochs)
        row: dict[str, Any] = {
            "seed": seed,
            "balanced accuracy": balanced_accuracy(network, data(seed)["attacked"]),
            "seconds of training": round(time.process_time() - began, 1),
        }
        attacks: dict[str, Attack] = {"AdvGAN": generator, "FGSM": FGSM(BUDGET), "PGD": PGD(BUDGET)}
        for name, attack in attacks.items():
            result = attack(model, image, label)
            row[f"{name}, success"] = balanced(result.success, label)

            def make(one: torch.Tensor, at: int, attack: Attack = attack, model: Any = model, y: Any = label) -> Any:
                if isinstance(attack, AdvGAN):
                    return attack.generate(model, one)
                return attack(model, one, y[at : at + 1]).adversarial

            row[f"{name}, milliseconds"] = _one_by_one(make, image[:timed])
        rows.append(row)
        print(row, flush=True)
    seen = "; ".join(
        f"{name}: success {over_seeds(row[f'{name}, success'] for row in rows)}, "
        f"{over_seeds((row[f'{name}, milliseconds'] for row in rows), 1)} ms"
        for name in ("AdvGAN", "PGD", "FGSM")
    )
    return outcome(
        "a trained generator is faster for each image than PGD, and succeeds as often",
        "Xiao 2018 in the survey",
        [row["AdvGAN, milliseconds"] < row["PGD, milliseconds"] for row in rows]
        + [row["AdvGAN, success"] >= row["PGD, success"] for row in rows],
        f"{seen}; training of the generator {over_seeds((row['seconds of training'] for row in rows), 0)} s; balanced "
        f"accuracy of the network {over_seeds(row['balanced accuracy'] for row in rows)}",
        "chest X-rays, as many of each class, budget 4 of 255, images one by one on a CPU thread, PGD with its 10 "
        f"steps, {len(seeds)} seeds",
        rows,
    )
