# SPDX-License-Identifier: Apache-2.0
"""What an attack in an engine says before its first batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks import Attack
from monai_adversarial.models import AttackedModel

__all__ = ["announce", "budget_sentence", "check_budget_units"]


def check_budget_units(attack: Attack, model: AttackedModel) -> None:
    """Refuse a budget that cannot be converted to the units of the images, before any work.

    Raises:
        ValueError: for a budget in HU, or in fractions of the window, without the map that scaled the images.
    """
    units = getattr(attack.perturbation, "units", None)
    missing = units == "HU" and model.image_units == "network" and model.intensity is None
    if missing:
        known = "; ".join(fact for fact in model.facts if "map" in fact)
        raise ValueError(
            "the budget is in HU, but the images come in the network's values and the map between them was not read"
            + (f" ({known})" if known else "")
            + ": pass intensity=, or a budget in units='network'."
        )


def budget_sentence(attack: Attack, model: AttackedModel) -> str:
    """For example ``budget 8 HU = 0.0362``."""
    perturbation = attack.perturbation
    epsilon, units = getattr(perturbation, "epsilon", None), getattr(perturbation, "units", None)
    if epsilon is None or units is None:
        return f"budget {perturbation!r}"
    shown = {"HU": f"{epsilon:g} HU", "fraction": f"{epsilon:.3%} of the window"}.get(units, f"{epsilon:g}")
    norm = getattr(perturbation, "norm", "linf")
    within = "" if norm == "linf" else f" ({norm})"
    if model.intensity is None or model.units_for(units) == "HU" or units == "network":
        return f"budget {shown}{within}"
    window = model.intensity.window
    if units == "fraction":
        if window is None:
            return f"budget {shown}{within}"
        epsilon *= window[1] - window[0]
    return f"budget {shown} = {epsilon * model.intensity.scale:.4f}{within}"


def announce(engine: Any, attacks: Sequence[Attack], model: AttackedModel) -> None:
    """Say once what is attacked and how far: to the engine's log, or printed where no log shows it."""
    budgets = " or ".join(f"{type(attack).__name__} {budget_sentence(attack, model)}" for attack in attacks)
    facts = ", ".join(model.facts) or repr(model)
    sentence = f"{facts}, {budgets or 'no attack: batches stay clean'}"
    logger = engine.logger
    if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        logger.info(sentence)
    else:
        print(sentence)
