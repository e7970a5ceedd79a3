# SPDX-License-Identifier: Apache-2.0
"""Each experiment of the survey runs, here on toys, and its verdict follows from what it measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.claims import CONFIRMED, REFUTED, UNDECIDED, outcome, over_seeds, summary, verdict
from benchmarks.class_balance import balanced_accuracy
from benchmarks.doc_tables import DOCS
from benchmarks.experiments import bias_field, distance, ensemble, features, flips, generated, lesions, masks, queries
from benchmarks.experiments.bias_field import VISIBILITY, bias_field_transfer, same_visibility
from benchmarks.experiments.defended import DEFENSES, hardened
from benchmarks.experiments.distance import boundary_distance_of_defenses
from benchmarks.experiments.ensemble import ensemble_transfer, targeted_transfer
from benchmarks.experiments.evasion import draw_evasion, evaded_digits
from benchmarks.experiments.features import mislabeled_set, robust_set, robustified
from benchmarks.experiments.flips import NOT_MEDICAL, flipped_diagnoses, saliency_of_modalities
from benchmarks.experiments.generated import generated_noise
from benchmarks.experiments.lesions import draw_lesions, painted_lesions
from benchmarks.experiments.listed import CLAIMS, FILE, PAGE, with_table
from benchmarks.experiments.masks import wanted_masks
from benchmarks.experiments.poisoning import draw_poisoning, error_with_poison, poisoning_curve
from benchmarks.experiments.queries import draw_queries, query_efficiency
from benchmarks.experiments.reconstruction import (
    draw_reconstructions,
    livers_of_a_seed,
    reconstruction_attack,
    ultrasound_livers,
)
from benchmarks.experiments.records import adversarial_trainings, defense_matrix, queries_on_phantoms
from benchmarks.experiments.speckle import speckle_training
from benchmarks.experiments.subjects import right_answers, trained_on
from benchmarks.survey_defense_claims import attacked_model
from monai_adversarial.attacks import FGSM, PGD
from monai_adversarial.data.example import example_case
from tests.benchmarks.experiments.toys import squares


class _Says(torch.nn.Module):
    """One answer to everything."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.eye(2)[self.answer].expand(len(image), 2)


def _sound(found: Mapping[str, Any]) -> None:
    """What every record of a claim must say."""
    assert set(found) == {"claim", "source", "verdict", "seen", "data", "numbers"}
    assert found["verdict"] in (CONFIRMED, REFUTED, UNDECIDED)
    assert "|" not in "".join(found[key] for key in ("claim", "source", "seen", "data"))
    held, _, count, _ = found["seen"].split(" ", 3)
    expected = CONFIRMED if held == count else REFUTED if held == "0" else UNDECIDED
    assert found["verdict"] == expected


def test_a_claim_is_confirmed_in_all_and_refuted_in_no_comparison() -> None:
    found = [verdict(comparisons)[0] for comparisons in ([True, True], [False, False], [True, False])]
    assert found == [CONFIRMED, REFUTED, UNDECIDED]
    with pytest.raises(ValueError, match="comparisons"):
        verdict([])


def test_a_mean_is_shown_with_its_range() -> None:
    assert over_seeds([0.1, 0.2, 0.6]) == "0.30 (0.10 to 0.60)"


def test_a_claim_is_told_with_its_verdict_and_a_point_for_each_thing_seen_in_the_scripts_order() -> None:
    found = {"b": outcome("b", "s", [True], "x", "d"), "a": outcome("a", "s", [False], "y; z", "d")}
    assert summary(found, ("a", "missing", "b")).splitlines() == [
        *("**Refuted:** a. Source: s.", "", "- 0 of 1 comparisons", "- y", "- z", "- data: d", ""),
        *("**Confirmed:** b. Source: s.", "", "- 1 of 1 comparisons", "- x", "- data: d"),
    ]


def test_the_page_is_what_its_file_says() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert (DOCS / FILE).is_file() and with_table(text, DOCS) == text
    assert all(f"**{name}**" not in text for name in CLAIMS)


def test_gradients_evade_a_linear_machine_and_random_changes_do_not(tmp_path: Path) -> None:
    found = evaded_digits(pairs=((3, 7),), seeds=(0,))
    _sound(found)
    (row,) = found["numbers"]
    assert row["gradient 1.5"] > 0.9 > 0.2 > row["random 1.5"]
    draw_evasion(tmp_path / "strip.png", steps=4)
    assert (tmp_path / "strip.png").stat().st_size > 2_000


