# SPDX-License-Identifier: Apache-2.0
"""Error of a support vector machine against the number of poison points in its training set (Biggio 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from benchmarks.claims import outcome, over_seeds
from monai_adversarial.poisoning import poison_support_vector_machine

__all__ = ["draw_poisoning", "error_with_poison", "poisoning_curve"]

#: those of the paper
PAIRS = ((7, 1), (9, 8), (4, 0))
TRAIN, VALIDATION = 100, 120


def _error(samples: np.ndarray, classes: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    machine = SVC(C=1.0, kernel="linear").fit(samples, classes)
    return round(float((machine.predict(test) != truth).mean()), 4)


def error_with_poison(digits: tuple[int, int], seed: int, points: int, steps: int) -> dict[str, list[float]]:
    """Test error after 0 to ``points`` mislabeled points: ``moved`` up the validation loss, and ``unmoved``.

    Args:
        digits: class -1, whose copies are mislabeled, and class 1.
        seed: of the split and of the copies.
        points: of poison, one after the other.
        steps: of gradient ascent for each.
    """
    found = load_digits()
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(found.target, digits)))
    samples, classes = found.data[rows] / 16, np.where(found.target[rows] == digits[1], 1, -1)
    parts = np.split(samples, [TRAIN, TRAIN + VALIDATION]), np.split(classes, [TRAIN, TRAIN + VALIDATION])
    (train, validation, test), (own, known, truth) = parts
    starts = np.random.default_rng(seed).permutation(train[own == -1])[:points]
    curves: dict[str, list[float]] = {}
    for name, moves in (("moved", steps), ("unmoved", 0)):
        now, labels = train, own
        errors = [_error(now, labels, test, truth)]
        for start in starts:
            point = start
            if moves:
                point = poison_support_vector_machine(
                    now, labels, validation, known, start, 1, steps=moves, step_size=0.3, low=0.0, high=1.0
                ).point
            now, labels = np.vstack([now, point]), np.append(labels, 1)
            errors.append(_error(now, labels, test, truth))
        curves[name] = errors
    return curves


def poisoning_curve(
    pairs: Sequence[tuple[int, int]] = PAIRS, seeds: Sequence[int] = (0, 1, 2, 3, 4), points: int = 6, steps: int = 20
) -> dict[str, Any]:
    """Test error against poison points, of points that were moved and of the same ones where they began.

    Source: Biggio, Nelson and Laskov 2012, figure 4 of theirs: MNIST, 100 training digits.

    Survey entry: R17 (adapted).
    """
    rows = []
    for digits in pairs:
        for seed in seeds:
            rows.append({"pair": list(digits), "seed": seed} | error_with_poison(digits, seed, points, steps))
            print(rows[-1], flush=True)
    comparisons = [row["moved"][-1] > row["moved"][0] for row in rows]
    comparisons += [row["moved"][-1] > row["unmoved"][-1] for row in rows]
    seen = "; ".join(
        f"{number} points: {over_seeds((row['moved'][number] for row in rows), 3)}, unmoved "
        f"{mean(row['unmoved'][number] for row in rows):.3f}"
        for number in sorted({0, 1, points // 2, points})
    )
    return outcome(
        "the error grows with the poison points in the training set, and more than by mislabeled points that were not "
        "optimized",
        "Biggio 2012 in the survey",
        comparisons,
        f"test error with {seen}",
        f"real digits of scikit-learn, 8 x 8, {len(pairs)} pairs, {len(seeds)} splits; linear SVM, "
        f"{TRAIN} training cases",
        rows,
    )


def draw_poisoning(content: dict[str, Any], file: Path) -> None:
    """The curves of each pair of digits, means over the splits.

    Args:
        content: of :func:`poisoning_curve`.
        file: PNG.
    """
    from matplotlib.figure import Figure

    rows = content["numbers"]
    pairs = list(dict.fromkeys(tuple(row["pair"]) for row in rows))
    figure = Figure(figsize=(3.0 * len(pairs), 2.8), layout="constrained")
    for axes, digits in zip(figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0], pairs, strict=True):
        for name, style in (("moved", "-"), ("unmoved", "--")):
            curves = np.array([row[name] for row in rows if tuple(row["pair"]) == digits])
            axes.plot(curves.mean(axis=0), style, marker=".", label=name)
            axes.fill_between(range(curves.shape[1]), curves.min(axis=0), curves.max(axis=0), alpha=0.15)
        axes.set(title=f"{digits[0]} labeled {digits[1]}", xlabel="poison points")
    figure.axes[0].set_ylabel("test error")
    figure.axes[0].legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
