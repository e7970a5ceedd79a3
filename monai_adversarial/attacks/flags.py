# SPDX-License-Identifier: Apache-2.0
"""Signs that gradients are masked: what an ensemble of attacks sees of a network that its gradients do not describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_adversarial.inferers.purified import purifies_at_random
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["HIDDEN", "MOST_ZERO", "PAGE", "ROOM", "UNBROKEN", "Flag", "MemberTrace", "find_flags", "say_zero_gradients"]

PAGE = "docs/gradient_masking.md"
#: share of gradient entries that are exactly zero above which signs say little
MOST_ZERO = 0.9
#: Dice by which a weaker attacker may be ahead of a stronger one before it is said
ROOM = 0.02
#: Dice that the network's own answer loses where what is scored loses less than ``ROOM``
HIDDEN = 0.1
#: share of the clean Dice that must be left before a search that found nothing is suspicious
UNBROKEN = 0.5


@dataclass(frozen=True)
class Flag:
    """One sign.

    >>> from monai_adversarial.attacks import Flag
    >>> flag = Flag("zero_gradients", "99% of the gradient's entries are exactly zero in one sample.")
    >>> flag.page
    'docs/gradient_masking.md#zero-gradients'

    Args:
        name: one of ``"zero_gradients"``, ``"queries_beat_gradients"``, ``"no_ascent"``, ``"random_answers"``,
            ``"saturated_output"`` of ensembles, and ``"random_direction"``, ``"plateau"``, ``"jagged_way"`` of loss
            landscapes.
        text: what was seen, in one sentence.
    """

    name: str
    text: str

    @property
    def page(self) -> str:
        """Where the documentation says what it means and what to do."""
        return f"{PAGE}#{self.name.replace('_', '-')}"

    def __str__(self) -> str:
        return f"flag {self.name}: {self.text} See {self.page}."


@dataclass(frozen=True)
class MemberTrace:
    """What is kept of one member's run.

    Args:
        name: of the member.
        by_queries: it used no gradients.
        averages: its gradients were means over several draws.
        dice: mean foreground Dice that it left, (batch,); NaN where it did not run.
        gain: how much better its best point was than the first one that it evaluated, in its objective, (batch,).
        zeros: mean share of gradient entries that were exactly zero, (batch,).
    """

    name: str
    by_queries: bool
    averages: bool
    dice: torch.Tensor
    gain: torch.Tensor
    zeros: torch.Tensor


def find_flags(traces: Sequence[MemberTrace], clean_dice: torch.Tensor, model: AttackedModel) -> list[Flag]:
    """The signs that a run of several members on one batch shows; empty where there are none.

    Args:
        traces: of the members that ran on some samples.
        clean_dice: mean foreground Dice of the clean batch, (batch,).
        model: what was attacked.
    """
    gradient = [trace for trace in traces if not trace.by_queries]
    queries = [trace for trace in traces if trace.by_queries]
    found = []
    zeros = _most([trace.zeros for trace in gradient])
    if zeros > MOST_ZERO:
        found.append(Flag("zero_gradients", f"{zeros:.0%} of the gradient's entries are exactly zero in one sample."))
    if gradient and queries:
        best = torch.stack([trace.dice.nan_to_num(torch.inf) for trace in gradient]).amin(dim=0)
        for trace in queries:
            ahead = _most([best - trace.dice])
            if ROOM < ahead < float("inf"):
                found.append(
                    Flag(
                        "queries_beat_gradients",
                        f"{trace.name}, which knows no gradient, leaves {ahead:.3f} less Dice than the best member "
                        "with gradients in one sample.",
                    )
                )
    if gradient:
        gains = torch.stack([trace.gain.nan_to_num(-torch.inf) for trace in gradient]).amax(dim=0)
        left = torch.stack([trace.dice.nan_to_num(torch.inf) for trace in gradient]).amin(dim=0)
        stuck = (gains <= 0) & (left > UNBROKEN * clean_dice) & left.isfinite() & gains.isfinite()
        if bool(stuck.any()):
            found.append(
                Flag(
                    "no_ascent",
                    f"no member with gradients got beyond its first point in {int(stuck.sum())} of {len(stuck)} "
                    "samples.",
                )
            )
    draws = model.found_random or purifies_at_random(model.inferer)
    if draws and not any(trace.averages for trace in gradient):
        found.append(Flag("random_answers", "the network answers at random and no member averages over its draws."))
    if model.found_output_values == "probabilities" and model.found_final_activation is None:
        found.append(
            Flag("saturated_output", "the network returns probabilities whose final activation could not be left out.")
        )
    return found


def say_zero_gradients(
    model: AttackedModel, zeros: torch.Tensor, clean: torch.Tensor, left: torch.Tensor, success: torch.Tensor
) -> None:
    """Warn, once for a network, of an attack that had no gradient to follow and left the score standing.

    Args:
        model: what was attacked.
        zeros: mean share of gradient entries that were exactly zero, (batch,); NaN where nothing was differentiated.
        clean: score of the clean batch, (batch,).
        left: score under attack, (batch,).
        success: boolean (batch,), samples in which the attack succeeded.
    """
    blind = (zeros > MOST_ZERO) & ~success & ~((left <= UNBROKEN * clean) | left.isnan())
    count = int(blind.sum())
    if not count:
        return
    model.warn_once(
        "zero gradients",
        f"the attack had hardly a gradient to follow: {float(zeros[blind].mean()):.1%} of its entries are exactly zero "
        f"in {count} of {len(blind)} samples, whose score stays at {float(left[blind].mean()):.3f} of "
        f"{float(clean[blind].mean()):.3f}. That is no robustness: rounding, a clamp, a detached part or saturated "
        "logits may hide the gradient. Attack by queries as AutoAttack3D does, or pass "
        f"gradient=BackwardPassSubstitute() where a purifier hides it; see {PAGE}#zero-gradients.",
    )


def _most(rows: Sequence[torch.Tensor]) -> float:
    known = [row[~row.isnan()] for row in rows]
    values = torch.cat(known) if known else torch.empty(0)
    return float(values.max()) if len(values) else 0.0
