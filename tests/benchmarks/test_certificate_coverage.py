# SPDX-License-Identifier: Apache-2.0
"""Certificates are wrong at most as often as promised where the truth is known, in every variant."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom

from benchmarks.certificate_coverage import (
    ALPHA,
    COPIES,
    METHODS,
    NAME,
    TAU,
    CoverageRow,
    KnownVotes,
    example_probabilities,
    markdown_table,
    measure,
)
from benchmarks.csv_rows import read_rows
from benchmarks.doc_tables import DOCS, renew_table

REPETITIONS = 250
#: more wrong samples than this have a chance of 1 in 100 000 if their probability is alpha
MOST = int(binom.ppf(1 - 1e-5, REPETITIONS, ALPHA))


@pytest.mark.parametrize("method", METHODS)
def test_wrong_certificates_are_as_rare_as_promised(method: str) -> None:
    row = measure(method, REPETITIONS)
    assert row.wrong <= MOST
    assert row.certified > 0.15  # by certifying nothing, nothing is wrong


def test_the_simulation_sees_a_level_that_is_too_high() -> None:
    assert measure("Holm", REPETITIONS, alpha=0.9).wrong > MOST


def test_a_hierarchy_says_more_and_looks_cost_less_at_the_same_level() -> None:
    plain, hierarchy, looks = (measure(method, 60) for method in ("Holm", "Holm, hierarchy", "Holm, three looks"))
    assert hierarchy.certified > plain.certified + 0.1
    assert looks.copies < plain.copies == COPIES + 9


def test_the_network_votes_with_its_probabilities() -> None:
    chances = example_probabilities()
    noise = torch.randn((4000, 1, len(chances)), generator=torch.Generator().manual_seed(1))
    shares = KnownVotes(chances)(noise).double().mean(dim=0).T
    torch.testing.assert_close(shares, chances, atol=4.5 * 0.5 / 4000**0.5, rtol=0)
    assert bool((chances.sum(dim=1) - 1).abs().max() < 1e-12) and TAU in chances[:, 3].tolist()


def test_the_page_has_the_measured_rows(tmp_path) -> None:
    rows = read_rows(DOCS / NAME, CoverageRow)
    assert [row.method for row in rows] == list(METHODS)
    assert all(row.wrong <= binom.ppf(1 - 1e-5, row.repetitions, ALPHA) for row in rows)
    page = tmp_path / "certificates.md"
    page.write_text((DOCS / "certificates.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    assert markdown_table(rows) in before
    renew_table(page, NAME, markdown_table(rows))
    assert page.read_text(encoding="utf-8") == before
