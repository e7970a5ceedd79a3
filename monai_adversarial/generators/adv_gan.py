# SPDX-License-Identifier: Apache-2.0
"""AdvGAN: noise from a generator, which a discriminator keeps plausible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.attacks import Objective
from monai_adversarial.attacks.perturbations import AdditiveNoise, BoundPerturbation
from monai_adversarial.generators.generated_attack import GeneratedAttack
from monai_adversarial.generators.made import Made
from monai_adversarial.generators.training import Penalty, Settings
from monai_adversarial.utils.validation import check_positive

__all__ = ["AdvGAN", "noise_hinge"]


def noise_hinge(bound: float) -> Penalty:
    """What noise costs beyond a root mean square of ``bound`` times the budget."""

    def penalty(
        perturbation: BoundPerturbation, made: Made, changed: torch.Tensor, label: torch.Tensor | None
    ) -> torch.Tensor:
        share = made.parameters[0] / perturbation.radii[0].clamp_min(torch.finfo(changed.dtype).tiny)
        return (share.flatten(1).square().mean(dim=1) + 1e-12).sqrt().sub(bound).clamp_min(0)

    return penalty


class AdvGAN(GeneratedAttack):
    """Noise ``epsilon * tanh(G(x))`` from a trained network: no gradient and no query of the model at the time of the
    attack.

    Example:
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.generators import AdvGAN
        >>> model = example_case(16)[0]
        >>> cases = [example_case(16, seed=seed)[1:] for seed in range(3)]
        >>> attack = AdvGAN(15, "HU", channels=(4, 8), rate=1e-2)
        >>> history = attack.fit(model, cases, epochs=2)
        >>> result = attack(model, *example_case(16, seed=9)[1:])
        >>> bool(result.adversarial_dice < result.clean_dice), result.backwards
        (True, 0)

    Args:
        epsilon, units: the L-infinity budget; see :class:`~monai_adversarial.attacks.AdditiveNoise`.
        objective: what the generator is trained to raise; ``"margin"`` is the loss of Carlini and Wagner.
        adversarial, realism, hinge: weights of the objective, of the discriminator's verdict and of the noise's size.
        free: root mean square of the noise, as a share of ``epsilon``, that costs nothing.
        rate, milestones: of Adam, and the epochs after which it falls tenfold.
        options: see :class:`~monai_adversarial.generators.GeneratedAttack`: size of the generator, ``gradient=`` for a
            training by queries or against surrogates, ``seed``.

    Raises:
        ValueError: for a negative budget or weight.

    Source: Xiao et al., "Generating adversarial examples with adversarial networks", IJCAI 2018: least-squares GAN,
    weights 10, 1 and 1, and the falling rate as in a public PyTorch version. Here in 3D, with a U-Net, a spectrally
    normalized patch discriminator, a Dice objective, and ``tanh`` instead of clamping.

    Survey entry: A17 (adapted).
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        objective: str | Objective = "dice",
        adversarial: float = 10.0,
        realism: float = 1.0,
        hinge: float = 1.0,
        free: float = 0.0,
        rate: float = 1e-3,
        milestones: Sequence[int] = (50, 80),
        **options: Any,
    ) -> None:
        settings = Settings(
            check_positive("adversarial", adversarial, allow_zero=True),
            check_positive("realism", realism, allow_zero=True),
            check_positive("hinge", hinge, allow_zero=True),
            check_positive("rate", rate),
            milestones=tuple(milestones),
        )
        penalty = noise_hinge(check_positive("free", free, allow_zero=True))
        heads = (options.get("in_channels", 1),)
        super().__init__(AdditiveNoise(epsilon, units=units), objective, heads, settings, penalty, **options)
