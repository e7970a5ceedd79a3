# SPDX-License-Identifier: Apache-2.0
"""Time of an iteration of adversarial training, against what the method cannot do without.

The trainer is MONAI's ``SupervisedTrainer`` with the phantom bundle's U-Net, batches of two patches that are already on
the device, and AdamW. A row's denominator is a sum of parts that are timed in the same rounds:

- clean iteration: an iteration of the same trainer without a handler.
- training pass: forward and backward pass to the weights, by hand, of a network in training mode.
- floor: forward and backward pass to the input only, by hand, weights frozen, in the attack's own precision.
- forward: forward pass without gradient, by hand, in the attack's own precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import nn

from benchmarks.networks import input_gradient
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged
from benchmarks.timing import Job, quartiles, run_rounds, timed
from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import AdversarialLossTerm, AdversarialTraining, FastAdversarialTraining
from monai_adversarial.handlers.free_adversarial_training import FreeAdversarialTraining
from monai_adversarial.handlers.input_gradient_regularization import InputGradientRegularization
from monai_adversarial.losses.trades import TRADESLoss
from monai_adversarial.utils.precision import Precision

__all__ = ["TrainingRow", "tables", "training_rows"]

CLASSES = 8
CHANNELS = (16, 32, 48, 64, 96)
BATCH = 2
STEPS = 5
EPSILON = 0.02
ITERATIONS = 2


@dataclass
class TrainingRow:
    """A row of the table.

    Args:
        job: the iterations of a trainer with a handler.
        parts: the denominator: jobs and how often each counts.
        target: highest accepted ratio, None where there is none.
    """

    job: Job
    parts: tuple[tuple[int, Job], ...]
    target: float | None = None

    @property
    def denominator(self) -> str:
        """What the row is divided by."""
        return " + ".join(part.name if count == 1 else f"{count} x {part.name}" for count, part in self.parts)

    def ratios(self, which: int) -> list[float]:
        """Ratio of each round, of wall (0) or CPU time (1)."""
        return [
            sample[which] / sum(count * part.samples[number][which] for count, part in self.parts)
            for number, sample in enumerate(self.job.samples)
        ]

    def wall(self) -> float:
        """Median over the rounds of the ratio within a round, which a slow drift of the machine does not touch."""
        return median(self.ratios(0))

    def cpu(self) -> float:
        """The same of CPU time."""
        return median(self.ratios(1))


def network(device: str) -> nn.Module:
    """The phantom bundle's U-Net with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = UNet(3, 1, CLASSES, CHANNELS, (2,) * (len(CHANNELS) - 1), num_res_units=1, norm="batch")
    return made.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def loss_function() -> nn.Module:
    """The phantom bundle's loss."""
    return DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)


class _IterationClock:
    """Seconds of an iteration, without the handling of epochs."""

    def __init__(self) -> None:
        self.begun = (0.0, 0.0)
        self.samples: list[tuple[float, float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.end)

    def _now(self) -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def begin(self, engine: Engine) -> None:
        self.begun = self._now()

    def end(self, engine: Engine) -> None:
        now = self._now()
        self.samples.append((now[0] - self.begun[0], now[1] - self.begun[1]))

    def mean(self) -> list[tuple[float, float]]:
        """One sample: the mean iteration since the last call."""
        samples, self.samples = self.samples, []
        return [(sum(s[0] for s in samples) / len(samples), sum(s[1] for s in samples) / len(samples))]


def trainer_job(name: str, device: str, batch: dict[str, torch.Tensor], handlers: list[Any], iterations: int) -> Job:
    """A job that trains for one epoch of ``iterations`` batches, from where it was before."""
    clock, trained = _IterationClock(), network(device)
    engine = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        train_data_loader=[batch] * iterations,
        network=trained,
        optimizer=torch.optim.AdamW(trained.parameters(), lr=1e-3),
        loss_function=loss_function(),
        train_handlers=[*handlers, clock],
        optim_set_to_none=True,
    )

    def run() -> list[tuple[float, float]]:
        engine.run()
        return clock.mean()

    return Job(name, run)


