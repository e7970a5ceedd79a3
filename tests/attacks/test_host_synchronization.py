# SPDX-License-Identifier: Apache-2.0
"""No step of an attack waits for the device: inside the loop no value is read by the host."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from monai_adversarial.attacks import (
    APGD,
    MIFGSM,
    PGD,
    Attack,
    BiasFieldAttack,
    ElasticAttack,
    TextureAttack,
    ascent,
    scored_run,
)
from monai_adversarial.attacks.perturbations import warp
from monai_adversarial.data.example import example_case

#: operations that copy a value, or a number of values, to the host
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select"}


class Reads(TorchDispatchMode):
    """Where values are read while ``inside``."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.places = False, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and func._schema.name in READS:
            own = [one for one in traceback.extract_stack() if "monai_adversarial" in one.filename]
            self.places.append(f"{func._schema.name} at {own[-1].filename}:{own[-1].lineno}")
        return func(*args, **(kwargs or {}))


def reads_of_the_loop(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places that read a value from the first step of a run to its last."""
    reads, iterate = Reads(), ascent.Ascent.__iter__

    def watched(self: Any) -> Any:
        for step in iterate(self):
            reads.inside = True
            yield step
        reads.inside = False

    monkeypatch.setattr(ascent.Ascent, "__iter__", watched)
    monkeypatch.setattr(
        warp, "_counts_are_free", lambda device: False
    )  # on a CPU it counts, where nothing waits for it
    with reads:
        attack(*example_case(16))
    return reads.places


@pytest.mark.parametrize(
    "attack",
    [
        PGD(8, "HU", steps=3),
        PGD(8, "HU", steps=3, norm="l2"),
        APGD(8, "HU", steps=3),
        MIFGSM(8, "HU", steps=3),
        BiasFieldAttack(0.3, steps=3),
        ElasticAttack(2.0, steps=3),
        TextureAttack(steps=3),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_no_step_reads_a_value(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_of_the_loop(attack, monkeypatch) == []


def test_a_value_that_is_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:

    def look(self: Any, bound: Any, step: Any, left: Any) -> None:
        seen.append(bool(step.found.ranks[0] > -1e9))

    seen: list[bool] = []
    monkeypatch.setattr(scored_run.ScoredRun, "_look_at", look)
    assert len(reads_of_the_loop(PGD(8, "HU", steps=3), monkeypatch)) == len(seen) == 3
