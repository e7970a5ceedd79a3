# SPDX-License-Identifier: Apache-2.0
"""Clean-label poison against one victim: the training gradient of some cases is turned towards the attacker's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from monai_adversarial.utils.modules import held_still
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["MatchedPoison", "gradient_matching"]


@dataclass(frozen=True)
class MatchedPoison:
    """Cases whose training does to the network what training on the victim's wrong label would do.

    >>> import torch
    >>> from monai_adversarial.poisoning import gradient_matching
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2))
    >>> images, labels, victim = torch.rand(4, 1, 2, 2, 2), torch.tensor([0, 0, 1, 1]), torch.rand(1, 1, 2, 2, 2)
    >>> loss = torch.nn.functional.cross_entropy
    >>> found = gradient_matching(network, loss, victim, torch.tensor([1]), images, labels, 0.1, steps=3)
    >>> found.images.shape, len(found.alignment)
    (torch.Size([4, 1, 2, 2, 2]), 4)

    Args:
        images: the poisoned images; labels stay as they are.
        alignment: cosine between both gradients before the first step and after each one, of the restart that is kept.
    """

    images: torch.Tensor
    alignment: list[float]


def gradient_matching(
    network: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    victim: torch.Tensor,
    wanted: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    steps: int = 250,
    restarts: int = 1,
    step_size: float | None = None,
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
) -> MatchedPoison:
    """Change some training images within an L-infinity budget, so that a network trained on them fails on one case.

    The gradient of the loss on the poison, by the network's weights, is turned towards that of the victim with the
    wanted label. Adam moves along the signs of the gradients; its steps fall tenfold after 3/8, 5/8 and 7/8 of them.

    Source: Geiping et al., "Witches' Brew: industrial scale data poisoning via gradient matching", ICLR 2021; here
    without the random augmentation of its poison. For graphs Zügner et al. 2018 have the same aim.

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import gradient_matching
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images, labels = torch.rand(4, 1, 2, 2, 2), torch.tensor([0, 0, 1, 1])
        >>> loss = torch.nn.functional.cross_entropy
        >>> found = gradient_matching(network, loss, images[:1], torch.tensor([1]), images, labels, 0.1, steps=10)
        >>> found.alignment[-1] > found.alignment[0], bool((found.images - images).abs().max() <= 0.1 + 1e-6)
        (True, True)

    Args:
        network: trained as the victim's is expected to be; its weights, modes and gradients stay as they are.
        loss: of logits and labels, the training's.
        victim: (1, channel, spatial...).
        wanted: its wrong label, in the form that ``loss`` takes.
        images: that may be poisoned, (cases, channel, spatial...), in the units that the network sees.
        labels: their true labels.
        epsilon: largest change of a voxel, in those units.
        steps: of each restart.
        restarts: the one with the best alignment is kept.
        step_size: of the first steps; None for a tenth of ``epsilon``.
        low, high: range of values that the images keep; None for the range of the clean ones.
        seed: of the random starts, one stream for each case.

    Raises:
        ValueError: for a victim that is not one case, or labels of another number.
    """
    check_positive("epsilon", epsilon)
    check_count("steps", steps)
    check_count("restarts", restarts)
    rate = epsilon / 10 if step_size is None else check_positive("step_size", step_size)
    if victim.shape[0] != 1 or len(images) != len(labels):
        raise ValueError(
            f"victim must be one case and labels as many as images, got {victim.shape[0]}, {len(labels)} and "
            f"{len(images)}."
        )
    bottom = float(images.min()) if low is None else low
    top = float(images.max()) if high is None else high
    generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))
    best: MatchedPoison | None = None
    with held_still(network) as held, torch.enable_grad():
        assert isinstance(held, nn.Module)
        weights = [weight for weight in held.parameters()]
        for weight in weights:
            weight.requires_grad_(True)
        aim = torch.autograd.grad(loss(held(victim), wanted), weights, allow_unused=True)

        def aligned(poison: torch.Tensor) -> torch.Tensor:
            own = torch.autograd.grad(loss(held(poison), labels), weights, create_graph=True, allow_unused=True)
            pairs = [(a, b) for a, b in zip(aim, own, strict=True) if a is not None and b is not None]
            inner = torch.stack([(a * b).sum() for a, b in pairs]).sum()
            lengths = [torch.stack([one[side].square().sum() for one in pairs]).sum() for side in (0, 1)]
            return inner / (lengths[0] * lengths[1]).sqrt().clamp_min(torch.finfo(poison.dtype).tiny)

        for _ in range(restarts):
            draw = torch.rand(images.shape, generator=generator, dtype=torch.float32).to(images) * 2 - 1
            change = ((images + epsilon * draw).clamp(bottom, top) - images).requires_grad_()
            optimizer = torch.optim.Adam([change], rate)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * n // 8 for n in (3, 5, 7)], 0.1)
            course, kept, most = [], change.detach().clone(), -2.0
            for step in range(steps + 1):
                value = aligned(images + change)
                course.append(float(value.detach()))
                if course[-1] > most:
                    kept, most = change.detach().clone(), course[-1]
                if step == steps:
                    break
                (gradient,) = torch.autograd.grad(value, change)
                change.grad = -gradient.sign()
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    change.copy_((images + change.clamp(-epsilon, epsilon)).clamp(bottom, top) - images)
            if best is None or most > max(best.alignment):
                best = MatchedPoison(images + kept, course)
        for weight in weights:
            weight.requires_grad_(False)
    assert best is not None
    return best
