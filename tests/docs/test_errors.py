# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md quotes sentences that the code says."""

from __future__ import annotations

import re

import pytest

from benchmarks.error_sentences import fits, page, sentences, templates
from tests.docs.pages import ROOT

TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
QUOTED = [row for row in re.findall(r"^\| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE) if row[0] not in ("sentence",)]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return templates()


def test_every_quoted_sentence_is_in_the_code(said: list[str]) -> None:
    lost = [sentence for sentence, _ in QUOTED if not any(fits(sentence, template) for template in said)]
    assert not lost
    assert len(QUOTED) >= 60


def test_every_sentence_has_an_advice() -> None:
    assert all(advice.endswith(".") and len(advice) > 10 for _, advice in QUOTED)


def test_a_sentence_that_nobody_says_is_found(said: list[str]) -> None:
    assert not any(fits("image must be a cat, got ...", template) for template in said)
    assert not any(fits("got ... the plan there is no", template) for template in said)


def test_the_list_of_all_has_the_rooms_of_the_package() -> None:
    found = sentences()
    rooms = {module.split(".")[1] for module in found}
    assert {"attacks", "models", "engines", "handlers", "purifiers", "audit", "studies", "data", "transforms"} <= rooms
    assert sum(map(len, found.values())) > 700
    assert "monai\\_adversarial" not in page().split("##")[0] and page().count("\n- **") > 700