def test_fatty_livers_fade_with_depth_and_images_are_those_of_the_envelopes() -> None:
    envelopes, images, fatty = ultrasound_livers(40, 0)
    assert images.min() >= 0 and images.max() <= 1 and fatty.sum() == 20
    fading = images[:, 0, 4:12].mean(dim=(1, 2)) - images[:, 0, -8:].mean(dim=(1, 2))
    assert fading[fatty == 1].mean() > fading[fatty == 0].mean() + 0.02
    assert torch.equal(ultrasound_livers(40, 0)[1], images) and not torch.equal(ultrasound_livers(40, 1)[1], images)
    assert envelopes.shape == images.shape


def test_settings_of_a_reconstruction_are_attacked_by_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reconstruction_attack(seeds=(0,), queries=12, epochs=2, train=64, attacked=8)
    _sound(found)
    (row,) = found["numbers"]
    assert 0 <= row["ZOO"] <= 1 and "phantoms" in found["data"]
    monkeypatch.setattr(
        "benchmarks.experiments.reconstruction.livers_of_a_seed", lambda seed: livers_of_a_seed(seed, 64, 8)
    )
    draw_reconstructions(tmp_path / "livers.png", count=2, queries=12)
    assert (tmp_path / "livers.png").is_file()


def test_flips_and_saliency_of_toys() -> None:
    modalities = {"squares": (squares, 2), NOT_MEDICAL: (lambda seed: squares(seed + 9), 2)}
    flipped = flipped_diagnoses(modalities, seeds=(0,))
    saliency = saliency_of_modalities(modalities, seeds=(0,))
    _sound(flipped)
    _sound(saliency)
    assert [row["modality"] for row in flipped["numbers"]] == ["squares"]
    shares = [flipped["numbers"][0][f"flipped at {budget}"] for budget in flips.BUDGETS]
    assert shares == sorted(shares)
    assert len(saliency["numbers"]) == 2 and all(0 <= row["gini"] <= 1 for row in saliency["numbers"])


def test_wanted_masks_of_a_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "ORGAN", 1)
    monkeypatch.setattr(masks, "TARGETS", {"gone": lambda label: masks.empty_organ(label, organ=1)})

    def subjects(cases: int) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
        made = [example_case(16, seed)[1:] for seed in range(cases)]
        model = example_case(16)[0]
        shown = [(torch.as_tensor(model.intensity(torch.as_tensor(image))), label) for image, label in made]
        inner = masks.AttackedModel(model.network, image_units="network", intensity={"a_min": 0.0, "a_max": 1.0})
        return inner, shown

    found = wanted_masks(subjects, cases=1, steps=3)
    _sound(found)
    assert [row["attack"] for row in found["numbers"]] == ["ASMA", "PGD"]
    assert all(row["linf"] <= masks.CAP + 1e-6 for row in found["numbers"])


def test_noise_is_brought_to_the_wanted_visibility() -> None:
    image, label = squares(0)["attacked"]
    model = attacked_model(trained_on(*squares(0)["train"], 0, 2))
    measure = VISIBILITY["RMS"]

    def run(attack: Any) -> torch.Tensor:
        return torch.as_tensor(attack(model, image, label).adversarial)

    made = same_visibility(lambda e: FGSM(e), 0.02, measure, run, image, halvings=8)
    assert 0.017 < measure(made, image) <= 0.02
    assert VISIBILITY["SSIM"](made, image) > 0 == VISIBILITY["RMS"](image, image)


def test_bias_fields_and_noise_transfer_between_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_field, "STEPS", 2)
    monkeypatch.setattr(bias_field, "NOISE", {"FGSM": bias_field.NOISE["FGSM"]})
    found = bias_field_transfer(squares, seeds=(0,), epochs=8, images=4)
    _sound(found)
    assert len(found["numbers"]) == 9 and found["numbers"][0]["surrogate"] == found["numbers"][0]["target"]


def test_painted_lesions_of_few_cubes(tmp_path: Path) -> None:
    found = painted_lesions(seeds=(0,), train=8, epochs=1, attacked=4, detector_epochs=2)
    _sound(found)
    aimed, alone = found["numbers"]
    assert aimed["made against"] == "the classifier" and alone["made against"] == "likeness alone"
    assert "phantom" in found["data"]
    draw_lesions(tmp_path / "lesions.png", train=8, epochs=1, count=1)
    assert (tmp_path / "lesions.png").is_file()


def test_generators_are_told_what_the_classifier_says() -> None:
    cubes = lesions.lesion_cubes(4, False, lesions.SIZE)
    network = lesions.detector(0, 16, 2)
    loss = lesions._wanted(network, 1)(lesions.scaled(cubes))
    said = network(lesions.scaled(cubes)).log_softmax(dim=1)[:, 1]
    assert torch.allclose(loss, -said, atol=1e-6)


