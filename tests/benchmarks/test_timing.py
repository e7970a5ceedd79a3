# SPDX-License-Identifier: Apache-2.0
"""Rounds, medians and their spread."""

from __future__ import annotations

import pytest
import torch

from benchmarks.networks import unet, volume
from benchmarks.timing import Job, StepClock, quartiles, run_rounds, timing_table
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel


def _job(name: str, seconds: list[float], **options) -> Job:
    left = list(seconds)
    return Job(name, lambda: [(2 * left[0], left.pop(0))], **options)


def test_the_first_round_warms_up_and_does_not_count() -> None:
    job = _job("floor", [100.0, 1.0, 3.0, 2.0])
    run_rounds([job], 3)
    assert job.cpu() == 2.0 and job.wall() == 4.0 and len(job.samples) == 3


def test_a_job_may_have_a_shorter_warm_up() -> None:
    warmed: list[int] = []
    job = _job("floor", [1.0, 3.0], warm_up=lambda: warmed.append(1))
    run_rounds([job], 2)
    assert warmed == [1] and job.cpu() == 2.0


def test_rows_are_divided_by_their_reference() -> None:
    jobs = [_job("floor", [0.0, 2.0, 2.0, 2.0]), _job("ours", [0.0, 0.5, 1.0, 2.0], target=0.45)]
    run_rounds(jobs, 3)
    table = timing_table("steps", "", jobs)
    assert table.rows[0][:3] == ["floor", 1.0, "[1.00, 1.00]"]
    assert table.rows[1] == ["ours", 0.5, "[0.38, 0.75]", 0.5, 1.0, 2.0, "<= 0.45: MISSED"]


def test_quartiles_of_one_value_are_that_value() -> None:
    assert quartiles([0.25]) == "[0.25, 0.25]" and quartiles([1.0, 2.0, 3.0], digits=1) == "[1.5, 2.5]"


def test_a_reference_must_be_among_the_jobs() -> None:
    job = _job("ours", [1.0, 1.0])
    run_rounds([job], 1)
    with pytest.raises(KeyError, match="floor"):
        timing_table("steps", "", [job])


def test_a_clock_changes_nothing_of_the_attack_but_notes_its_evaluations() -> None:
    image, label = volume((16, 16, 16), "cpu")
    model = AttackedModel(unet((4, 8)))
    clock = StepClock()
    plain, noted = PGD(0.02, steps=4), clock.attach(PGD(0.02, steps=4))
    assert isinstance(noted.gradient, type(plain.gradient))
    found = [attack(model, image, label) for attack in (plain, noted)]
    assert torch.equal(found[0].adversarial, found[1].adversarial) and found[0].forwards == found[1].forwards
    assert len(clock.marks) == 4 and len(clock.steps()) == 2 and clock.marks == []
