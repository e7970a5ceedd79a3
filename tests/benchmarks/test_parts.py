# SPDX-License-Identifier: Apache-2.0
"""Every part of ``python -m benchmarks`` runs, at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.parts import PARTS, Part
from benchmarks.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = Settings(
    rounds=1,
    size=32,
    threads=1,
    device="cpu",
    cases=1,
    steps=1,
    passes=(1, 2),
    most_passes=2,
    volume=64,
    classes=(2, 5),
    layered=64,
    windows=((1, 1, 1), (2, 2, 1)),
    plane=64,
    purifier_size=16,
    training_size=32,
    compiled=False,
)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_measures_something(part: Part) -> None:
    threads = torch.get_num_threads()
    record = part.run(TINY, lambda text: None)
    torch.set_num_threads(threads)
    if part.name == "gpu":
        assert record.tables == []
        return
    assert record.tables and record.seconds > 0
    for table in record.tables:
        assert table.rows, table.name
        numbers = [cell for row in table.rows for cell in row if isinstance(cell, float)]
        assert numbers and all(cell == cell for cell in numbers), table.name
        assert json.loads(json.dumps(table.as_plain()))["name"] == table.name


def test_parts_have_names_of_their_own() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)


@pytest.mark.slow
def test_the_command_prints_and_saves_a_part_and_names_one_that_fails(tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "training", "steps", "--rounds", "1", "--threads", "1"]
    command += ["--size", "32", "--no-compile", "--save", str(tmp_path), "--output", str(tmp_path / "out.md")]
    # 31 voxels are no multiple of 16: this part fails, the other one is measured
    done = subprocess.run(
        [*command, "--training-size", "31"], capture_output=True, text=True, cwd=REPOSITORY, timeout=600
    )
    assert done.returncode == 1 and "training FAILED: ValueError" in done.stderr
    assert "PGD step, default (auto)" in done.stdout and "FAILED: ['training']" in done.stderr
    assert [path.name for path in tmp_path.glob("*.json")] == ["steps.json"]
    assert "PGD step, default (auto)" in (tmp_path / "out.md").read_text()
