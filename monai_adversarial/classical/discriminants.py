# SPDX-License-Identifier: Apache-2.0
"""Discriminants of fitted scikit-learn classifiers, as networks that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LinearDiscriminant", "MLPDiscriminant", "RBFDiscriminant", "discriminant_of"]


def _fixed(values: Any) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float64), requires_grad=False)


class LinearDiscriminant(nn.Module):
    """``g(x) = w x + b``; positive for the second class.

    >>> import torch
    >>> from monai_adversarial.classical import LinearDiscriminant
    >>> LinearDiscriminant([1.0, -2.0], 0.5)(torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)).item()
    1.5

    Args:
        weight: one number per feature.
        bias: b.
    """

    def __init__(self, weight: Any, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = _fixed(weight), _fixed(bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, 1) of vectors (batch, 1, feature)."""
        return (features.flatten(1) @ self.weight + self.bias).unsqueeze(1)


class RBFDiscriminant(nn.Module):
    """``g(x) = sum a_i y_i exp(-gamma |x - x_i|^2) + b`` of a support vector machine.

    >>> import torch
    >>> from monai_adversarial.classical import RBFDiscriminant
    >>> one = RBFDiscriminant([[0.0, 0.0]], [1.0], 0.0, gamma=1.0)
    >>> one(torch.zeros(1, 1, 2, dtype=torch.float64)).item()
    1.0

    Args:
        support: support vectors, (vector, feature).
        dual: ``a_i y_i`` of each.
        bias: b.
        gamma: of the kernel.
    """

    def __init__(self, support: Any, dual: Any, bias: float, gamma: float) -> None:
        super().__init__()
        self.support, self.dual, self.bias = _fixed(support), _fixed(dual), _fixed(bias)
        self.gamma = float(gamma)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, 1) of vectors (batch, 1, feature)."""
        away = (features.flatten(1).unsqueeze(1) - self.support).square().sum(dim=2)
        return (torch.exp(-self.gamma * away) @ self.dual + self.bias).unsqueeze(1)


class MLPDiscriminant(nn.Module):
    """The logit of a multilayer perceptron.

    >>> import torch
    >>> from monai_adversarial.classical import MLPDiscriminant
    >>> MLPDiscriminant([[[2.0], [1.0]]], [[0.5]], "relu")(torch.ones(1, 1, 2, dtype=torch.float64)).item()
    3.5

    Args:
        weights: one matrix (input, output) per layer, the last with one output.
        biases: one vector per layer.
        activation: between layers: ``"relu"``, ``"tanh"``, ``"logistic"`` or ``"identity"``.
    """

    def __init__(self, weights: Any, biases: Any, activation: str = "relu") -> None:
        super().__init__()
        self.weights = nn.ParameterList(map(_fixed, weights))
        self.biases = nn.ParameterList(map(_fixed, biases))
        between: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "relu": F.relu,
            "tanh": torch.tanh,
            "logistic": torch.sigmoid,
            "identity": lambda x: x,
        }
        if activation not in between:
            raise ValueError(f"activation must be one of {', '.join(map(repr, between))}, got {activation!r}.")
        self.between = between[activation]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, 1) of vectors (batch, 1, feature)."""
        found = features.flatten(1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found = (found if number == 0 else self.between(found)) @ weight + bias
        return found


def discriminant_of(estimator: Any) -> nn.Module:
    """The discriminant of a fitted scikit-learn classifier of two classes.

    >>> from types import SimpleNamespace
    >>> from monai_adversarial.classical import discriminant_of
    >>> fitted = SimpleNamespace(classes_=[0, 1], coef_=[[1.0, -2.0]], intercept_=[0.5])  # as LinearSVC().fit leaves it
    >>> type(discriminant_of(fitted)).__name__
    'LinearDiscriminant'

    Args:
        estimator: ``LinearSVC``, ``SVC`` with a linear or RBF kernel, ``LogisticRegression``, or ``MLPClassifier``.

    Raises:
        TypeError: for another estimator or kernel.
        ValueError: for one that was not fitted, or fitted to more than two classes.
    """
    name = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if classes is None or len(classes) != 2:
        found = "none" if classes is None else str(len(classes))
        raise ValueError(f"estimator must be fitted to two classes, got {name} with {found}.")
    if name == "MLPClassifier":
        return MLPDiscriminant(estimator.coefs_, estimator.intercepts_, estimator.activation)
    kernel = getattr(estimator, "kernel", "linear")
    if kernel == "rbf" and name == "SVC":
        # scikit-learn keeps the number that "scale" or "auto" stands for in a private attribute only.
        return RBFDiscriminant(
            estimator.support_vectors_, estimator.dual_coef_[0], estimator.intercept_[0], estimator._gamma
        )
    if kernel == "linear" and hasattr(estimator, "coef_"):
        return LinearDiscriminant(estimator.coef_[0], estimator.intercept_[0])
    raise TypeError(
        f"estimator must be a LinearSVC, an SVC with a linear or RBF kernel, a LogisticRegression or an MLPClassifier, "
        f"got {name} with kernel {kernel!r}."
    )
