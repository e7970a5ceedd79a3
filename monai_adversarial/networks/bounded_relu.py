# SPDX-License-Identifier: Apache-2.0
"""An activation that cannot grow without limit, and replacing the activations of a network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn

from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundedReLU", "replace_activations"]

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU)


class BoundedReLU(nn.Module):
    """``min(max(x, 0), bound)``: the error that a change of the input makes cannot grow without limit through layers.

    >>> import torch
    >>> from monai_adversarial.networks import BoundedReLU
    >>> BoundedReLU(bound=2.0)(torch.tensor([-1.0, 0.5, 9.0])).tolist()
    [0.0, 0.5, 2.0]

    Source: Zantedeschi, Nicolae, Rawat, "Efficient defenses against adversarial attacks", AISec 2017. A learned bound
    is a reconstruction (after PACT, Choi et al. 2018); it is kept as its logarithm, so that it stays above zero.

    Args:
        bound: upper limit, above zero.
        learnable: make the bound a parameter.

    Shape:
        any to the same.

    Raises:
        ValueError: for a bound that is not above zero.

    Survey entry: D14 (adapted).
    """

    def __init__(self, bound: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        self.fixed_bound = check_positive("bound", bound)
        self.learnable = bool(learnable)
        self.log_bound: nn.Parameter | None = None
        if learnable:
            self.log_bound = nn.Parameter(torch.tensor(math.log(bound)))

    @property
    def bound(self) -> float | torch.Tensor:
        """The bound in force."""
        return self.fixed_bound if self.log_bound is None else self.log_bound.exp()

    def extra_repr(self) -> str:
        bound = self.fixed_bound if self.log_bound is None else self.log_bound.detach().exp().item()
        return f"bound={bound:g}, learnable={self.learnable}"

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.log_bound is None:
            return features.clamp(0.0, self.fixed_bound)
        return torch.minimum(torch.relu(features), self.log_bound.exp().to(features.dtype))


def replace_activations(
    network: nn.Module,
    kinds: tuple[type[nn.Module], ...] = RECTIFIERS,
    make: Callable[[], nn.Module] = BoundedReLU,
) -> int:
    """Replace every module of given kinds, in place. Train, or fine-tune, the network afterwards.

    An activation that is used at several places stays shared. Activations that a network calls as functions
    (``torch.relu``) are no modules and stay as they are.

    >>> import torch
    >>> from monai.networks.nets import UNet
    >>> from monai_adversarial.networks import BoundedReLU, replace_activations
    >>> network = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    >>> replace_activations(network, make=lambda: BoundedReLU(6.0, learnable=True))
    2
    >>> replace_activations(network)
    Traceback (most recent call last):
    ValueError: ...

    Args:
        network: is changed.
        kinds: classes of modules; subclasses count.
        make: called without arguments for each module that is replaced.

    Returns:
        number of modules replaced.

    Raises:
        ValueError: when there is none, or when the network itself is one.
    """
    kinds = tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)
    if isinstance(network, kinds):
        raise ValueError(f"network must hold activations, but it is one itself ({type(network).__name__}).")
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()
        if isinstance(child, kinds)
    ]
    if not places:
        raise ValueError(
            f"the network has no module of kinds {', '.join(kind.__name__ for kind in kinds)}: nothing to replace."
        )
    made: dict[int, nn.Module] = {}
    for parent, name, child in places:
        if id(child) not in made:
            weight = next(parent.parameters(), next(network.parameters(), None))
            new = make().train(child.training)
            made[id(child)] = new if weight is None else new.to(weight.device)
        parent._modules[name] = made[id(child)]
    return len(made)
