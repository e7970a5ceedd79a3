# SPDX-License-Identifier: Apache-2.0
"""Trainings that have failed say so. Run as a script by torchrun, it is one of two processes of unequal length."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.join import Join

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import AdversarialLossTerm, AdversarialTraining
from monai_adversarial.losses import TRADESLoss
from tests.handlers.trainers import SmallNetwork, cross_entropy, items, trainer
from tests.two_processes import leave, run_two_processes


def handlers() -> dict[str, Any]:
    return {
        "replaced": AdversarialTraining(PGD(0.05, steps=1)),
        "term": AdversarialLossTerm(PGD(0.05, steps=1), TRADESLoss(), reference="probabilities"),
    }


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_nan_weights_are_refused_before_the_first_iteration(broken: float) -> None:
    network = SmallNetwork()
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = broken
    engine = trainer(network, [AdversarialTraining(PGD(0.05, steps=1))])
    with pytest.raises(ValueError, match="weights and buffers hold NaN or infinite values"):
        engine.run()
    assert engine.state.iteration == 0


@pytest.mark.parametrize("kind", ["replaced", "term"])
def test_a_nan_loss_is_said_at_once_and_once(kind: str) -> None:
    calls = []

    def loss(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return cross_entropy(prediction, label) * (float("nan") if len(calls) == 2 else 1.0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(SmallNetwork(), [handlers()[kind]], items(8), loss=loss).run()
    said = [str(one.message) for one in caught if "the loss is NaN in iteration" in str(one.message)]
    assert len(said) == 1 and "in iteration 2," in said[0]


def test_processes_with_unequal_numbers_of_batches_are_named_and_join(tmp_path: Path) -> None:
    run_two_processes(__file__, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for kind in handlers():
        for key, value in found[0][kind].items():
            assert torch.equal(value, found[1][kind][key]), (kind, key)
            assert bool(torch.isfinite(value).all())
    assert found[0]["iterations"].tolist() == [3, 3] and found[1]["iterations"].tolist() == [2, 2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    results: dict[str, Any] = {}
    iterations = []
    for kind, handler in handlers().items():
        network = SmallNetwork()
        wrapped = nn.parallel.DistributedDataParallel(network)
        engine = trainer(wrapped, [handler], items(6 if rank == 0 else 4))
        with warnings.catch_warnings(record=True) as caught, Join([wrapped]):
            warnings.simplefilter("always")
            engine.run()
        assert any("the processes have 2 to 3 batches" in str(one.message) for one in caught)
        results[kind] = network.state_dict()
        iterations.append(engine.state.iteration)
    results["iterations"] = torch.tensor(iterations)
    torch.save(results, Path(sys.argv[1]) / f"{rank}.pt")
    leave()
