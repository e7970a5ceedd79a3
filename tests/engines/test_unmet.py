# SPDX-License-Identifier: Apache-2.0
"""An attack that no batch ever met is named, at the latest when the process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from monai_adversarial.attacks import FGSM
from monai_adversarial.data.example_engines import example_evaluator, example_trainer
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.engines.unmet import forget_unmet, unmet_sentence
from monai_adversarial.handlers import AdversarialEvaluation, AdversarialTraining

ATTACK = FGSM(8, "HU")


@pytest.fixture(autouse=True)
def nothing_before() -> Iterator[None]:
    forget_unmet()
    yield
    forget_unmet()


MADE = {
    "PrepareBatchAdversarial": lambda: PrepareBatchAdversarial(ATTACK),
    "AdversarialEvaluation 'pgd'": lambda: AdversarialEvaluation(ATTACK, "pgd"),
    "AdversarialTraining": lambda: AdversarialTraining(ATTACK),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("attached", [True, False])
def test_what_meets_no_batch_is_named(name: str, attached: bool) -> None:
    made: Any = MADE[name]()
    engine = example_trainer() if "Training" in name else example_evaluator()
    if attached:
        made.attach(engine)
    assert f"no batch ever met it: {name}." in unmet_sentence()
    engine.run()
    assert (unmet_sentence() == "") == attached


def test_several_are_counted() -> None:
    kept = [PrepareBatchAdversarial(ATTACK) for _ in range(2)]
    assert kept and "2 times PrepareBatchAdversarial." in unmet_sentence()


PROGRAM = """
from monai_adversarial.attacks import FGSM
from monai_adversarial.data.example_engines import example_evaluator
from monai_adversarial.engines import PrepareBatchAdversarial
engine = example_evaluator()
adversary = PrepareBatchAdversarial(FGSM(8, "HU"))
{last}
engine.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("last, said", [("", True), ("adversary.attach(engine)", False), ("1 / 0", False)])
def test_a_process_says_it_when_it_ends(last: str, said: bool) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(last=last)], capture_output=True, text=True)
    assert ("warning: made, but no batch ever met it" in ended.stderr) == said
