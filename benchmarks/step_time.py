# SPDX-License-Identifier: Apache-2.0
"""Time of one attack step on a 3D U-Net and a 96 x 96 x 96 volume, against the floor.

The floor is one forward and one backward pass to the input only, frozen weights, float32, torch's own memory handling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from benchmarks.networks import input_gradient, unet, volume
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table
from benchmarks.timing import Job, StepClock, run_rounds, timed, timing_table
from monai_adversarial.attacks import PGD, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.allocator import keep_freed_memory

__all__ = ["SPACING", "step_job", "step_jobs", "steps_on", "tables"]

SPACING = (1.5, 1.5, 1.5)
STEPS = 6
EPSILON = 0.02
CALL_STEPS = 10
# The clean image and the finished one, as they are scored.
CALL_SCORES = 2
CALL_TARGET = 0.27
FLOOR, STEP, SCORE = "floor", "PGD step, default (auto)", "scoring pass: one forward, float32, no gradient"
CALL = f"whole call of PGD-{CALL_STEPS}, default, / {CALL_STEPS}"


def step_job(
    name: str,
    attack: Attack,
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor,
    target: float | None = None,
    reference: str = "floor",
) -> Job:
    """A job that runs an attack and returns the time of each of its steps.

    Args:
        name: of the row.
        attack: is changed, its evaluations are noted.
        model, image, label: what is attacked.
        target, reference: see ``Job``.
    """
    clock = StepClock()
    clock.attach(attack)
    spacing = SPACING[: image.ndim - 2]

    def run() -> list[tuple[float, float]]:
        attack(model, image, label, spacing=spacing)
        return clock.steps()

    return Job(name, run, target, reference)


def steps_on(
    network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor, reference: str = "floor"
) -> Callable[..., Job]:
    """A function ``(name, attack, target=None, **model)`` that makes the job of a row: steps of an attack on
    ``AttackedModel(network, **model)``.

    Args:
        network, image, label: what is attacked.
        reference: see ``Job``.
    """

    def job(name: str, attack: Attack, target: float | None = None, **model: Any) -> Job:
        return step_job(name, attack, AttackedModel(network, **model), image, label, target, reference)

    return job


def step_jobs(settings: Settings) -> list[Job]:
    """Rows: floor, trainable weights, and the steps of the attacks in their precision modes."""
    device = settings.device
    network, trainable = unet().to(device), unet().to(device).requires_grad_(True)
    image, label = volume((settings.size,) * 3, device)

    def with_weight_gradients() -> None:
        leaf = image.clone().requires_grad_(True)
        functional.cross_entropy(trainable(leaf), label[:, 0]).backward()
        for weight in trainable.parameters():
            weight.grad = None

    step, automatic = steps_on(network, image, label), AttackedModel(network)
    ten = PGD(EPSILON, steps=CALL_STEPS)

    def noise() -> Attack:
        return PGD(EPSILON, steps=STEPS)

    def bias() -> Attack:
        return BiasFieldAttack(max_gain=0.3, domain="image", steps=STEPS, objective="dice_ce")

    def elastic() -> Attack:
        return ElasticAttack(steps=STEPS)

    def tenth() -> list[tuple[float, float]]:
        return [(wall / CALL_STEPS, cpu / CALL_STEPS) for wall, cpu in timed(lambda: ten(automatic, image, label))()]

    def score() -> None:
        with torch.no_grad():
            network(image)

    def scores() -> list[tuple[float, float]]:
        with keep_freed_memory(device):  # as inside a call
            score()
            return timed(score, repeats=2)()

    jobs = [
        Job(FLOOR, timed(lambda: input_gradient(network, image, label), repeats=2)),
        Job("trainable weights and backward(), as most libraries do", timed(with_weight_gradients)),
        step("PGD step, float32", noise(), 1.05, precision="float32"),
        step(STEP, noise(), 0.45),
        step("bias-field step, float32", bias(), 1.1, precision="float32"),
        step("bias-field step, default", bias()),
        step("diffeomorphic elastic step, float32", elastic(), 1.5, precision="float32"),
        step("diffeomorphic elastic step, default", elastic()),
        Job(SCORE, scores),
        Job(CALL, tenth, CALL_TARGET),
    ]
    if settings.compiled:
        jobs.insert(4, step("PGD step, best (auto, compiled)", noise(), 0.3, compile_network=True))
    return jobs


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """The time of a step."""
    jobs = step_jobs(settings)
    run_rounds(jobs, settings.rounds, say)
    title = (
        f"One attack step on a 3D U-Net (16-32-64-128-256, 2 residual units, 3 classes) and {settings.size}^3 voxels, "
        f"divided by the floor; medians of {settings.rounds} interleaved rounds."
    )
    return [timing_table("steps", title, jobs), _call_parts({job.name: job.cpu() for job in jobs})]


def _call_parts(seconds: Mapping[str, float]) -> Table:
    """What a call is made of, in the figures of the same run; what is left over is the call less its passes."""
    floor, call = seconds[FLOOR], CALL_STEPS * seconds[CALL]
    passes = {
        f"{CALL_STEPS} steps (1 forward + 1 backward each)": CALL_STEPS * seconds[STEP],
        f"{CALL_SCORES} scoring passes (1 forward each, float32)": CALL_SCORES * seconds[SCORE],
    }
    parts = {
        **passes,
        "everything else": call - sum(passes.values()),
        "whole call": call,
        f"target of {CALL_TARGET:g}": CALL_TARGET * CALL_STEPS * floor,
    }
    table = Table(
        "call_parts",
        f"What a default call of PGD-{CALL_STEPS} is made of, from the same run; the unit is {CALL_STEPS} times the "
        "floor.",
        (Column("part"), Column("CPU seconds", 2), Column(f"/ ({CALL_STEPS} x floor)", 3)),
    )
    for name, value in parts.items():
        table.add(name, value, value / (CALL_STEPS * floor))
    return table
