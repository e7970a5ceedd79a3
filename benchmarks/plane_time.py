# SPDX-License-Identifier: Apache-2.0
"""Time of a step on a 2D network with a DenseNet121 encoder: ours by default and in float32, beside peers."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.networks import DenseNetSegmenter, input_gradient, volume
from benchmarks.peer_time import EPSILON, CallJob, peer_call
from benchmarks.peers import Problem, loaded_attacks
from benchmarks.settings import Settings
from benchmarks.step_time import steps_on
from benchmarks.tables import Table
from benchmarks.timing import Job, run_rounds, timed, timing_table
from monai_adversarial.attacks import PGD

__all__ = ["tables"]

BATCH = 4
PASSES = 6
PEERS = ("torchattacks PGD", "adv_lib PGD", "foolbox PGD")


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per attack, divided by the floor."""
    network = DenseNetSegmenter.frozen().to(settings.device)
    image, label = volume((settings.plane,) * 2, settings.device, batch=BATCH)
    floor = Job("floor", timed(lambda: input_gradient(network, image, label), repeats=2))

    step = steps_on(network, image, label)

    def noise() -> PGD:
        return PGD(EPSILON, steps=PASSES)

    jobs: list[Job] = [
        floor,
        step("ours, PGD default", noise(), 0.55),
        step("ours, PGD in float32", noise(), precision="float32"),
    ]
    if settings.compiled:
        jobs.append(step("ours, compiled", noise(), compile_network=True))
    problem = Problem(network, image, label, EPSILON)
    found, absent = loaded_attacks("constant")
    peers: list[CallJob] = [
        peer_call(peer, one, problem, PASSES, frozen=True) for peer, one in found if one.name in PEERS
    ]
    jobs += peers
    run_rounds(jobs, settings.few_rounds, say)
    table = timing_table(
        "planes",
        f"One attack step on a 2D network (DenseNet121 encoder, 1 x 1 head, interpolated logits) and {BATCH} images of "
        f"{settings.plane}^2 pixels, weights frozen, divided by the floor; medians of {settings.few_rounds} "
        "interleaved rounds.",
        jobs,
    )
    table.notes = [f"Not run: {line}" for line in absent]
    return [table]
