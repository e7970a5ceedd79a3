# SPDX-License-Identifier: Apache-2.0
"""Tests over several looks against the exact distribution of their votes and against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from monai_adversarial.inferers.sequential_tests import SequentialTest, check_looks
from monai_adversarial.inferers.voxel_tests import binomial_tail, least_votes


def rejection_probability(test: SequentialTest, tau: float, level: float) -> float:
    """Exact probability that the p-value over all looks is at most ``level`` when each vote has probability tau."""
    alive, before, rejected = np.array([1.0]), 0, 0.0
    for look, copies in enumerate(test.looks):
        alive = np.convolve(alive, binom.pmf(np.arange(copies - before + 1), copies - before, tau))
        ranks = test.evidence(look, torch.arange(copies + 1)).numpy()
        passed = test.p_values[ranks] <= level
        rejected += alive[passed].sum()
        alive[passed] = 0.0
        before = copies
    return rejected


@pytest.mark.parametrize("looks", [(40,), (20, 40), (25, 30, 35, 40), (1, 2, 40)])
@pytest.mark.parametrize("tests", [1, 20])
def test_the_p_value_over_all_looks_is_one(looks, tests):
    test = SequentialTest(looks, 0.6, 0.2, tests)
    reached = [rejection_probability(test, 0.6, level) for level in (0.2, 0.2 / tests, 0.01)]
    for level, probability in zip((0.2, 0.2 / tests, 0.01), reached, strict=True):
        assert probability <= level * (1 + 1e-9)
    assert reached[0] > 0.02  # it does reject


def test_one_look_is_the_binomial_test():
    test = SequentialTest((30,), 0.7, 0.05, 10)
    votes = torch.arange(31)
    np.testing.assert_array_equal(test.p_values[test.evidence(0, votes)], binomial_tail(30, 0.7))
    assert test.reachable(0, votes).max() == 0


def test_looks_that_cannot_pass_get_no_share_of_the_level():
    test = SequentialTest((5, 50, 60), 0.6, 0.1, 1000)
    assert float(test.p_values[test.evidence(0, torch.tensor(5))]) == 1.0
    at_the_end = test.p_values[test.evidence(2, torch.tensor(60))]
    assert float(at_the_end) == pytest.approx(0.6**60 * 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.8]), st.sampled_from(["holm", "bonferroni"]))
def test_what_is_called_decided_is_decided(seed, alpha, correction):
    """Whatever votes come after the first look, certain voxels pass and hopeless ones do not."""
    random = np.random.default_rng(seed)
    looks, tests = (12, 24), 6
    test = SequentialTest(looks, 0.5, alpha, tests, correction)
    first = torch.from_numpy(random.binomial(12, random.choice([0.4, 0.7, 0.95], tests)))
    now = test.evidence(0, first)
    best = torch.maximum(now, test.reachable(0, first))
    certain, hopeless = now >= test.certain, best < test.hopeless(best)
    assert not bool((certain & hopeless).any())
    for later in (torch.full((tests,), 12), torch.from_numpy(random.binomial(12, 0.6, tests)), torch.zeros(tests)):
        votes = first + later.long()
        whole = torch.maximum(now, test.evidence(1, votes))
        mask = torch.ones(1, tests, dtype=torch.bool)
        passed = whole >= int(least_votes(whole[None], mask, test.p_values, alpha, correction))
        assert bool(passed[certain].all()) and not bool(passed[hopeless].any())
        # leaving out the later votes of what is decided changes nothing for the others
        kept = torch.where(certain | hopeless, now, whole)
        again = kept >= int(least_votes(kept[None], mask, test.p_values, alpha, correction))
        assert torch.equal(again, passed)


def test_looks_are_counts_or_numbers_of_copies():
    assert check_looks(None, 50) == (50,)
    assert check_looks(4, 50) == (12, 25, 37, 50)
    assert check_looks([20, 50], 50) == (20, 50)


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ([20, 40], "looks must increase and end at n=50"),
        ([30, 20, 50], "looks must increase"),
        ([], "looks must increase"),
        (51, "looks must be at most n=50"),
        (0, "looks must be an integer >= 1"),
        (2.5, "looks must be an integer >= 1"),
    ],
)
def test_bad_looks_are_refused(looks, message):
    with pytest.raises(ValueError, match=message):
        check_looks(looks, 50)
