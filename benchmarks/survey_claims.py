# SPDX-License-Identifier: Apache-2.0
"""Claims of the survey that can be tested here, each with numbers and a verdict: docs/survey_claims.md.

    python -m benchmarks.survey_claims docs/survey_claims.json

Claims that the file has already are not tested again. Trained here: small networks for chest X-rays and hippocampus
MRI; the CT phantom's network is the bundle's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from monai.transforms import GaussianSmooth
from torch.nn.functional import interpolate

from benchmarks.claims import CONFIRMED, REFUTED, UNDECIDED, outcome, run_claims, summary
from benchmarks.classifier_objectives import chest_xrays, hippocampus_patches, trained
from benchmarks.data_folder import data_folder
from benchmarks.doc_tables import replace_table
from benchmarks.steps_to_dice import Case, networks
from monai_adversarial.attacks import BIM, FGSM, PGD, Attack, ElasticAttack, prescribed_drop
from monai_adversarial.metrics import destruction_rate, score_visibility
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import JPEGCompression

__all__ = ["CLAIMS", "with_table"]

PAGE, FILE = "survey_claims.md", "survey_claims.json"
#: of the range of each image's values, as in the study of transfer (Bortsova 2021)
FRACTIONS = (0.005, 0.01, 0.02, 0.04)
CASES = 64
#: share of its own clean Dice that an organ must lose
DROP = 0.5
#: HU and mm from which the budget of an organ is halved
LARGEST = 16.0

Images = tuple[AttackedModel, torch.Tensor, torch.Tensor]


@cache
def classifier(kind: str) -> Images:
    """A small classifier that was trained here, and test images that it answers right."""
    data = (chest_xrays if kind == "chest X-ray" else hippocampus_patches)(data_folder())
    network, _ = trained(data, 4)
    model = AttackedModel(network, task="classification")
    with torch.no_grad():
        right = network(data[2]).argmax(dim=1) == data[3]
    return model, data[2][right][:CASES], data[3][right][:CASES]


@cache
def phantoms() -> tuple[AttackedModel, list[Case]]:
    """The bundle's network and phantoms that nothing was chosen on."""
    network = next(one for one in networks(lambda line: None) if one.name == "CT phantom, U-Net")
    return network.load()


def batches(kind: str) -> list[Images]:
    """What one modality is attacked on."""
    if kind == "CT phantom":
        model, cases = phantoms()
        return [(model, image, label) for image, label in cases if label is not None]
    return [classifier(kind)]


MODALITIES = ("CT phantom", "chest X-ray", "hippocampus MRI")


def similarity(kind: str, make: Callable[[float], Attack], fraction: float) -> float:
    """Mean SSIM over slices and cases after an attack."""
    found = []
    for model, image, label in batches(kind):
        adversarial = torch.as_tensor(make(fraction)(model, image, label).adversarial)
        found += [
            score_visibility(changed, clean, (0.0, 1.0))["ssim"]
            for changed, clean in zip(adversarial, image, strict=True)
        ]
    return mean(found)


def visibility() -> dict[str, Any]:
    """Figure 8: FGSM is more visible than PGD at the same budget.

    Source: figure 8 of the survey, after Bortsova et al. 2021.

    Survey entry: R09 (adapted).
    """
    attacks: dict[str, Callable[[float], Attack]] = {
        "FGSM": lambda e: FGSM(e, objective="cross_entropy"),
        # 20 steps of half the budget from the clean image, as in the study
        "PGD as published": lambda e: PGD(e, steps=20, step_size=e / 2, objective="cross_entropy", random_start=False),
        "PGD, 10 falling steps": lambda e: PGD(e, steps=10),
    }
    numbers = {
        kind: {name: [round(similarity(kind, make, e), 4) for e in FRACTIONS] for name, make in attacks.items()}
        for kind in MODALITIES
    }
    lower = [
        a < b
        for kind in MODALITIES
        for a, b in zip(numbers[kind]["FGSM"], numbers[kind]["PGD as published"], strict=True)
    ]
    return {
        "claim": "FGSM lowers SSIM more than PGD at the same budget, in all modalities (Fig. 8)",
        "source": "Bortsova 2021 in the survey",
        "verdict": CONFIRMED if all(lower) else REFUTED if not any(lower) else UNDECIDED,
        "seen": f"lower in {sum(lower)} of {len(lower)} budgets and modalities",
        "data": f"2 or 3 CT phantoms, {CASES} chest X-rays, {CASES} patches of hippocampus MRI",
        "budgets": list(FRACTIONS),
        "numbers": numbers,
    }


