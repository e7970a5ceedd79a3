# SPDX-License-Identifier: Apache-2.0
"""One training point that ruins a support vector machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["PoisonPoint", "poison_support_vector_machine", "validation_hinge"]

KERNELS = ("linear", "rbf")
#: share of C within which a multiplier counts as lying at its bound
EDGE = 1e-6
#: added to the diagonal of the margin's kernel matrix, as a share of its mean, where a linear kernel has no inverse
RIDGE = 1e-8


@dataclass(frozen=True)
class PoisonPoint:
    """The point that was found.

    >>> import numpy as np
    >>> from monai_adversarial.poisoning import poison_support_vector_machine
    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([-1, -1, 1, 1])
    >>> found = poison_support_vector_machine(x, y, x, y, np.array([-1.5]), 1, steps=4)
    >>> found.point.shape, found.clean_error, len(found.error)
    ((1,), 0.0, 5)

    Args:
        point: (features,).
        hinge: sum of the hinge loss over the validation set before each step and after the last one.
        error: share of the validation set that is wrong, at the same times; the first one is with the point where it
            began.
        clean_error: without any poison point.
    """

    point: np.ndarray
    hinge: list[float]
    error: list[float]
    clean_error: float


def poison_support_vector_machine(
    train: np.ndarray,
    classes: np.ndarray,
    validation: np.ndarray,
    validation_classes: np.ndarray,
    start: np.ndarray,
    start_class: int,
    kernel: str = "linear",
    C: float = 1.0,
    gamma: float = 1.0,
    steps: int = 50,
    step_size: float = 0.1,
    low: float | np.ndarray = -np.inf,
    high: float | np.ndarray = np.inf,
) -> PoisonPoint:
    """Move one mislabeled training point up the hinge loss of a validation set, training again after each step.

    The gradient goes through the conditions that hold at the machine's optimum, by which the other multipliers move
    when the point does. The best point of all steps is returned.

    Source: Biggio, Nelson, Laskov, "Poisoning attacks against support vector machines", ICML 2012, with the exact
    derivative of the margin's conditions; training anew with scikit-learn in place of the paper's incremental one.

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import poison_support_vector_machine
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> x, y = random.normal(size=(40, 2)), np.repeat([-1, 1], 20)
        >>> x[y == 1] += 2
        >>> found = poison_support_vector_machine(x[::2], y[::2], x[1::2], y[1::2], x[0], 1, steps=5)
        >>> max(found.hinge) > found.hinge[0]
        True

    Args:
        train: (cases, features).
        classes: -1 or 1 for each.
        validation: what the attacker wants to be wrong, (cases, features).
        validation_classes: -1 or 1 for each.
        start: (features,), where the point begins, for example a case of the other class.
        start_class: its label, -1 or 1, which stays.
        kernel: ``"linear"`` or ``"rbf"`` (exp(-gamma * squared distance)).
        C: of the machine.
        gamma: of the kernel.
        steps: of gradient ascent.
        step_size: length of a step in feature units.
        low, high: box of the features.

    Raises:
        ImportError: without scikit-learn.
        ValueError: for arrays that do not fit together and labels that are not -1 and 1.
    """
    check_choice("kernel", kernel, KERNELS)
    check_count("steps", steps)
    check_positive("step_size", step_size)
    train, validation, start = (np.asarray(part, dtype=np.float64) for part in (train, validation, start))
    for name, points, labels in (("classes", train, classes), ("validation_classes", validation, validation_classes)):
        if len(points) != len(labels) or set(np.unique(labels)) != {-1, 1}:
            raise ValueError(f"{name} must hold -1 and 1 for each of {len(points)} cases, got {np.unique(labels)}.")
    if start.shape != train.shape[1:] or start_class not in (-1, 1):
        raise ValueError(
            f"start must have {train.shape[1]} features and a start_class of -1 or 1, got shape {start.shape} and "
            f"{start_class}."
        )
    point = np.clip(start, low, high)
    best, hinges, errors = point, [], []
    for step in range(steps + 1):
        points = np.vstack([train, point])
        labels = np.append(classes, start_class).astype(np.float64)
        machine = _Machine(points, labels, kernel, C, gamma)
        margins = validation_classes * machine.decide(validation)
        hinges.append(float(np.maximum(0, 1 - margins).sum()))
        errors.append(float((margins <= 0).mean()))
        if hinges[-1] >= max(hinges):
            best = point
        if step < steps:
            gradient = machine.hinge_gradient(validation, np.asarray(validation_classes, dtype=np.float64))
            length = np.linalg.norm(gradient)
            if length == 0:  # nothing on the margin depends on the point
                break
            point = np.clip(point + step_size * gradient / length, low, high)
    alone = _Machine(train, np.asarray(classes, dtype=np.float64), kernel, C, gamma)
    clean = float((validation_classes * alone.decide(validation) <= 0).mean())
    return PoisonPoint(best, hinges, errors, clean)


def validation_hinge(
    train: np.ndarray,
    classes: np.ndarray,
    validation: np.ndarray,
    validation_classes: np.ndarray,
    kernel: str = "linear",
    C: float = 1.0,
    gamma: float = 1.0,
) -> float:
    """Sum of the hinge loss over a validation set, of a machine that is trained here; see
    :func:`poison_support_vector_machine`.

    Example:
        >>> from monai_adversarial.poisoning import validation_hinge
        >>> import numpy as np
        >>> x, y = np.array([[-1.0], [1.0]]), np.array([-1, 1])
        >>> round(validation_hinge(x, y, x, y), 3)
        0.0
    """
    machine = _Machine(np.asarray(train, float), np.asarray(classes, float), kernel, C, gamma)
    return float(np.maximum(0, 1 - validation_classes * machine.decide(np.asarray(validation, float))).sum())


class _Machine:
    """A trained machine; the last training case is the poison point."""

    def __init__(self, points: np.ndarray, labels: np.ndarray, kernel: str, C: float, gamma: float) -> None:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise ImportError(
                "poisoning a support vector machine needs scikit-learn: pip install scikit-learn."
            ) from error
        self.points, self.labels, self.kernel, self.C, self.gamma = points, labels, kernel, C, gamma
        machine = SVC(C=C, kernel="precomputed", tol=1e-8).fit(self._kernel(points, points), labels)
        self.multipliers = np.zeros(len(points))
        self.multipliers[machine.support_] = np.abs(machine.dual_coef_[0])
        self.offset = float(machine.intercept_[0])

    def _kernel(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if self.kernel == "linear":
            return first @ second.T
        squared = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
        return np.exp(-self.gamma * np.maximum(squared, 0))

    def _slope(self, points: np.ndarray) -> np.ndarray:
        """Derivative of the kernel between each point and the poison point by the latter, (points, features)."""
        poison = self.points[-1]
        if self.kernel == "linear":
            return points.copy()
        return 2 * self.gamma * self._kernel(points, poison[None]) * (points - poison)

    def decide(self, points: np.ndarray) -> np.ndarray:
        """Values of the discriminant, (points,)."""
        return self._kernel(points, self.points) @ (self.multipliers * self.labels) + self.offset

    def hinge_gradient(self, validation: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Derivative of the validation hinge by the poison point, (features,).

        On the margin y_i f(x_i) = 1 holds, and the sum of y_i alpha_i is 0. Their derivative by the point is a linear
        system in those of the free multipliers and the offset, of which the machine's discriminant is a function.
        """
        alpha, labels = self.multipliers, self.labels
        free = np.flatnonzero((alpha > EDGE * self.C) & (alpha < (1 - EDGE) * self.C))
        poison = len(alpha) - 1
        weight = alpha[poison] * labels[poison]
        # Direct: the kernel between the validation set and the point changes.
        direct = weight * self._slope(validation)
        # On the margin: the same kernel, and for the point itself every kernel of its own row.
        known = weight * self._slope(self.points[free])
        if poison in free:
            row = (alpha * labels) @ self._slope(self.points)
            own = weight * self._slope(self.points[[poison]])[0]
            place = int(np.flatnonzero(free == poison)[0])
            # k(x, x) changes by both of its arguments; with the row's sum one of them is counted already.
            known[place] = row + (own if self.kernel == "linear" else 0)
        if not len(free):
            moved = direct
        else:
            inner = self._kernel(self.points[free], self.points[free])
            inner = inner + RIDGE * np.trace(inner) / len(free) * np.eye(len(free))
            system = np.zeros((len(free) + 1, len(free) + 1))
            system[:-1, :-1], system[:-1, -1], system[-1, :-1] = inner, 1.0, 1.0
            right = np.vstack([-known, np.zeros((1, known.shape[1]))])
            change = np.linalg.solve(system, right)  # of alpha * y, and of the offset
            moved = direct + self._kernel(validation, self.points[free]) @ change[:-1] + change[-1]
        inside = classes * self.decide(validation) < 1
        return -(classes[inside, None] * moved[inside]).sum(axis=0)
