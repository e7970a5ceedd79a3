# SPDX-License-Identifier: Apache-2.0
"""The point that ruins a support vector machine: its gradient against training anew, and the error that it makes."""

from __future__ import annotations

import numpy as np
import pytest

from monai_adversarial.poisoning import poison_support_vector_machine, validation_hinge
from monai_adversarial.poisoning.support_vector_machine import _Machine


def two_clouds(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points, classes = random.normal(size=(count, 2)), np.tile([-1, 1], count // 2)
    points[classes == 1] += 1.6
    return points, classes


@pytest.mark.parametrize(("kernel", "C"), [("linear", 0.5), ("rbf", 0.5), ("rbf", 5.0)])
def test_gradient_is_that_of_machines_trained_anew(kernel: str, C: float) -> None:
    train, classes = two_clouds(0)
    validation, wanted = two_clouds(1)
    checked, moving = 0, 0
    for seed in range(12):
        point = np.random.default_rng(100 + seed).normal(size=2) + 0.8
        labels = np.append(classes, 1)

        def hinge(at: np.ndarray, labels: np.ndarray = labels) -> float:
            return validation_hinge(np.vstack([train, at]), labels, validation, wanted, kernel, C, 0.5)

        step = 1e-4
        numeric = np.array([(hinge(point + step * e) - hinge(point - step * e)) / (2 * step) for e in np.eye(2)])
        machine = _Machine(np.vstack([train, point]), labels.astype(float), kernel, C, 0.5)
        exact = machine.hinge_gradient(validation, wanted.astype(float))
        if np.linalg.norm(numeric) < 1e-3:
            continue
        # Where a multiplier leaves its bound in between, neither is a derivative: most places must agree.
        moving += 1
        checked += np.allclose(exact, numeric, rtol=0.03, atol=3e-3)
    assert checked >= max(3, 0.75 * moving)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_one_point_raises_the_error(kernel: str) -> None:
    train, classes = two_clouds(2)
    validation, wanted = two_clouds(3, 400)
    start = train[classes == -1][0]
    found = poison_support_vector_machine(
        train, classes, validation, wanted, start, 1, kernel, C=1.0, gamma=0.5, steps=40, step_size=0.2, low=-4, high=6
    )
    assert max(found.hinge) > 1.02 * found.hinge[0]
    assert found.hinge[0] == pytest.approx(
        validation_hinge(np.vstack([train, start]), np.append(classes, 1), validation, wanted, kernel, 1.0, 0.5)
    )
    random = np.random.default_rng(0).uniform(-4, 6, (20, 2))
    chance = [
        validation_hinge(np.vstack([train, at]), np.append(classes, 1), validation, wanted, kernel, 1.0, 0.5)
        for at in random
    ]
    assert max(found.hinge) >= np.median(chance)
    assert (found.point >= -4).all() and (found.point <= 6).all()


def test_labels_other_than_minus_one_and_one_are_refused() -> None:
    train, classes = two_clouds(0)
    with pytest.raises(ValueError, match="classes must hold -1 and 1"):
        poison_support_vector_machine(train, (classes + 1) // 2, train, classes, train[0], 1)
    with pytest.raises(ValueError, match="start must have 2 features"):
        poison_support_vector_machine(train, classes, train, classes, train[0, :1], 1)