def transforms() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What happens to an image on its way: all keep the grid, values from 0 to 1."""

    def printed(image: torch.Tensor) -> torch.Tensor:
        return (image * 255).round() / 255

    def window(image: torch.Tensor) -> torch.Tensor:
        return ((image - 0.05) / 0.9).clamp(0, 1)

    def resampled(image: torch.Tensor) -> torch.Tensor:
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        small = interpolate(image, scale_factor=0.75, mode=mode, align_corners=False)
        return interpolate(small, size=image.shape[2:], mode=mode, align_corners=False)

    def smoothed(image: torch.Tensor) -> torch.Tensor:
        kernel = GaussianSmooth(0.6)
        return torch.stack([torch.as_tensor(kernel(one)) for one in image])

    def noisy(image: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)

    jpeg = JPEGCompression(75, window=(0.0, 1.0))
    return {
        "another window": window,
        "8 bits": printed,
        "resampled": resampled,
        "smoothed": smoothed,
        "noise of 2 %": noisy,
        "JPEG 75": lambda image: torch.stack([torch.as_tensor(jpeg(one)) for one in image]),
    }


def survival() -> dict[str, Any]:
    """Section 1.4: FGSM examples survive transforms better than those of iterative attacks.

    Source: section 1.4 of the survey, after Kurakin et al. 2017, there photographs of prints.

    Survey entry: R03 (adapted).
    """
    attacks: dict[str, Callable[[float], Attack]] = {
        "FGSM": lambda e: FGSM(e, objective="cross_entropy"),
        "BIM": lambda e: BIM(e, steps=10, objective="cross_entropy"),
        "PGD": lambda e: PGD(e, steps=10, objective="cross_entropy"),
    }
    budget, numbers, survives = 0.04, {}, []
    for kind in ("chest X-ray", "hippocampus MRI"):
        model, image, label = classifier(kind)
        network = model.network

        def right(given: torch.Tensor, network: Any = network, label: torch.Tensor = label) -> torch.Tensor:
            with torch.no_grad():
                return network(given).argmax(dim=1) == label

        rates: dict[str, Any] = {}
        for name, make in attacks.items():
            adversarial = torch.as_tensor(make(budget)(model, image, label).adversarial)
            found = {
                transform: destruction_rate(right(change(image)), right(adversarial), right(change(adversarial)))
                for transform, change in transforms().items()
            }
            rates[name] = {
                "successful": int((~right(adversarial)).sum()),
                "rates": {k: _number(v) for k, v in found.items()},
            }
        numbers[kind] = rates
        for transform in transforms():
            values = [rates[name]["rates"][transform] for name in attacks]
            if None not in values:
                survives.append(values[0] < min(values[1:]))
    return {
        "claim": "FGSM survives re-windowing and printing better than iterative attacks (section 1.4)",
        "source": "Kurakin 2017 in the survey",
        "verdict": CONFIRMED if survives and all(survives) else REFUTED if not any(survives) else UNDECIDED,
        "seen": f"FGSM is undone least in {sum(survives)} of {len(survives)} transforms and modalities",
        "data": f"{CASES} chest X-rays and {CASES} patches of hippocampus MRI, budget {budget} of the range",
        "numbers": numbers,
    }


def _number(value: float) -> float | None:
    return None if value != value else round(value, 3)


ORGANS = {"liver": (1,), "spleen": (2,), "kidneys": (3, 4), "pancreas": (5,)}


def noise_effort() -> dict[str, Any]:
    """Section 1.5: kidneys and pancreas need more noise than liver and spleen.

    Source: section 1.5 of the survey, after Chen et al. 2019.

    Survey entry: R05 (adapted).
    """
    return _judged_organs("noise", "HU", _efforts(PGD(LARGEST, "HU", steps=5), 5))


def warp_effort() -> dict[str, Any]:
    """Section 1.5: kidneys and pancreas need a larger warp than liver and spleen.

    Source: section 1.5 of the survey, after Chen et al. 2019.

    Survey entry: R05 (adapted).
    """
    return _judged_organs("warp", "mm", _efforts(ElasticAttack(LARGEST, steps=5), 4))


def _efforts(attack: Attack, halvings: int) -> dict[str, list[float]]:
    """The effort of each organ in each phantom."""
    return {
        name: [_effort(attack, LARGEST, halvings, organ, case) for case in phantoms()[1]]
        for name, organ in ORGANS.items()
    }


def _judged_organs(kind: str, unit: str, efforts: dict[str, list[float]]) -> dict[str, Any]:
    """What the efforts of organs say, phantom by phantom.

    Where neither organ has lost its share with the largest budget, nothing is known of their order.
    """
    seen, comparisons = [], []
    for harder in ("kidneys", "pancreas"):
        for easier in ("liver", "spleen"):
            pairs = [
                one > other
                for one, other in zip(efforts[harder], efforts[easier], strict=True)
                if min(one, other) < LARGEST
            ]
            comparisons += pairs
            seen.append(f"{harder} above {easier} in {sum(pairs)} of {len(pairs)} phantoms")
    amounts = ", ".join(f"{name} {mean(values):.1f}" for name, values in efforts.items())
    cases = len(efforts["liver"])
    return outcome(
        f"kidneys and pancreas need a larger {kind} than liver and spleen (Chen 2019)",
        "Chen 2019 in the survey, without a number",
        comparisons,
        "; ".join([f"{kind}, {unit}: {amounts}", *seen]),
        f"{cases} CT phantoms; smallest budget, by halving from {LARGEST:g}, at which the organ has lost {DROP:.0%} of "
        f"its own Dice; {LARGEST:g} where that was not enough, and no comparison where it was not for both",
        efforts,
    )


def _effort(attack: Attack, largest: float, halvings: int, organ: tuple[int, ...], case: Case) -> float:
    """The smallest budget that takes an organ its share of Dice; the largest one where none does."""
    image, label = case
    (found,) = prescribed_drop(attack, phantoms()[0], image, label, drop=DROP, halvings=halvings, organs=organ)
    return round(min(found.factor, 1.0) * largest, 3)


CLAIMS: dict[str, Callable[[], dict[str, Any]]] = {
    "visibility": visibility,
    "survival": survival,
    "noise_effort": noise_effort,
    "warp_effort": warp_effort,
}


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the JSON file in ``folder``."""
    return replace_table(text, FILE, summary(json.loads((folder / FILE).read_text(encoding="utf-8")), CLAIMS))


def main() -> int:
    """Test the claims that the file does not have, and renew the page where its file was written."""
    return run_claims(__doc__, CLAIMS, PAGE, FILE, with_table)


if __name__ == "__main__":
    sys.exit(main())
