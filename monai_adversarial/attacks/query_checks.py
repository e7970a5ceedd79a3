# SPDX-License-Identifier: Apache-2.0
"""What a search by queries shows of the network that answers them, and costs no further one."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.flags import PAGE, UNBROKEN
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["say_another_answer", "say_same_answers"]

#: queries from which it says something that none of them was answered otherwise
LEAST_QUERIES = 10
#: share of what a search has gained above which it is not rounding that a point loses when it is asked about again
LOST = 0.5
#: and share of the value itself
ROUNDING = 1e-3


def say_another_answer(model: AttackedModel, first: torch.Tensor, best: torch.Tensor, again: torch.Tensor) -> None:
    """Warn of the point that a search has found the best, where it is worth little when it is asked about again.

    Args:
        model: what was attacked.
        first: value of the first point, as the attacker maximizes it, (batch,).
        best: of the best one when the search met it, (batch,).
        again: of the same point at the end, (batch,); NaN where it was not asked about again.
    """
    lost = best - again
    worse = (lost > LOST * (best - first)) & (lost > ROUNDING * best.abs()) & lost.isfinite()
    if not bool(worse.any()):
        return
    row = int(torch.where(worse, lost, -torch.inf).argmax())
    model.warn_once(
        "another answer",
        f"asked again about the image that was the best of all queries, the network gives another answer: the search "
        f"has raised its objective from {float(first[row]):.4g} to {float(best[row]):.4g}, and now it is "
        f"{float(again[row]):.4g}. It depends on the time, on earlier queries or on chance, and the score is too high: "
        "let the network answer an image always the same.",
    )


def say_same_answers(
    model: AttackedModel, values: torch.Tensor, clean: torch.Tensor, left: torch.Tensor, success: torch.Tensor
) -> None:
    """Warn of a search that met one value only, and left the score standing.

    Args:
        model: what was attacked.
        values: of all points that were asked about, (query, batch); NaN where a sample was not asked about.
        clean: score of the clean batch, (batch,).
        left: score under attack, (batch,).
        success: boolean (batch,), samples in which the attack succeeded.
    """
    if len(values) < LEAST_QUERIES:
        return
    same = (values == values[0]).all(dim=0) & ~success & (left > UNBROKEN * clean)
    count = int(same.sum())
    if not count:
        return
    model.warn_once(
        "same answers",
        f"the network gave the same answer to all of {len(values)} images that it was asked about, to the last digit, "
        f"in {count} of {len(same)} samples, whose score stays at {float(left[same].mean()):.3f} of "
        f"{float(clean[same].mean()):.3f}. That is no robustness: a cache, rounding, or an input that does not reach "
        f"the network hides what the images do; see {PAGE}#zero-gradients.",
    )
