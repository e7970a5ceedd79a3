# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/trust.md are those of the files beside it and of the tests."""

from __future__ import annotations

import json

import pytest

from benchmarks.doc_tables import DOCS
from benchmarks.trust_docs import FOLDER, PAGE, with_tables


def test_the_tables_are_made_of_the_files() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert with_tables(text, DOCS / FOLDER) == text


@pytest.mark.parametrize("path", sorted((DOCS / FOLDER).glob("*.json")), ids=lambda path: path.stem)
def test_nothing_was_wrong_in_what_is_published(path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    for run in found.get("runs", [found]):
        for bad in ("violations", "false_alarms", "errors", "different", "half_written"):
            assert run.get(bad, 0) == 0, (path.name, bad)
