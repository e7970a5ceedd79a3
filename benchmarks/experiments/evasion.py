# SPDX-License-Identifier: Apache-2.0
"""Figure 1: a linear machine on digits, evaded along its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from benchmarks.claims import outcome, over_seeds
from monai_adversarial.attacks import AdditiveNoise, Attack, Margin, SteepestAscent
from monai_adversarial.classical import EvasionAttack, discriminant_of
from monai_adversarial.models import AttackedModel

__all__ = ["digit_pair", "draw_evasion", "evaded_digits"]

#: the first digit of each shall pass as the second
PAIRS = ((3, 7), (4, 9), (8, 1))
#: Euclidean, of images whose pixels are 0 to 1
DISTANCES = (0.5, 1.0, 1.5)


def digit_pair(digits: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels and classes, 1 for the first digit and 0 for the second: two thirds to train, then the others."""
    found = load_digits()
    rows = np.flatnonzero(np.isin(found.target, digits))
    rows = np.random.default_rng(seed).permutation(rows)
    samples, labels = found.data[rows] / 16, (found.target[rows] == digits[0]).astype(int)
    cut = 2 * len(rows) // 3
    return samples[:cut], labels[:cut], samples[cut:], labels[cut:]


def _attacked(machine: LinearSVC, samples: np.ndarray, attack: Attack) -> np.ndarray:
    model = AttackedModel(discriminant_of(machine), task="classification", output_values="logits")
    changed = attack(model, torch.from_numpy(samples[:, None]), torch.ones(len(samples), dtype=torch.int64))
    return changed.adversarial[:, 0].numpy()


def evaded_digits(pairs: Sequence[tuple[int, int]] = PAIRS, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> dict[str, Any]:
    """Share of digits that pass as others within a distance, along the gradient and in a random direction.

    Source: figure 1 of the survey, after Biggio et al. 2013, there on MNIST.

    Survey entry: R01 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for digits in pairs:
        for seed in seeds:
            samples, labels, test, classes = digit_pair(digits, seed)
            machine = LinearSVC(C=1.0, random_state=0).fit(samples, labels)
            known = test[(classes == 1) & (machine.predict(test) == 1)]
            noise = np.random.default_rng(seed).standard_normal(known.shape)
            noise /= np.linalg.norm(noise, axis=1, keepdims=True)
            row = {"pair": list(digits), "seed": seed, "accuracy": round(float(machine.score(test, classes)), 4)}
            for distance in DISTANCES:
                changed = _attacked(machine, known, EvasionAttack(distance))
                row[f"gradient {distance}"] = round(float((machine.predict(changed) == 0).mean()), 4)
                row[f"random {distance}"] = round(float((machine.predict(known + distance * noise) == 0).mean()), 4)
            rows.append(row)
    widest = DISTANCES[-1]
    seen = "; ".join(
        f"within {d:g}: {over_seeds(row[f'gradient {d}'] for row in rows)}, at random "
        f"{mean(row[f'random {d}'] for row in rows):.2f}"
        for d in DISTANCES
    )
    return outcome(
        "gradient descent evades a linear machine that classifies digits (Fig. 1), here: half of the right ones more "
        f"than a random change of the same length, {widest:g}",
        "Biggio 2013 in the survey; the bound is ours",
        [row[f"gradient {widest}"] >= row[f"random {widest}"] + 0.5 for row in rows],
        f"share that passes {seen}",
        f"real digits of scikit-learn, 8 x 8; {len(pairs)} pairs, {len(seeds)} splits of each, linear SVM",
        rows,
    )


def draw_evasion(file: Path, digits: tuple[int, int] = PAIRS[0], distance: float = 2.0, steps: int = 20) -> None:
    """A digit at some iterations of gradient descent, and the discriminant at all of them.

    Args:
        file: PNG.
        digits: what it is, and what it shall pass as.
        distance: which all iterations together go.
        steps: of them.
    """
    from matplotlib.figure import Figure

    samples, labels, test, classes = digit_pair(digits, 0)
    machine = LinearSVC(C=1.0, random_state=0).fit(samples, labels)
    start = test[(classes == 1) & (machine.predict(test) == 1)][:1]
    path = [start[0]]
    for number in range(1, steps + 1):
        noise, search = AdditiveNoise(distance, "l2"), SteepestAscent(1 / steps, schedule="constant")
        descent = Attack(noise, Margin(float("inf")), search, steps=number, random_start=False)
        path.append(_attacked(machine, start, descent)[0])
    values = machine.decision_function(np.stack(path))
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 2])
    for axes, number in zip(panels, (0, steps // 4, steps // 2, steps), strict=False):
        axes.imshow(path[number].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        axes.set(title=f"iteration {number}", xlabel=f"g = {values[number]:+.2f}", xticks=[], yticks=[])
    panels[-1].plot(range(steps + 1), values, marker=".")
    panels[-1].axhline(0, color="0.5", linewidth=1)
    panels[-1].set(xlabel="iteration", ylabel="discriminant g", title=f"a {digits[0]} above 0, a {digits[1]} below")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
