# SPDX-License-Identifier: Apache-2.0
"""Attacks on the prompt of an interactive network."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.prompt import PromptPerturbation
from monai_adversarial.attacks.search import RandomSearch

__all__ = ["PromptAttack"]


class PromptAttack(Attack):
    """The worst clicks, points or box corners within a few mm of the given ones; the image stays as it is.

    >>> import torch
    >>> from monai_adversarial.attacks import PromptAttack
    >>> from monai_adversarial.models import AttackedModel
    >>> from monai_adversarial.networks import PointPromptedNetwork
    >>> def ball(image, points):  # segments what is within 4 voxels of the point
    ...     axes = torch.meshgrid(*[torch.arange(n) for n in image.shape[2:]], indexing="ij")
    ...     away = torch.stack(axes) - points[:, 0].view(-1, 3, 1, 1, 1)
    ...     return 4 - away.square().sum(dim=1, keepdim=True).add(1e-3).sqrt() + 0 * image
    >>> network = PointPromptedNetwork(ball, count=1)
    >>> joined = network.join(torch.zeros(1, 1, 16, 16, 16), torch.tensor([[[8.0, 8.0, 8.0]]]))
    >>> result = PromptAttack(3.0, "points", steps=4)(AttackedModel(network, image_channels=[1]), joined, spacing=1.0)
    >>> bool(result.adversarial_dice < 0.8), result.budgets["prompt_displacement"].limit
    (True, 3.0)

    Args:
        max_displacement, prompts, sigma: see :class:`~monai_adversarial.attacks.PromptPerturbation`.
        steps: gradients, or queries.
        by_queries: random draws of the prompts, for a network that rounds or thresholds them: no gradient is asked for.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"dice"`` by
            default.

    Source: our own.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_displacement: float = 5.0,
        prompts: str = "clicks",
        sigma: float = 3.0,
        steps: int = 10,
        by_queries: bool = False,
        **options: Any,
    ) -> None:
        search = RandomSearch() if by_queries else None
        perturbation = PromptPerturbation(max_displacement, prompts, sigma)
        super().__init__(perturbation, search=search, steps=steps, **{"objective": "dice", **options})
