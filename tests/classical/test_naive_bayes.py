# SPDX-License-Identifier: Apache-2.0
"""Naive Bayes, the cheapest camouflage against brute force, the classifier that knows it, upcoding."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from monai_adversarial.classical import (
    AdversaryAwareNaiveBayes,
    NaiveBayes,
    minimum_cost_camouflage,
    synthetic_claims,
    upcode,
)


def tables(seed: int = 0) -> tuple[NaiveBayes, list[np.ndarray], np.ndarray]:
    """A model of four features of 2 to 4 values, costs, and samples."""
    generator = np.random.default_rng(seed)
    values = (2, 3, 4, 2)
    labels = np.arange(80) % 2
    samples = np.stack([(generator.random(80) * (n - 1) + labels).astype(int) % n for n in values], axis=1)
    samples[:4] = [[n - 1 for n in values]] * 4  # all values occur
    costs = []
    for count in values:
        table = generator.integers(1, 9, (count, count)).astype(float)
        np.fill_diagonal(table, 0)
        costs.append(table)
    costs[0][1, 0] = math.inf  # cannot be undone
    return NaiveBayes().fit(samples, labels), costs, samples


def brute_force(model: NaiveBayes, sample: np.ndarray, costs: list[np.ndarray]) -> float:
    best = math.inf
    for other in itertools.product(*map(range, model.values)):
        if model.decision([other])[0] <= 1e-9:
            best = min(best, sum(table[a, b] for table, a, b in zip(costs, sample, other, strict=True)))
    return best


def test_naive_bayes_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.naive_bayes")
    model, _, samples = tables()
    labels = np.arange(80) % 2
    theirs = sklearn.CategoricalNB(alpha=1.0).fit(samples, labels).predict_log_proba(samples)
    assert np.allclose(model.decision(samples), theirs[:, 1] - theirs[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_camouflage_is_found(seed: int) -> None:
    model, costs, samples = tables(seed)
    positives = [row for row in samples if model.predict([row])[0] == 1][:12]
    assert positives
    for row in positives:
        found, best = minimum_cost_camouflage(model, row, costs, resolution=2000), brute_force(model, row, costs)
        assert found.cost == pytest.approx(best), row
        if math.isfinite(best):
            assert model.predict([found.sample])[0] == 0 and found.changed
            paid = sum(table[a, b] for table, a, b in zip(costs, row, found.sample, strict=True))
            assert paid == found.cost
        coarse = minimum_cost_camouflage(model, row, costs, resolution=5)
        assert coarse.cost >= best and (not coarse.changed or model.predict([coarse.sample])[0] == 0)


def test_nothing_is_paid_that_is_not_worth_it() -> None:
    model, costs, samples = tables()
    row = next(row for row in samples if model.predict([row])[0] == 1 and brute_force(model, row, costs) < math.inf)
    best = brute_force(model, row, costs)
    assert not minimum_cost_camouflage(model, row, costs, gain=best).changed
    assert minimum_cost_camouflage(model, row, costs, gain=best + 0.5).changed
    harmless = next(row for row in samples if model.predict([row])[0] == 0)
    assert minimum_cost_camouflage(model, harmless, costs).cost == 0


def test_knowing_the_adversary_finds_what_it_hides() -> None:
    claims, labels = synthetic_claims(600)
    test, truth = synthetic_claims(300, seed=1)
    model = NaiveBayes().fit(claims, labels)
    costs = [np.array([[0.0, 1.0], [1.0, 0.0]])] * claims.shape[1]
    hidden = np.array([minimum_cost_camouflage(model, row, costs, 3.5, 200).sample for row in test[truth == 1]])
    aware = AdversaryAwareNaiveBayes(model, costs, 3.5)
    assert sum(aware.shown.values()) == pytest.approx(1.0)
    plain_found, aware_found = (float(one.predict(hidden).mean()) for one in (model, aware))
    assert aware_found > plain_found + 0.2
    score = float((aware.predict(np.where((truth == 1)[:, None], 0, test))[truth == 0] == 0).mean())
    assert score > 0.5


def test_upcoding_keeps_most_of_the_payment_and_passes() -> None:
    claims, labels = synthetic_claims()
    check = NaiveBayes().fit(claims, labels)
    wanted = np.ones(8, dtype=int)
    assert check.predict([wanted])[0] == 1
    filed = upcode(check, wanted)
    assert check.predict([filed.claim])[0] == 0 and 0 < filed.payment < filed.wanted
    honest = upcode(check, np.zeros(8, dtype=int))
    assert honest.payment == honest.wanted == 0 and honest.kept == 1


def test_wrong_tables_are_one_sentence() -> None:
    model, costs, samples = tables()
    with pytest.raises(ValueError, match="costs must be tables of shapes"):
        minimum_cost_camouflage(model, samples[0], costs[:2])
    with pytest.raises(ValueError, match="costs must be >= 0"):
        minimum_cost_camouflage(model, samples[0], [-table for table in costs])
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        NaiveBayes().fit([[0], [1]], [0, 0])
    with pytest.raises(ValueError, match="must hold the numbers of values"):
        NaiveBayes().fit([[0.5], [1]], [0, 1])
    with pytest.raises(ValueError, match="samples must hold values below"):
        model.decision([[9, 0, 0, 0]])


def test_the_page_shows_the_record() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.classical_claims import RECORD, figures
    from benchmarks.doc_tables import DOCS

    assert figures(json.loads(RECORD.read_text(encoding="utf-8"))) in (DOCS / "classical.md").read_text(
        encoding="utf-8"
    )