def test_claims_of_tables_follow_their_rows(tmp_path: Path) -> None:
    for one in (adversarial_trainings(), defense_matrix(), queries_on_phantoms()):
        _sound(one)
    (tmp_path / "adversarial_training.csv").write_text(
        "data,training,seeds,clean,worst,worst_by_seed\nd,clean,0 1,0.9,0.1,0.1 0.1\nd,pgd,0 1,0.8,0.5,0.6 0.05\n",
        encoding="utf-8",
    )
    assert adversarial_trainings(tmp_path)["verdict"] == UNDECIDED
    rows = "data,defense,attack,cases,undefended,undefended_longer,unaware,adaptive\n"
    (tmp_path / "purification.csv").write_text(rows + "d,one,pgd,2,0.3,0.2,0.6,0.25\n", encoding="utf-8")
    assert defense_matrix(tmp_path)["verdict"] == REFUTED
    (tmp_path / "purification.csv").write_text(rows + "d,one,pgd,2,0.3,0.2,0.6,0.4\n", encoding="utf-8")
    assert defense_matrix(tmp_path)["verdict"] == CONFIRMED


def test_ensembles_and_targets_of_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "STEPS", 2)
    monkeypatch.setattr(ensemble, "NETWORKS", 2)
    for test in (ensemble_transfer, targeted_transfer):
        found = test(squares, seeds=(0,), epochs=8)
        _sound(found)
        assert len(found["numbers"]) == 2


def test_poison_points_that_are_moved_cost_more_than_those_that_are_not(tmp_path: Path) -> None:
    curves = error_with_poison((9, 8), 0, points=2, steps=10)
    assert curves["moved"][0] == curves["unmoved"][0] and curves["moved"][-1] > curves["unmoved"][-1]
    found = poisoning_curve(pairs=((9, 8),), seeds=(0, 1), points=2, steps=5)
    _sound(found)
    draw_poisoning(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").is_file()


def test_generated_noise_of_toys() -> None:
    found = generated_noise(squares, seeds=(0,), epochs=1, train=64, timed=2)
    _sound(found)
    assert found["numbers"][0]["AdvGAN, milliseconds"] > 0
    assert generated.BUDGET == pytest.approx(4 / 255)


def test_queries_of_toys_and_their_picture(tmp_path: Path) -> None:
    found = query_efficiency(squares, seeds=(0,), queries=(10, 20))
    _sound(found)
    assert len(found["numbers"]) == 2 * len(queries.ATTACKS)
    draw_queries(found, tmp_path / "queries.png")
    assert (tmp_path / "queries.png").is_file()


def test_balanced_accuracy_of_one_answer_is_chance() -> None:
    image, label = squares(0)["clean"]
    assert balanced_accuracy(_Says(1), (image[5:], label[5:])) == 0.5


def test_features_are_moved_to_those_of_a_network() -> None:
    images, labels = squares(0)["train"]
    network = trained_on(images, labels, 0, 2)
    made = robustified(network, images[:8], seed=1, steps=30)
    wanted, found, begun = (
        features._representation(network, one)
        for one in (images[:8], made, images[torch.randperm(8, generator=torch.Generator().manual_seed(1))])
    )
    assert (found - wanted).norm() < 0.5 * (begun - wanted).norm()
    assert made.min() >= 0 and made.max() <= 1


def test_training_sets_of_attacks() -> None:
    mislabeled = mislabeled_set(squares, seeds=(0,), epochs=1, size=64)
    robust = robust_set(squares, seeds=(0,), epochs=1, size=32, each=8)
    _sound(mislabeled)
    _sound(robust)
    assert mislabeled["numbers"][0]["reached"] > 0.8 and len(robust["numbers"]) == 4


def test_images_that_no_network_answers_right_are_refused() -> None:
    image, label = squares(0)["attacked"]
    with pytest.raises(ValueError, match="at least one of 16 images"):
        right_answers((image, label), *(_Says(answer) for answer in (0, 1)))


def test_distances_of_defenses(monkeypatch: pytest.MonkeyPatch) -> None:
    # Between the distances of the clean and of the noisy training, so that their accuracies differ.
    monkeypatch.setattr(distance, "BUDGET", 9 / 255)
    chosen = {name: DEFENSES[name] for name in ("none", "logits x 50")}
    found = boundary_distance_of_defenses(squares, seeds=(0,), defenses=chosen | {"noise": DEFENSES["noise"]}, steps=8)
    assert {row["defense"] for row in found["numbers"]} == {"none", "logits x 50", "noise"}
    assert all(row["distance"] > 0 for row in found["numbers"])
    _sound(found)


def test_speckle_of_toys() -> None:
    found = speckle_training(squares, seeds=(0,), epochs=2, steps=2)
    _sound(found)
    for row in found["numbers"]:
        assert row["optimized speckle"] <= row["clean"]


def test_hardened_networks_answer_right() -> None:
    data = squares(0)
    network = hardened(data, 0, PGD(4 / 255, steps=1, objective="cross_entropy"), 1.0, epochs=8)
    assert len(right_answers(data["clean"], network)[1]) > 24
