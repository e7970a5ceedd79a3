# SPDX-License-Identifier: Apache-2.0
"""Two real processes train as one does on the joint batch. Run as a script by torchrun, it is one of the two."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import (
    AdversarialLossTerm,
    AdversarialTraining,
    FastAdversarialTraining,
    FreeAdversarialTraining,
    InputGradientRegularization,
    SemiSupervisedAdversarialTraining,
    robust_soft_label,
    self_distillation,
)
from monai_adversarial.losses import TRADESLoss
from monai_adversarial.networks import convert_dual_normalization
from tests.handlers.trainers import FLOAT32, items, trainer
from tests.two_processes import leave, run_two_processes

BATCH, ITERATIONS = 4, 3


class InstanceNormalized(nn.Module):
    """Statistics of each image alone: the same on two processes as on one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.second = nn.Conv3d(4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.norm(self.first(image))))


class BatchNormalized(InstanceNormalized):
    """Buffers that DistributedDataParallel sends around before each forward pass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(4)


def attack() -> PGD:
    return PGD(0.05, steps=2)


def share(data: list[dict[str, Any]], rank: int, processes: int) -> list[dict[str, Any]]:
    """The rank's part of each joint batch."""
    part = BATCH // processes
    return [data[start + rank * part + i] for start in range(0, len(data), BATCH) for i in range(part)]


def semi_supervised(rank: int, processes: int) -> SemiSupervisedAdversarialTraining:
    extra = share(items(2 * BATCH * ITERATIONS)[BATCH * ITERATIONS :], rank, processes)
    # Confidence 0: the mean over the counting voxels is then the same number of voxels on every process.
    loader = DataLoader(Dataset(extra), batch_size=BATCH // processes)
    return SemiSupervisedAdversarialTraining(attack(), loader, FLOAT32, confidence=0.0, balanced=False)


TRAININGS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Any]]] = {
    "replaced": (InstanceNormalized, lambda *_: AdversarialTraining(attack(), FLOAT32)),
    "mixed": (InstanceNormalized, lambda *_: AdversarialTraining(attack(), FLOAT32, adversarial_weight=0.5)),
    "sometimes": (InstanceNormalized, lambda *_: AdversarialTraining(attack(), FLOAT32, probability=0.5, seed=3)),
    "trades": (
        InstanceNormalized,
        lambda *_: AdversarialLossTerm(attack(), TRADESLoss(), FLOAT32, reference="probabilities"),
    ),
    "dual": (
        lambda: convert_dual_normalization(InstanceNormalized()),
        lambda *_: AdversarialTraining(attack(), FLOAT32, adversarial_weight=0.5),
    ),
    "semi_supervised": (InstanceNormalized, semi_supervised),
    # Every batch of the joint loader has the same share of each rank, so the checks agree as well.
    "fast": (InstanceNormalized, lambda *_: FastAdversarialTraining(0.05, model=FLOAT32, check_interval=1)),
    "free": (InstanceNormalized, lambda *_: FreeAdversarialTraining(0.05, replays=2)),
    "self distillation": (InstanceNormalized, lambda *_: self_distillation(attack(), decay=0.5, model=FLOAT32)),
    "distillation": (
        InstanceNormalized,
        lambda *_: robust_soft_label(InstanceNormalized().requires_grad_(False), attack(), model=FLOAT32),
    ),
    "input gradient": (InstanceNormalized, lambda *_: InputGradientRegularization(0.1, "exact")),
}


def train(name: str, rank: int, processes: int) -> dict[str, torch.Tensor]:
    make, handler = TRAININGS[name]
    network = make()
    data = share(items(BATCH * ITERATIONS), rank, processes)
    wrapped = nn.parallel.DistributedDataParallel(network) if processes > 1 else network
    trainer(wrapped, [handler(rank, processes)], data, batch_size=BATCH // processes).run()
    return network.state_dict()


def batch_normalized(rank: int) -> dict[str, torch.Tensor]:
    """With BatchNorm the processes agree on all weights, although each has its own batch."""
    network = BatchNormalized()
    data = share(items(BATCH * ITERATIONS), rank, 2)
    wrapped = nn.parallel.DistributedDataParallel(network)
    handler = AdversarialTraining(attack(), FLOAT32, adversarial_weight=0.5)
    trainer(wrapped, [handler], data, batch_size=BATCH // 2).run()
    return {name: value for name, value in network.named_parameters()}


def stops_together(rank: int) -> int:
    """One rank's batch collapses: both stop, in the same epoch."""
    network = InstanceNormalized()
    handler = FastAdversarialTraining(0.05, check_interval=1, tolerance=0.2)
    scores = iter([0.9, 0.3 if rank == 0 else 0.8])
    check = handler.check_attack

    def scored(*args: Any, **kwargs: Any) -> Any:
        return replace(check(*args, **kwargs), adversarial_score=torch.tensor([next(scores)]))

    scored.steps = 1  # type: ignore[attr-defined]
    handler.check_attack = scored  # type: ignore[assignment]
    wrapped = nn.parallel.DistributedDataParallel(network)
    engine = trainer(wrapped, [handler], items(2), max_epochs=2)
    engine.run()
    assert handler.robust_dice is not None
    return engine.state.epoch * (1 + handler.overfitted)


def refusals() -> None:
    network = convert_dual_normalization(InstanceNormalized())
    wrapped = nn.parallel.DistributedDataParallel(network)
    handler = AdversarialTraining(attack(), adversarial_weight=0.5, probability=0.5)
    with pytest.raises(ValueError, match="needs both branches in every iteration"):
        trainer(wrapped, [handler]).run()


def test_two_processes_train_as_one_on_the_joint_batch(tmp_path: Path) -> None:
    run_two_processes(__file__, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, (make, _) in TRAININGS.items():
        expected, start = train(name, 0, 1), make().state_dict()
        assert any(not torch.equal(expected[key], start[key]) for key in expected)
        for of_rank in found:
            for key, value in expected.items():
                torch.testing.assert_close(of_rank[name][key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
    # Mean Dice 0.9 -> 0.55 on both ranks.
    assert [int(of_rank["stopped"]["code"]) for of_rank in found] == [4, 4]
    for key, value in found[0]["batch normalization"].items():
        assert torch.equal(value, found[1]["batch normalization"][key]), key


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    results = {name: train(name, rank, 2) for name in TRAININGS}
    results["batch normalization"] = batch_normalized(rank)
    refusals()
    results["stopped"] = {"code": torch.tensor(stops_together(rank))}
    torch.save(results, Path(sys.argv[1]) / f"{rank}.pt")
    leave()
