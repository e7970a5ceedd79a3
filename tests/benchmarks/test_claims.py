# SPDX-License-Identifier: Apache-2.0
"""The runner of claims leaves its process as it found it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.claims import outcome, run_claims


@pytest.mark.parametrize("fails", [False, True])
def test_claims_are_tested_with_one_thread_which_is_given_back(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def claim() -> dict[str, Any]:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("a claim that cannot be tested")
        return outcome("a claim", "a source", [True], "seen", "data")

    file, before = tmp_path / "claims.json", torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["claims", str(file)])
    torch.set_num_threads(3)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="cannot be tested"):
                run_claims(None, {"claim": claim}, "page.md", "claims.json", lambda text, folder: text)
        else:
            assert run_claims(None, {"claim": claim}, "page.md", "claims.json", lambda text, folder: text) == 0
            assert json.loads(file.read_text(encoding="utf-8"))["claim"]["verdict"] == "confirmed"
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
