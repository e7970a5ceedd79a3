# SPDX-License-Identifier: Apache-2.0
"""Tables of detectors and of defenses inside networks: pages are what their files say, and verdicts follow numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import detector_table, network_defenses, survey_defense_claims
from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.detector_subjects import (
    BUDGETS,
    LONG,
    Budget,
    Effort,
    Subject,
    coarser,
    noisy,
    other_contrast,
    shaded,
    sharper,
    softer,
    thicker,
    trained_autoencoder,
    without_repetitions,
)
from benchmarks.detector_table import (
    MANY_PASSES,
    AttackRow,
    CleanRow,
    attack_rows,
    attack_table,
    clean_rows,
    clean_scores,
    clean_table,
    fitted,
    note_training,
    of_unnoted_training,
    stands,
)
from benchmarks.doc_tables import DOCS
from benchmarks.hippocampus_networks import small_unet, trained_unet
from benchmarks.machine import measured_on
from monai_adversarial.attacks import PGD, SquareAttack
from monai_adversarial.data.example import example_case

CLEAN = CleanRow("net", "one", "held out", 0.05, 400, 1000, 50)
ATTACK = AttackRow(
    "net", "one", "PGD", 8, 40, 0.9, 0.8, 1.0, 1.0, 0.25, 0.75, 5, "evading, weight 1", "evading: 8", 1.0
)


@pytest.mark.parametrize("module", [detector_table, network_defenses, survey_defense_claims])
def test_page_is_what_its_file_says(module: Any) -> None:
    text = (DOCS / module.PAGE).read_text(encoding="utf-8")
    assert module.with_table(text, DOCS) == text


@pytest.mark.parametrize(
    ("cases", "rejected", "says"),
    [
        (1000, 50, "| yes |"),
        (1000, 150, "| **no** |"),
        (40, 2, "| yes, not certain |"),
        (40, 4, "| no, not certain |"),
    ],
)
def test_clean_rejection_is_judged_by_its_interval(cases: int, rejected: int, says: str) -> None:
    assert says in clean_table([replace(CLEAN, cases=cases, rejected=rejected)])


def test_a_shift_that_is_called_an_attack_too_often_is_bold() -> None:
    shifts = [replace(CLEAN, images="noise", rejected=100), replace(CLEAN, images="kernel", rejected=101)]
    assert clean_table([CLEAN, *shifts]).endswith("| 0.10 | **0.10** |")


def test_chance_alone_moves_the_rate_of_one_calibration() -> None:
    def spread(calibrated: int) -> tuple[float, float]:
        return replace(CLEAN, calibrated=calibrated, cases=100_000).allowed()

    (low, high), (lower, higher) = spread(10_000), spread(400)
    assert lower < low < CLEAN.asked < high < higher
    assert higher - lower > 0.03  # with 400 cases one calibration is a point off, whatever the detector is

    # the same of random scores
    draw = np.random.default_rng(0)
    scores = draw.random((4000, 400 + 500))
    threshold = np.sort(scores[:, :400], axis=1)[:, 380]
    shares = (scores[:, 400:] > threshold[:, None]).mean(axis=1)
    expected = replace(CLEAN, calibrated=400, cases=500).allowed()
    assert expected == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])), abs=0.004)


def test_both_attackers_stand_side_by_side() -> None:
    text = attack_table([ATTACK], "net")
    assert "| one | 0.90 / 0.80 |" in text and "| one | 0.25 / 0.75 |" in text


@pytest.mark.parametrize("shape", [(2, 1, 12, 12), (2, 1, 12, 12, 12)])
def test_shifts_keep_the_grid_and_are_the_same_each_time(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    volumes = (softer, sharper, thicker) if len(shape) == 5 else ()
    for change in (noisy(0.02), coarser, other_contrast, shaded, *volumes):
        moved = change(image)
        assert moved.shape == image.shape and not torch.equal(moved, image)
        assert torch.equal(moved, change(image))


def test_rows_of_a_toy_have_the_counts_of_its_cases() -> None:
    model, image, label = example_case(16)
    clean = [example_case(16, seed)[1] for seed in range(1, 40)]
    subject = Subject(
        model,
        clean[:12],
        clean[12:33],
        clean[33:],
        (image, label),
        {"noise": clean[:3]},
        {"PGD": PGD(8, "HU", steps=2)},
        Effort((1.0,), ("evading",)),
        Effort((1.0,), ("evading",)),
    )
    detector = fitted(subject, "FrequencyProfile")
    assert detector is not None and detector.false_positive_rate == subject.rate
    scores = clean_scores(detector, subject.held_out)
    held_out, noise = clean_rows(subject, "toy", "FrequencyProfile", detector, scores)
    assert (held_out.calibrated, held_out.cases, noise.cases) == (21, 6, 3)
    assert list(clean_rows(subject, "toy", "FrequencyProfile", detector, scores, shifted=False)) == [held_out]
    (row,) = attack_rows(subject, "toy", "FrequencyProfile", detector, scores, ["PGD"])
    assert row.adaptive_risk >= row.unaware_risk and row.clean_cases == 6
    assert row.effort == "evading, weight 1" and row.strongest.endswith(": 1") and row.steps == 2


def test_only_those_who_took_part_are_named() -> None:
    model, image, label = example_case(16)
    clean = [example_case(16, seed)[1] for seed in range(1, 40)]
    everyone = Effort((1.0,), ("evading", "hiding", "orthogonal"))
    attacks = {"PGD": PGD(8, "HU", steps=1), "black box": SquareAttack(8, "HU", queries=2)}
    parts = (clean[:12], clean[12:33], clean[33:], (image, label), {}, attacks, everyone, everyone)
    subject = Subject(model, *parts)
    detector = fitted(subject, "PredictionEntropy")
    assert detector is not None
    scores = clean_scores(detector, subject.held_out)
    rows = attack_rows(subject, "toy", "PredictionEntropy", detector, scores, list(attacks))
    # the entropy is no density to hide in: one of features is fitted for it
    assert [row.effort for row in rows] == ["evading hiding orthogonal, weight 1", "evading hiding, weight 1"]


def test_trainings_of_one_network_stand_in_tables_of_their_own() -> None:
    here = replace(ATTACK, training="0123abcd", adaptive_risk=0.5)
    tables = [attack_table([ATTACK, here], "net", training) for training in ("", "0123abcd")]
    assert "0.25 / 0.75" in tables[0] and "0.25 / 0.50" not in tables[0] and "weights" not in tables[0]
    assert "0.25 / 0.50" in tables[1] and tables[1].startswith("**net**, weights 0123abcd: 8 attacked")
    text = clean_table([CLEAN, replace(CLEAN, training="0123abcd", rejected=150)])
    assert text.index("**net**: calibrated") < text.index("| yes |") < text.index("**net**, weights 0123abcd")


def test_rows_without_a_training_are_of_the_one_that_rejects_the_same_clean_images() -> None:
    model, image, label = example_case(16)
    clean = [example_case(16, seed)[1] for seed in range(1, 40)]
    effort = Effort((1.0,), ("evading",))
    subject = Subject(
        model, clean[:12], clean[12:33], clean[33:], (image, label), {"noise": clean[:3]}, {}, effort, effort
    )
    detector = fitted(subject, detector_table.REFERENCE)
    assert detector is not None
    scores = clean_scores(detector, subject.held_out)
    rows = list(clean_rows(subject, "toy", detector_table.REFERENCE, detector, scores))
    old = [replace(row, training="") for row in rows]
    assert len(subject.training) == 8 and {row.training for row in rows} == {subject.training}
    assert of_unnoted_training(subject, "toy", old)
    assert not of_unnoted_training(subject, "toy", [replace(old[0], rejected=old[0].rejected + 1), old[1]])
    assert not of_unnoted_training(subject, "toy", rows)  # their training is known


@pytest.mark.parametrize("name", ["PredictionEntropy", "EnsembleDisagreement"])
def test_a_row_that_goes_on_does_not_score_all_clean_images_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, label = example_case(16)
    clean = [example_case(16, seed)[1] for seed in range(1, 40)]
    effort = Effort((1.0,), ("evading",))
    attacks = {"PGD": PGD(8, "HU", steps=1), "black box": SquareAttack(8, "HU", queries=2)}
    parts = (clean[:12], clean[12:33], clean[33:], (image, label), {"noise": clean[:3]}, attacks, effort, effort)
    subject = Subject(model, *parts, others=lambda: [model])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(detector_table, "data_folder", lambda: tmp_path)
    file = tmp_path / detector_table.TABLE

    def go_on(with_it: Subject, attack: str) -> list[str]:
        monkeypatch.setattr(detector_table, "SUBJECTS", {"toy": lambda data, cache: with_it})
        monkeypatch.setattr("sys.argv", ["detector_table", str(file), "--detectors", name, "--attacks", attack])
        assert detector_table.main() == 0
        return [row.attack for row in read_rows(file, AttackRow)]

    assert go_on(subject, "PGD") == ["PGD"]
    with pytest.raises(SystemExit, match="with other networks"):
        go_on(replace(subject, held_out=clean[34:]), "black box")
    if name in detector_table.MORE_NETWORKS:  # a row does not name their training: shifted images tell them again
        with pytest.raises(SystemExit, match="with other networks"):
            go_on(replace(subject, shifted={"noise": clean[:2]}), "black box")
    else:
        assert go_on(replace(subject, shifted={"noise": []}), "black box") == ["PGD", "black box"]


def test_a_noted_training_leaves_where_rows_were_measured(tmp_path: Path) -> None:
    file, other = tmp_path / "rows.csv", replace(CLEAN, network="another")
    known = replace(CLEAN, images="noise", training="89abcdef")
    write_rows(file, [CLEAN, other, known], CleanRow)
    file.write_text(file.read_text(encoding="utf-8").replace(measured_on(), "elsewhere"), encoding="utf-8")
    note_training(file, "net", "0123abcd")
    rows = read_rows(file, CleanRow)
    assert rows == [replace(CLEAN, training="0123abcd"), other, known]
    write_rows(file, [*rows, replace(CLEAN, images="kernel")], CleanRow)
    assert file.read_text(encoding="utf-8").count("elsewhere") == 3
    note_training(tmp_path / "none.csv", "net", "0123abcd")
    assert not (tmp_path / "none.csv").exists()


def test_the_long_attack_follows_where_half_is_found() -> None:
    found = [replace(ATTACK, attack="Auto-PGD", adaptive_wrong=0.8, adaptive_risk=risk) for risk in (0.4, 0.5)]
    assert [stands([ATTACK, row]) for row in found] == [True, False]
    assert not stands([replace(ATTACK, adaptive_risk=0.0)])  # it is not known yet


def test_fewer_cases_for_a_detector_of_many_passes() -> None:
    batches = [torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4.0, 7.0).view(3, 1, 1, 1)]
    model, image, label = example_case(16)
    effort = Effort((1.0,), ("evading",))
    subject = Subject(model, batches, batches, batches, (image, label), {"noise": batches}, {}, effort, effort, every=3)
    thin = subject.thinned()
    for kept in (thin.fit, thin.calibrate, thin.held_out, thin.shifted["noise"]):
        assert torch.cat(kept).flatten().tolist() == [0, 3, 6]
    assert set(MANY_PASSES) < set(detector_table.DETECTORS)


def test_an_image_that_is_there_twice_is_kept_once() -> None:
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[4] = images[1]
    images[5] = images[2] + 0.001  # less than a gray value
    assert without_repetitions(images).tolist() == [0, 1, 2, 3]


def test_the_autoencoder_takes_noise_away() -> None:
    draw = torch.Generator().manual_seed(0)
    clean = torch.nn.functional.interpolate(torch.rand(128, 1, 4, 4, generator=draw), 16, mode="bilinear")
    network = trained_autoencoder(clean[:96], epochs=8).eval()
    noise = 0.05 * torch.randn(32, 1, 16, 16, generator=draw)
    with torch.no_grad():
        left = network(clean[96:] + noise) - clean[96:]
    assert float(left.square().mean()) < float(noise.square().mean())


def test_attacks_of_the_table_stay_in_their_budgets() -> None:
    budget = Budget(0.02, "2 %", 1.0, steps=1, queries=2, long=9)
    found = budget.attacks()
    assert (
        len(found) == 7
        and found[LONG].steps == 9
        and len({type(attack.perturbation).__name__ for attack in found.values()}) == 3
    )


def test_the_page_says_the_budgets_of_each_network() -> None:
    said = " ".join((DOCS / detector_table.PAGE).read_text(encoding="utf-8").split())
    assert set(BUDGETS) >= set(detector_table.SUBJECTS)
    assert all(str(budget) in said for budget in BUDGETS.values())


def test_training_lowers_the_loss_and_an_attack_is_part_of_it() -> None:
    image = torch.rand(4, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    label = (image > 0.5).long()
    plain, hardened = (trained_unet(image, label, 1, attack=attack) for attack in (None, PGD(0.3, steps=1)))
    assert not torch.equal(plain(image), hardened(image))
    assert not torch.equal(plain(image), small_unet()(image))


def test_a_kept_network_is_not_trained_again(tmp_path: Path) -> None:
    from benchmarks.detector_subjects import kept

    first = kept(tmp_path / "one.pt", lambda: small_unet(1))
    again = kept(tmp_path / "one.pt", lambda: pytest.fail("trained again"))
    image = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(first(image), again(image))
