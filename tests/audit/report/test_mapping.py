# SPDX-License-Identifier: Apache-2.0
"""Rows are mapped to the passages that speak of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_adversarial.audit.report.mapping import DOCUMENTS, mapping_of

PAGE = Path(__file__).parents[3] / "docs" / "audit_mapping.md"
FAMILIES = ("clean", "noise", "natural variation", "bias field", "geometry", "gradient", "queries", "transfer")


@pytest.mark.parametrize("family", ["clean", "noise", "natural variation"])
def test_what_is_no_attack_maps_to_no_taxonomy_of_attacks(family):
    assert not any(d.startswith(("NIST", "MITRE", "OWASP")) for d in mapping_of({"family": family}, gradients=True))


@pytest.mark.parametrize(
    ("family", "gradients", "technique"),
    [
        ("gradient", True, "AML.T0043.000"),
        ("bias field", True, "AML.T0043.000"),
        ("geometry", False, "AML.T0043.001"),
        ("queries", True, "AML.T0043.001"),
        ("transfer", True, "AML.T0043.002"),
    ],
)
def test_knowledge_decides_on_the_technique(family, gradients, technique):
    found = mapping_of({"family": family}, gradients)
    assert set(found) == set(DOCUMENTS)
    assert technique in found["MITRE ATLAS 5.6.0"]


def test_what_the_attacker_knows_decides_where_it_is_said():
    row = {"family": "bias field", "knowledge": "queries"}
    assert "AML.T0043.001" in mapping_of(row, gradients=True)["MITRE ATLAS 5.6.0"]
    assert "MITRE ATLAS 5.6.0" not in mapping_of({"family": "noise", "knowledge": "queries"}, gradients=True)


def test_the_page_of_the_mapping_has_every_passage():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for family in FAMILIES:
        for gradients in (True, False):
            for document, passages in mapping_of({"family": family}, gradients).items():
                assert document in text
                assert all(passage in text for passage in passages.split("; ")), passages