def training_rows(device: str, size: int) -> tuple[list[Job], list[TrainingRow]]:
    """All jobs, to be run in interleaved rounds, and the rows of the table.

    Args:
        device: where to train.
        size: voxels along each axis of a patch, a multiple of 16.
    """
    if size % 16 or size < 32:
        raise ValueError(f"the size of the training patch must be a multiple of 16 and at least 32, got {size}.")
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, 1, size, size, size)
    image = torch.rand(shape, generator=generator).to(device)
    label = torch.randint(0, CLASSES, shape, generator=generator).to(device)
    batch = {"image": image, "label": label}
    frozen = network(device).eval().requires_grad_(False)
    trained, criterion = network(device), loss_function()
    precision = Precision("auto", image)

    def training_pass() -> None:
        criterion(trained(image), label).backward()
        for weight in trained.parameters():
            weight.grad = None

    def forward() -> None:
        with torch.no_grad(), precision.autocast():
            frozen(image)

    def job(name: str, work: Callable[[], Any]) -> Job:
        def run() -> list[tuple[float, float]]:
            samples = timed(work, repeats=ITERATIONS)()
            return [(sum(s[0] for s in samples) / ITERATIONS, sum(s[1] for s in samples) / ITERATIONS)]

        return Job(name, run)

    floor = job("floor", lambda: input_gradient(frozen, image, label, precision))
    train = job("training pass", training_pass)
    look = job("forward", forward)
    clean = trainer_job("clean iteration", device, batch, [], ITERATIONS)

    def row(
        name: str, handler: Any, *parts: tuple[int, Job], target: float | None = None, batches: int = ITERATIONS
    ) -> TrainingRow:
        return TrainingRow(trainer_job(name, device, batch, [handler], batches), parts, target)

    attack = PGD(EPSILON, steps=STEPS)
    diverging = PGD(EPSILON, steps=STEPS, objective="cross_entropy")
    rows = [
        row(f"PGD-AT, {STEPS} steps", AdversarialTraining(attack), (1, clean), (STEPS, floor), target=1.1),
        row(
            f"half clean, half PGD-{STEPS}",
            AdversarialTraining(attack, adversarial_weight=0.5),
            (1, clean),
            (1, train),
            (STEPS, floor),
        ),
        row(
            f"TRADES, {STEPS} steps",
            AdversarialLossTerm(diverging, TRADESLoss(), reference="probabilities"),
            (1, clean),
            (1, train),
            (1, look),
            (STEPS, floor),
        ),
        row("Fast", FastAdversarialTraining(EPSILON, check_interval=0), (1, clean), target=2.2),
        # Its loader gives each batch several times, so fewer batches make as many iterations.
        row("Free, per optimizer step", FreeAdversarialTraining(EPSILON, replays=4), (1, clean), target=2.2, batches=1),
        row("input gradient, finite difference", InputGradientRegularization(1.0), (1, clean)),
        row("input gradient, exact", InputGradientRegularization(1.0, "exact"), (1, clean)),
    ]
    return [clean, train, floor, look, *(one.job for one in rows)], rows


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per handler, divided by the sum of its parts; the parts' own times below."""
    jobs, rows = training_rows(settings.device, settings.training_size)
    run_rounds(jobs, settings.rounds, say)
    size = settings.training_size
    parts = [f"{job.name} {job.wall():.3f} s" for job in jobs[: -len(rows)]]
    table = Table(
        "training",
        f"A training iteration of MONAI's SupervisedTrainer with the CT bundle's U-Net, AdamW, {BATCH} patches of "
        f"{size}^3 voxels; ratios within a round, medians of {settings.rounds} interleaved rounds.",
        (
            *(Column("training iteration"), Column("divided by"), Column("CPU ratio", 2), Column("its quartiles")),
            *(Column("ratio of wall time", 2), Column("seconds", 3), Column("target")),
        ),
        notes=[f"The parts: {', '.join(parts)}."],
    )
    for row in rows:
        spread = quartiles(row.ratios(1))
        verdict = judged(row.cpu(), row.target)
        table.add(row.job.name, row.denominator, row.cpu(), spread, row.wall(), row.job.wall(), verdict)
    return [table]
