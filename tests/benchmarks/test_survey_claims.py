# SPDX-License-Identifier: Apache-2.0
"""Each claim of docs/survey_claims.md is tested by a function that runs, here on toys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import survey_claims, survey_defense_claims
from benchmarks.doc_tables import DOCS
from benchmarks.survey_claims import noise_effort, survival, visibility, warp_effort
from benchmarks.survey_defense_claims import (
    architectures,
    both_are_lowest,
    detection_helps,
    gaussian_density,
    sign_activation,
    trained,
    training_helps,
    transfer_of_pretraining,
)
from monai_adversarial.data.example import example_case
from tests.benchmarks.experiments.toys import squares

VERDICTS = {"confirmed", "refuted", "undecided"}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Squares in place of X-rays, one seed, few of everything."""

    def parts(seed: int) -> dict[str, Any]:
        found = squares(seed, 28, train=96, attacked=8, clean=16)
        return found | {
            name: squares(seed + 50 + n, 28, 2, 2, 24)["clean"] for n, name in enumerate(("fit", "calibrate"))
        }

    def attacked(kind: str) -> Any:
        data = parts(0)
        network, _ = trained((*data["train"], *data["attacked"]), 2)
        return survey_defense_claims.attacked_model(network), *data["attacked"]

    monkeypatch.setattr(survey_claims, "classifier", attacked)
    monkeypatch.setattr(survey_claims, "batches", lambda kind: [attacked(kind)])
    monkeypatch.setattr(survey_claims, "FRACTIONS", (0.02, 0.04))
    monkeypatch.setattr(survey_defense_claims, "xrays", parts)
    monkeypatch.setattr(survey_defense_claims, "SEEDS", (0,))
    monkeypatch.setattr(survey_defense_claims, "BUDGETS", (4,))
    monkeypatch.setattr(survey_defense_claims, "RISK_BUDGETS", (8,))
    monkeypatch.setattr(survey_defense_claims, "WEIGHTS", (2.0,))
    monkeypatch.setattr(survey_defense_claims, "LABELED", 48)
    monkeypatch.setattr(survey_defense_claims, "ATTACKED", 8)
    monkeypatch.setattr(survey_defense_claims, "FILE", "no_record.json")
    survey_defense_claims.risks.cache_clear()
    survey_defense_claims.dense_net.cache_clear()
    yield
    survey_defense_claims.risks.cache_clear()
    survey_defense_claims.dense_net.cache_clear()


@pytest.mark.usefixtures("toys")
def test_similarity_and_survival_of_toys() -> None:
    for test in (visibility, survival):
        found = test()
        assert found["verdict"] in VERDICTS and found["numbers"]
    assert set(survival()["numbers"]) == {"chest X-ray", "hippocampus MRI"}


def test_efforts_of_organs_of_a_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image, label = example_case(16)
    monkeypatch.setattr(survey_claims, "phantoms", lambda: (model, [(image, label)]))
    monkeypatch.setattr(survey_claims, "ORGANS", {name: (1 + n % 3,) for n, name in enumerate(survey_claims.ORGANS)})
    monkeypatch.setattr(survey_claims, "_effort", lambda *given: float(given[-2][0]))
    for effort in (noise_effort, warp_effort):
        found = effort()
        # Organs 1, 2, 3 and 1 stand for liver, spleen, kidneys and pancreas.
        assert found["verdict"] == "undecided" and "kidneys above spleen in 1 of 1 phantoms" in found["seen"]
        assert found["seen"].startswith("2 of 4 comparisons")
    # Two organs that the largest budget did not break are in no known order.
    beyond = {"liver": [16.0, 9.0], "spleen": [3.0, 3.0], "kidneys": [16.0, 16.0], "pancreas": [2.0, 2.0]}
    judged = survey_claims._judged_organs("warp", "mm", beyond)
    assert (
        judged["seen"].startswith("3 of 7 comparisons") and "kidneys above liver in 1 of 1 phantoms" in judged["seen"]
    )


@pytest.mark.usefixtures("toys")
def test_defenses_and_detectors_of_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    train = survey_defense_claims.semi_supervised
    monkeypatch.setattr(survey_defense_claims, "semi_supervised", lambda seed, hardened: train(seed, hardened, 3))
    for test in (training_helps, detection_helps, both_are_lowest):
        assert test()["verdict"] in VERDICTS
    rows = survey_defense_claims.risks()
    assert {row["training"] for row in rows} == {"standard", "SSAT"}
    assert all(row["UAD, adaptive"] <= 1 and row["UAD, unaware"] <= row["no detector"] for row in rows)


@pytest.mark.usefixtures("toys")
def test_architectures_of_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = survey_defense_claims.train_by_coordinate_descent
    monkeypatch.setattr(
        survey_defense_claims,
        "train_by_coordinate_descent",
        lambda *given, **more: steps(*given, **more | {"steps": 5}),
    )
    for test in (sign_activation, architectures):
        assert test()["verdict"] in VERDICTS


def test_claims_that_follow_from_records_are_as_recorded() -> None:
    record = json.loads((DOCS / survey_defense_claims.FILE).read_text(encoding="utf-8"))
    for name, test in (("transfer_of_pretraining", transfer_of_pretraining), ("gaussian_density", gaussian_density)):
        assert test()["verdict"] == record[name]["verdict"]
        assert test()["seen"] == record[name]["seen"]
