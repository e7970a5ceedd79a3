# SPDX-License-Identifier: Apache-2.0
"""Several networks, or several draws of a random one, as one network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_adversarial.utils.backward_pass import call_with_backward_pass
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["SeedEnsemble"]

COMBINATIONS = ("probabilities", "logits", "majority")


class SeedEnsemble(nn.Module):
    """One network that combines networks of several training seeds (or kinds) and returns logits.

    The members run one after the other. An attack on the ensemble goes through all of them; the gradient is exact for
    ``"probabilities"`` and ``"logits"``. ``"majority"`` counts votes, which has no useful gradient:
    ``BackwardPassSubstitute()`` differentiates the mean of the probabilities instead.

    >>> import torch
    >>> from monai_adversarial.networks import SeedEnsemble
    >>> members = [torch.nn.Conv3d(1, 3, 1) for _ in range(3)]
    >>> image = torch.rand(1, 1, 4, 4, 4)
    >>> mean = torch.stack([member(image).softmax(dim=1) for member in members]).mean(dim=0)
    >>> torch.allclose(SeedEnsemble(members)(image).softmax(dim=1), mean, atol=1e-5)
    True

    Source: ensembles are textbook (Strauss et al., "Ensemble methods as a defense to adversarial perturbations", 2017);
    the surrogate of the majority is a reconstruction.

    Args:
        networks: image to logits (batch, class, anything...), all of the same shape; one network for several ``draws``.
        combine: ``"probabilities"``: logarithm of the mean probability (softmax), or the logit of it (sigmoid).
            ``"logits"``: mean logits. ``"majority"``: softmax: logarithm of the share of votes; sigmoid: the logit of
            it, for each channel. Ties are decided by the mean probability, which counts as half a vote at most.
        activation: ``"softmax"``, ``"sigmoid"``, or None: sigmoid for networks with one output channel, softmax
            otherwise.
        draws: forward passes per network, each under another random draw, for members that are random in evaluation
            mode (``FeatureNoise(always=True)``: the random self-ensemble).

    Shape:
        image to logits (batch, class, anything...), float32 (float64 where the members return it).

    Raises:
        ValueError: for no networks or an unknown choice.
        TypeError: for a member that is not a module, or does not return one tensor.

    Survey entry: D15 (adapted).
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        combine: str = "probabilities",
        activation: str | None = None,
        draws: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList):
            networks = [networks]  # also a Sequential: its layers are no members
        members = list(networks)
        if not members:
            raise ValueError("networks must hold at least one network, got none.")
        for network in members:
            if not isinstance(network, nn.Module):
                raise TypeError(f"networks must hold torch.nn.Module, got {type(network).__name__}.")
        self.networks = nn.ModuleList(members)
        self.combine = check_choice("combine", combine, COMBINATIONS)
        self.activation = None if activation is None else check_choice("activation", activation, ("softmax", "sigmoid"))
        self.draws = check_count("draws", draws)

    def extra_repr(self) -> str:
        return f"combine={self.combine!r}, activation={self.activation!r}, draws={self.draws}"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.combine == "majority" and not image.requires_grad:
            with torch.no_grad():
                return self._majority(self._members(image))
        members = self._members(image)
        if self.combine == "logits":
            return members.mean(dim=0)
        mean = self._mean_probability(members)
        if self.combine == "probabilities":
            return mean
        return call_with_backward_pass(
            lambda _: self._majority(members.detach()), mean, "surrogate", lambda x: x, "SeedEnsemble's majority vote"
        )

    def _members(self, image: torch.Tensor) -> torch.Tensor:
        """(member, batch, class, anything...)."""
        found = []
        for network in self.networks:
            for draw in range(self.draws):
                if self.draws == 1:
                    logits = network(image)
                else:
                    with random_draw(draw):
                        logits = network(image)
                if not isinstance(logits, torch.Tensor):
                    raise TypeError(
                        f"a member of the ensemble must return one tensor of logits, got {type(logits).__name__} from "
                        f"{type(network).__name__}."
                    )
                found.append(logits if logits.dtype == torch.float64 else logits.float())
        if any(logits.shape != found[0].shape for logits in found):
            shapes = sorted({tuple(logits.shape) for logits in found})
            raise ValueError(f"the members of the ensemble must return logits of one shape, got {shapes}.")
        return torch.stack(found)

    def _sigmoid(self, members: torch.Tensor) -> bool:
        return self.activation == "sigmoid" or (self.activation is None and members.shape[2] == 1)

    def _mean_probability(self, members: torch.Tensor) -> torch.Tensor:
        if self._sigmoid(members):
            return F.logsigmoid(members).logsumexp(dim=0) - F.logsigmoid(-members).logsumexp(dim=0)
        return F.log_softmax(members, dim=2).logsumexp(dim=0) - math.log(len(members))

    def _majority(self, members: torch.Tensor) -> torch.Tensor:
        count = len(members)
        # Half a vote at most: it decides ties, never a majority.
        if self._sigmoid(members):
            votes = (members > 0).to(members.dtype).sum(dim=0) - count / 2 + 0.5 * (members.sigmoid().mean(dim=0) - 0.5)
            share = (votes / (count + 0.5) + 0.5).clamp(1e-6, 1 - 1e-6)
            return share.log() - (-share).log1p()
        chosen = members.argmax(dim=2, keepdim=True)
        votes = torch.zeros_like(members).scatter_(2, chosen, 1.0).sum(dim=0)
        share = (votes + 0.5 * members.softmax(dim=2).mean(dim=0)) / (count + 0.5)
        return share.clamp_min(torch.finfo(share.dtype).tiny).log()
