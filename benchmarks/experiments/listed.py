# SPDX-License-Identifier: Apache-2.0
"""All experiments, their record and their page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.claims import run_claims, summary
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.experiments.bias_field import bias_field_transfer
from benchmarks.experiments.distance import boundary_distance_of_defenses
from benchmarks.experiments.ensemble import ensemble_transfer, targeted_transfer
from benchmarks.experiments.evasion import draw_evasion, evaded_digits
from benchmarks.experiments.features import mislabeled_set, robust_set
from benchmarks.experiments.flips import flipped_diagnoses, saliency_of_modalities
from benchmarks.experiments.generated import generated_noise
from benchmarks.experiments.lesions import draw_lesions, painted_lesions
from benchmarks.experiments.masks import wanted_masks
from benchmarks.experiments.poisoning import draw_poisoning, poisoning_curve
from benchmarks.experiments.queries import draw_queries, query_efficiency
from benchmarks.experiments.reconstruction import draw_reconstructions, reconstruction_attack
from benchmarks.experiments.records import adversarial_trainings, defense_matrix, queries_on_phantoms
from benchmarks.experiments.speckle import speckle_training

__all__ = ["CLAIMS", "main", "with_table"]

PAGE, FILE, IMAGES = "survey_experiments.md", "survey_experiments.json", DOCS / "images"


def _drawn(test: Callable[[], dict[str, Any]], draw: Callable[[dict[str, Any]], None]) -> Callable[[], dict[str, Any]]:
    """An experiment with its picture."""

    def run() -> dict[str, Any]:
        found = test()
        draw(found)
        return found

    return run


CLAIMS: dict[str, Callable[[], dict[str, Any]]] = {
    "evaded_digits": _drawn(evaded_digits, lambda _: draw_evasion(IMAGES / "experiment_evasion.png")),
    "flipped_diagnoses": flipped_diagnoses,
    "saliency_of_modalities": saliency_of_modalities,
    "reconstruction_attack": _drawn(
        reconstruction_attack, lambda _: draw_reconstructions(IMAGES / "experiment_reconstruction.png")
    ),
    "wanted_masks": wanted_masks,
    "bias_field_transfer": bias_field_transfer,
    "painted_lesions": _drawn(painted_lesions, lambda _: draw_lesions(IMAGES / "experiment_lesions.png")),
    "speckle_training": speckle_training,
    "adversarial_trainings": adversarial_trainings,
    "ensemble_transfer": ensemble_transfer,
    "targeted_transfer": targeted_transfer,
    "poisoning_curve": _drawn(
        poisoning_curve, lambda found: draw_poisoning(found, IMAGES / "experiment_poisoning.png")
    ),
    "generated_noise": generated_noise,
    "query_efficiency": _drawn(query_efficiency, lambda found: draw_queries(found, IMAGES / "experiment_queries.png")),
    "queries_on_phantoms": queries_on_phantoms,
    "defense_matrix": defense_matrix,
    "mislabeled_set": mislabeled_set,
    "robust_set": robust_set,
    "boundary_distance_of_defenses": boundary_distance_of_defenses,
}


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the JSON file in ``folder``."""
    return replace_table(text, FILE, summary(json.loads((folder / FILE).read_text(encoding="utf-8")), CLAIMS))


def main(description: str | None = __doc__) -> int:
    """Test the claims that the file does not have, and renew the page where its file was written."""
    return run_claims(description, CLAIMS, PAGE, FILE, with_table)
