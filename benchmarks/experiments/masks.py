# SPDX-License-Identifier: Apache-2.0
"""How near a segmentation comes to a wanted one, against the size of the change: ASMA and targeted PGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean
from typing import Any

import torch

from benchmarks.claims import outcome, over_seeds
from benchmarks.query_cases import phantom_crops
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import ASMA, AdditiveNoise, Attack, SteepestAscent
from monai_adversarial.attacks.targets import empty_organ, eroded_organ, shifted_organ
from monai_adversarial.data.phantom import CLASS_NAMES
from monai_adversarial.models import AttackedModel

__all__ = ["TARGETS", "wanted_masks"]

ORGAN, SPACING = CLASS_NAMES.index("liver"), (3.2, 3.2, 4.0)
#: of ASMA and, with the same cap, of PGD; the cap is a share of the window
GOAL, CAP = 0.7, 16 / 255
TARGETS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "eroded by 6.5 mm": partial(eroded_organ, organ=ORGAN, distance=6.5, spacing=SPACING),
    "shifted by 9.6 mm": partial(shifted_organ, organ=ORGAN, shift=(9.6, 0.0, 0.0), spacing=SPACING),
    "gone": partial(empty_organ, organ=ORGAN),
}


def _subjects(cases: int) -> tuple[AttackedModel, list[tuple[torch.Tensor, torch.Tensor]]]:
    model = AttackedModel(bundle_network("cpu"), intensity=WINDOW, image_units="network")
    return model, phantom_crops(cases, 6000)


def _overlap(prediction: torch.Tensor, wanted: torch.Tensor) -> float:
    """IoU of the organ, 1 where neither has it."""
    one, other = prediction == ORGAN, wanted == ORGAN
    either = (one | other).sum()
    return round(float((one & other).sum() / either) if either else 1.0, 4)


def wanted_masks(
    subjects: Callable[[int], tuple[AttackedModel, list[tuple[torch.Tensor, torch.Tensor]]]] = _subjects,
    cases: int = 3,
    steps: int = 40,
) -> dict[str, Any]:
    """IoU with a wanted segmentation of the liver, and the size of the change, of ASMA and of targeted PGD.

    Source: Ozbulak, Van Messem and De Neve 2019, there optic disc and skin lesions, whose table was not read.

    Survey entry: R06 (adapted).
    """
    model, data = subjects(cases)
    noise, search = AdditiveNoise(CAP, units="fraction"), SteepestAscent(2.0, schedule="linear")
    attacks: dict[str, Attack] = {
        "ASMA": ASMA(CAP, "fraction", iou_goal=GOAL, organs=(ORGAN,), beta=5e-3, tau=2.5e-3, steps=steps),
        "PGD": Attack(noise, "annealed_dice", search, steps=steps, targeted=True, classes=(ORGAN,)),
    }
    rows: list[dict[str, Any]] = []
    for case, (image, label) in enumerate(data):
        with torch.no_grad():
            said = model.network(image).argmax(dim=1, keepdim=True)
        for target, make in TARGETS.items():
            for name, attack in attacks.items():
                result = attack(model, image, make(said), truth=label, spacing=SPACING)
                change = (torch.as_tensor(result.adversarial) - image).double()
                rows.append(
                    {
                        "case": case,
                        "target": target,
                        "attack": name,
                        "clean_iou": _overlap(said, make(said)),
                        "iou": _overlap(torch.as_tensor(result.prediction), make(said)),
                        "rms": round(float(change.square().mean().sqrt()), 6),
                        "linf": round(float(change.abs().max()), 6),
                    }
                )
                print(rows[-1], flush=True)
    return _judged(rows, cases)


def _judged(rows: Sequence[dict[str, Any]], cases: int) -> dict[str, Any]:
    def of(attack: str, key: str, target: str | None = None) -> list[float]:
        return [row[key] for row in rows if row["attack"] == attack and target in (None, row["target"])]

    def shown(attack: str, target: str) -> str:
        return f"IoU {over_seeds(of(attack, 'iou', target))} with RMS {over_seeds(of(attack, 'rms', target), 4)}"

    seen = "; ".join(
        f"{target}: clean IoU {mean(of('ASMA', 'clean_iou', target)):.2f}, ASMA {shown('ASMA', target)}, PGD "
        f"{shown('PGD', target)}"
        for target in dict.fromkeys(row["target"] for row in rows)
    )
    return outcome(
        f"ASMA reaches the wanted segmentation (here IoU of {GOAL}) with a change that is nearly invisible, here "
        "smaller than that of targeted PGD",
        "Ozbulak 2019 in the survey, which calls it a degradation of IoU; the bounds are ours",
        [value >= GOAL > before for value, before in zip(of("ASMA", "iou"), of("ASMA", "clean_iou"), strict=True)]
        + [one < other for one, other in zip(of("ASMA", "rms"), of("PGD", "rms"), strict=True)],
        seen,
        f"liver of {cases} phantoms, crops of 32 voxels, the CT bundle's U-Net; RMS as a share of the window",
        list(rows),
    )
