# SPDX-License-Identifier: Apache-2.0
"""A head with sign activations, which gradients cannot see through."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_adversarial.utils.backward_pass import call_with_backward_pass
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["SURROGATES", "SignActivationHead"]

SURROGATES = ("straight_through", "tanh")


class SignActivationHead(nn.Module):
    """One hidden layer of sign units and a linear layer on features: a classifier of cases, or of voxels.

    On (batch, features) it classifies cases; on (batch, features, spatial...) it is a segmentation head of 1x1x1
    convolutions. Train it with :func:`~monai_adversarial.networks.coordinate_descent.train_by_coordinate_descent`, on
    features of similar scale (standardize them).

    A sign has no gradient. That alone is no robustness: it hides the gradient from the attacker, who takes another one.
    Judge this head by attacks that do: set ``surrogate``, or pass ``BackwardPassSubstitute("surrogate")`` (tanh) or
    ``BackwardPassSubstitute("identity")`` (straight through) to the attack, which work without touching the head.

    >>> import torch
    >>> from monai_adversarial.networks import SignActivationHead
    >>> head = SignActivationHead(features=4, hidden=8, classes=3)
    >>> features = torch.rand(1, 4, 5, 5, 5, requires_grad=True)
    >>> logits = head(features)
    >>> logits.shape, bool((torch.autograd.grad(logits.sum(), features)[0] == 0).all())
    (torch.Size([1, 3, 5, 5, 5]), True)
    >>> head.surrogate = "straight_through"
    >>> bool((torch.autograd.grad(head(features).sum(), features)[0] == 0).all())
    False

    Source: the sign-activation networks of Yang et al. 2022, trained without gradients; after Xue, Xie, Roshan,
    "Robust binary classification with the 01 loss", 2020. The use at every voxel and the surrogates are a
    reconstruction.

    Args:
        features: channels of the input.
        hidden: sign units.
        classes: outputs.
        surrogate: what stands in for the sign in every backward pass: None for its own gradient, zero;
            ``"straight_through"`` for the identity; ``"tanh"`` for ``tanh(sharpness * x)``. Values never change. Can be
            set later: ``head.surrogate = "tanh"``.
        sharpness: of the tanh, per unit of the projections on weights of length one.
        seed: of the starting weights.

    Shape:
        (batch, features, anything...) to logits (batch, classes, anything...), in float32 (float64 for weights in
        float64), under autocast too: rounding to half precision would turn signs.

    Raises:
        ValueError: for an argument out of range, or another number of channels.

    Survey entry: D13 (reconstruction).
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        classes: int = 2,
        surrogate: str | None = None,
        sharpness: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.features = check_count("features", features)
        self.hidden = check_count("hidden", hidden)
        self.classes = check_count("classes", classes, minimum=2)
        self.surrogate = surrogate
        self.sharpness = check_positive("sharpness", sharpness)
        generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))
        weight = torch.randn(hidden, features, generator=generator)
        output_weight = torch.randn(classes, hidden, generator=generator)
        self.weight = nn.Parameter(F.normalize(weight, dim=1))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.output_weight = nn.Parameter(F.normalize(output_weight, dim=1))
        self.output_bias = nn.Parameter(torch.zeros(classes))

    @property
    def surrogate(self) -> str | None:
        """What stands in for the sign in a backward pass."""
        return self._surrogate

    @surrogate.setter
    def surrogate(self, value: str | None) -> None:
        self._surrogate = None if value is None else check_choice("surrogate", value, SURROGATES)

    def extra_repr(self) -> str:
        return f"{self.features}, hidden={self.hidden}, classes={self.classes}, surrogate={self.surrogate!r}"

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim < 2 or features.shape[1] != self.features:
            raise ValueError(f"features must have shape (batch, {self.features}, ...), got {tuple(features.shape)}.")
        with torch.autocast(features.device.type, enabled=False):
            inputs = features.movedim(1, -1).to(self.weight.dtype)
            signs = self.activate(F.linear(inputs, self.weight, self.bias))
            return F.linear(signs, self.output_weight, self.output_bias).movedim(-1, 1)

    def activate(self, projections: torch.Tensor) -> torch.Tensor:
        """1 for projections of at least zero, else -1, with the backward pass chosen."""
        if self.surrogate is None:
            return call_with_backward_pass(_sign, projections, "exact", self._tanh, type(self).__name__)
        stand_in = projections if self.surrogate == "straight_through" else self._tanh(projections)
        return _sign(projections.detach()) + (stand_in - stand_in.detach())  # the difference is zero, to the bit

    def _tanh(self, projections: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.sharpness * projections)


def _sign(projections: torch.Tensor) -> torch.Tensor:
    """The sign with +1 at zero, in a form that has a gradient: zero."""
    return torch.sign(torch.sign(projections) + 0.5)
