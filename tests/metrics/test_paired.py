# SPDX-License-Identifier: Apache-2.0
"""Paired tests over patients equal p-values that can be counted by hand."""

from __future__ import annotations

import math

import pytest

from monai_adversarial.metrics import by_patient, compare_paired, holm, paired_test


def named(*values: float) -> dict[str, float]:
    return {str(place): value for place, value in enumerate(values)}


@pytest.mark.parametrize("method", ["wilcoxon", "permutation"])
def test_when_all_patients_fall_only_two_of_all_signs_are_as_extreme(method: str) -> None:
    before, after = named(0.9, 0.8, 0.7, 0.9, 0.8), named(0.5, 0.3, 0.1, 0.2, 0.0)
    n, mean, p = paired_test(before, after, method)
    assert n == 5 and mean == pytest.approx(0.6) and p == pytest.approx(2 / 2**5)
    assert paired_test(after, before, method)[1:] == (pytest.approx(-0.6), pytest.approx(2 / 2**5))


def test_ranks_and_means_by_hand() -> None:
    # differences -1, 2, 3, 4: negative ranks sum to 1; of 16 sign patterns {} and {1} are as low, and their mirrors
    first, second = named(0, 2, 3, 4), named(1, 0, 0, 0)
    assert paired_test(first, second)[2] == pytest.approx(4 / 16)
    # of the sums over signs 8 and 10, and their mirrors, are as extreme as 8
    assert paired_test(first, second, "permutation")[2] == pytest.approx(4 / 16)


def test_patients_without_both_values_are_left_out() -> None:
    first, second = {"a": 1.0, "b": math.nan, "c": 0.5, "d": 0.1}, {"a": 0.5, "b": 0.1, "c": 0.5, "e": 3.0}
    assert paired_test(first, second)[:2] == (2, 0.25)
    assert paired_test(first, first) == (3, 0.0, 1.0)
    n, mean, p = paired_test(first, {})
    assert n == 0 and math.isnan(mean) and math.isnan(p)


def test_many_permutations_are_drawn_by_the_seed() -> None:
    first = named(*(0.1 * place for place in range(20)))
    second = named(*(0.1 * place + 0.05 * (-1) ** place for place in range(20)))
    one, again, other = (paired_test(first, second, "permutation", 200, seed) for seed in (0, 0, 1))
    assert one == again and one[2] > 0.5 and other[2] > 0.5


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.6, math.nan, 0.7])
    assert found[0] == found[2] == 1.0 and math.isnan(found[1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_a_patient_with_many_scans_counts_once() -> None:
    found = by_patient([0.1, None, 0.3, math.nan], ["a", "a", "a", "b"])
    assert found["a"] == pytest.approx(0.2) and math.isnan(found["b"])
    with pytest.raises(ValueError, match="each of 2 values, got 1"):
        by_patient([0.1, 0.2], ["a"])


def test_comparisons_are_corrected_together() -> None:
    results = {
        "plain": named(0.1, 0.2, 0.3, 0.1, 0.2, 0.3),
        "trained": named(0.5, 0.7, 0.6, 0.4, 0.7, 0.9),
        "purified": named(0.2, 0.1, 0.4, 0.0, 0.3, 0.2),
    }
    rows = compare_paired(results, baseline="plain")
    assert [(row["first"], row["second"]) for row in rows] == [("trained", "plain"), ("purified", "plain")]
    assert rows[0]["p"] == pytest.approx(2 / 64) and rows[0]["p_holm"] == pytest.approx(4 / 64)
    assert rows[1]["p_holm"] == rows[1]["p"] > 0.5
    assert len(compare_paired(results)) == 3
    for bad, baseline in (({"plain": {}}, None), (results, "other")):
        with pytest.raises(ValueError, match="results must hold two or more"):
            compare_paired(bad, baseline)
    with pytest.raises(ValueError, match="method must be one of"):
        compare_paired(results, method="t")
