# SPDX-License-Identifier: Apache-2.0
"""Budgets through files of every type and scaling, measured by code of their own (10,000 of them: docs/trust.md)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.budget_examples import KINDS, TYPES, make_example, run_example, summary
from benchmarks.budget_measure import euclidean, gain_bounds, geometry, unchanged, within
from benchmarks.nifti_bytes import RawNifti, read_raw, write_raw


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(100_000, 2**31))
def test_no_file_leaves_its_budget_and_none_is_refused(seed: int) -> None:
    with TemporaryDirectory() as folder:
        outcome = run_example(make_example(seed), Path(folder))
    assert not outcome.violations and outcome.alarm is None and outcome.error is None, outcome


def test_examples_reach_every_type_and_kind() -> None:
    made = [make_example(seed) for seed in range(600)]
    assert {example.dtype for example in made} == {f"{order}{kind}" for order in "<>" for kind in TYPES}
    assert {example.kind for example in made} == set(KINDS)
    assert {example.region for example in made} == {example.compressed for example in made} == {False, True}


def raw(*values: float, slope: float = 1.0, dtype: str = "<i2") -> RawNifti:
    return RawNifti(np.array(values, dtype).reshape(1, 1, -1), slope, 0.0)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (lambda c, s: within(c, s, (c.values - 2, c.values + 2), "noise"), "1 voxels outside, the worst by"),
        (lambda c, s: unchanged(c, s, np.array([[[False, True]]]), "region"), "1 voxels changed"),
        (lambda c, s: within(c, s, gain_bounds(c.values, c.values, 0.02, "image", (0, 1)), "gain"), "outside"),
        (lambda c, s: euclidean(c, s, np.ones((1, 1, 2), bool), "l2", 2.9), "l2 3 HU above 2.9"),
        (lambda c, s: euclidean(c, s, np.ones((1, 1, 2), bool), "rms", 2.0), "rms 2.12132 HU above 2"),
    ],
)
def test_the_measuring_code_finds_what_is_outside(found: object, says: str) -> None:
    clean, saved = raw(40, 100), raw(40, 103)
    (sentence,) = found(clean, saved)  # type: ignore[operator]
    assert says in sentence
    assert not found(clean, clean)  # type: ignore[operator]


def test_the_measuring_code_finds_a_displacement_that_is_too_long_or_folds() -> None:
    field = np.zeros((3, 4, 4, 4))
    field[0] = -1.5 * np.arange(4).reshape(4, 1, 1)
    assert any("above 4 mm" in one for one in geometry(field, (1.0, 1.0, 1.0), 4.0, "euclidean", None))
    assert any("below 0.1" in one for one in geometry(field, (1.0, 1.0, 1.0), 9.0, "euclidean", 0.1))
    assert not geometry(field * 0.1, (1.0, 1.0, 1.0), 4.0, "euclidean", 0.1)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f8", "<u8", "<i1"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_bytes_are_read_as_they_were_written(dtype: str, ending: str, tmp_path: Path) -> None:
    stored = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_raw(tmp_path / f"a{ending}", stored, 0.5, 3.0, (1.0, 2.0, 3.0))
    found = read_raw(tmp_path / f"a{ending}")
    assert found.stored.dtype == np.dtype(dtype) and np.array_equal(found.stored, stored)
    assert np.array_equal(found.values, stored * 0.5 + 3.0)
    write_raw(tmp_path / f"b{ending}", stored, None, 3.0, (1.0, 2.0, 3.0))
    assert np.array_equal(read_raw(tmp_path / f"b{ending}").values, stored)


def test_a_summary_counts_what_is_wrong(tmp_path: Path) -> None:
    outcomes = [run_example(make_example(seed), tmp_path) for seed in range(3)]
    outcomes[0].violations.append("outside")
    outcomes[1].alarm = "refused"
    outcomes[2].error = "ValueError: no"
    found = summary(outcomes, 1.0)
    assert (found["examples"], found["violations"], found["false_alarms"], found["errors"]) == (3, 1, 1, 1)
    assert [one["seed"] for one in found["first_wrong"]] == [0, 1, 2]
