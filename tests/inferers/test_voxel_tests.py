# SPDX-License-Identifier: Apache-2.0
"""Binomial tests with a correction for many voxels, against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from monai_adversarial.inferers.voxel_tests import binomial_tail, copies_needed, least_votes


def slow_holm(p_values: list[float], alpha: float) -> set[int]:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = set()
    for rank, where in enumerate(order):
        if p_values[where] > alpha / (len(order) - rank):
            break
        rejected.add(where)
    return rejected


def test_tail_is_the_exact_one_sided_binomial_test():
    for copies, tau in ((1, 0.5), (17, 0.75), (100, 0.9)):
        expected = [binomtest(k, copies, tau, alternative="greater").pvalue for k in range(copies + 1)]
        np.testing.assert_allclose(binomial_tail(copies, tau), expected, rtol=1e-10)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from([0.5, 0.6, 0.75]),
    st.sampled_from([1e-3, 0.05, 0.3, 0.9]),
)
def test_corrections_equal_a_slow_loop(rows, mask, tau, alpha):
    votes = torch.tensor(rows, dtype=torch.int16)
    tested = torch.tensor(mask).expand_as(votes)
    tail = binomial_tail(12, tau)
    holm, bonferroni = (least_votes(votes, tested, tail, alpha, which) for which in ("holm", "bonferroni"))
    for sample, row in enumerate(rows):
        family = [i for i in range(8) if mask[i]]
        p_values = [float(tail[row[i]]) for i in family]
        found = {j for j, i in enumerate(family) if row[i] >= int(holm[sample])}
        assert found == slow_holm(p_values, alpha)
        plain = {j for j, i in enumerate(family) if row[i] >= int(bonferroni[sample])}
        assert plain == {j for j, p in enumerate(p_values) if p <= alpha / len(family)}
        assert plain <= found


def test_holm_certifies_more_than_bonferroni_where_most_voxels_are_certain():
    votes = torch.tensor([[50] * 99 + [40]], dtype=torch.int16)
    tested, tail = torch.ones_like(votes, dtype=torch.bool), binomial_tail(50, 0.6)
    assert 0.01 / 100 < tail[40] <= 0.01
    assert least_votes(votes, tested, tail, 0.01, "holm").item() <= 40
    assert least_votes(votes, tested, tail, 0.01, "bonferroni").item() > 40


@pytest.mark.parametrize("tests", [1, 1000, 512**3])
@pytest.mark.parametrize("tau", [0.5, 0.75, 0.95])
def test_copies_needed_is_the_least_number_that_suffices(tests, tau):
    copies = copies_needed(tests, tau, 0.001)
    assert tau**copies <= 0.001 / tests * (1 + 1e-9) and tau ** (copies - 1) > 0.001 / tests
    unanimous = torch.full((1, 1), copies)
    everything = torch.ones(1, 1, dtype=torch.bool)
    assert least_votes(unanimous, everything, binomial_tail(copies, tau), 0.001 / tests).item() == copies
    assert least_votes(unanimous - 1, everything, binomial_tail(copies - 1, tau), 0.001 / tests).item() == copies


def test_nothing_tested_needs_nothing_and_certifies_nothing():
    assert copies_needed(0, 0.75, 0.001) == 0
    votes = torch.full((2, 4), 10)
    assert least_votes(votes, votes < 0, binomial_tail(10, 0.75), 0.001).shape == (2,)
