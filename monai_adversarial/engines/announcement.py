# SPDX-License-Identifier: Apache-2.0
"""What an attack in an engine says before its first batch and after its last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.attacks.flags import HIDDEN
from monai_adversarial.metrics.clean_score import low_clean_caution
from monai_adversarial.metrics.success import success_count
from monai_adversarial.models import AttackedModel, ReadIntensity

__all__ = ["Outcome", "announce", "budget_sentence", "check_budget_units", "said_region"]


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
    shown = {
        "HU": f"{epsilon:g} HU",
        "fraction": f"{epsilon:.3%} of the window",
        "percentile": f"{epsilon:.3%} of the image's 1st to 99th percentile range",
    }.get(units, f"{epsilon:g}")
    norm = getattr(perturbation, "norm", "linf")
    within = "" if norm == "linf" else f" ({norm})"
    if model.intensity is None or model.units_for(units) == "HU" or units in ("network", "percentile"):
        return f"budget {shown}{within}"
    intensity = model.intensity.exact if isinstance(model.intensity, ReadIntensity) else model.intensity
    if intensity is None or not intensity.is_uniform:
        return f"budget {shown}{within}, converted image by image"
    window = intensity.window
    if units == "fraction":
        if window is None:
            return f"budget {shown}{within}"
        epsilon *= abs(float(window[1]) - float(window[0]))
    return f"budget {shown} = {epsilon * abs(float(intensity.scale)):.4f}{within}"


def said_region(key: str | None) -> str:
    """How much of the image is left to the attacker, as far as it is known before the first batch."""
    return "" if key is None else f", inside the region {key!r} of each batch alone"


def announce(engine: Any, attacks: Sequence[Attack], model: AttackedModel, region_key: str | None = None) -> None:
    """Say once what is attacked, how far and where: to the engine's log, or printed where no log shows it."""
    budgets = " or ".join(f"{type(attack).__name__} {budget_sentence(attack, model)}" for attack in attacks)
    facts = ", ".join(model.facts) or repr(model)
    sentence = f"{facts}, {budgets or 'no attack: batches stay clean'}{said_region(region_key)}"
    _say(engine, sentence)


class Outcome:
    """What the attacks of one run did, kept for a sentence at its end."""

    def __init__(self) -> None:
        self._scores: dict[tuple[str, str], list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}

    def add(self, result: AttackResult) -> None:
        """Keep the scores of a batch, on their device."""
        reference = "clean prediction" if result.reference_is_prediction else "label"
        if result.iou is not None and not result.reference_is_prediction:
            reference = "wanted segmentation"
        kept = self._scores.setdefault((result.metric, reference), [])
        kept.append((result.clean_score, result.adversarial_score, result.success))

    def announce(self, engine: Any) -> None:
        """Say what is left of the scores; nothing where none were taken, as in training."""
        for (metric, reference), kept in self._scores.items():
            clean, adversarial, success = (torch.cat(values).cpu() for values in zip(*kept, strict=True))
            stability = " (stability, not accuracy: there is no label)" if reference == "clean prediction" else ""
            _say(
                engine,
                f"attacked {len(success)} image{'' if len(success) == 1 else 's'}: mean {metric} with the {reference} "
                f"{float(clean.double().nanmean()):.3f} -> {float(adversarial.double().nanmean()):.3f}, success in "
                f"{success_count(success, clean, adversarial)}{stability}",
            )
            if (metric, reference) == ("Dice", "label"):
                for caution in (low_clean_caution(clean), _flattering_metric(engine, adversarial)):
                    if caution:
                        engine.logger.warning(caution)


def _flattering_metric(engine: Any, adversarial: torch.Tensor) -> str:
    """What is said of the engine's own Dice where it is far above that of the attacked images; empty elsewhere."""
    if idist.get_world_size() > 1:
        return ""  # a process has attacked its own images only
    left = float(adversarial.double().nanmean())
    for name, value in engine.state.metrics.items():
        if "dice" in str(name).lower() and isinstance(value, float) and value - left >= HIDDEN:
            return (
                f"the engine's metric {name!r} is {value:.3f}, but the attack has left a mean Dice of {left:.3f}: it "
                "counts something else (the background, a postprocessing that hides the change, another answer), and "
                "flatters."
            )
    return ""


def _say(engine: Any, sentence: str) -> None:
    logger = engine.logger
    if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        logger.info(sentence)
    else:
        print(sentence)
