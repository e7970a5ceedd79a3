# SPDX-License-Identifier: Apache-2.0
"""On CUDA: time of a step, peak memory and host synchronizations in fp32, tf32, bf16, and compiled. Nothing without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.networks import input_gradient, unet, volume
from benchmarks.settings import Settings
from benchmarks.step_time import step_job
from benchmarks.tables import Column, Table
from benchmarks.timing import Job, quartiles, run_rounds, timed
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["synchronizations", "tables"]

STEPS = 6


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def synchronizations(work: Callable[[], object]) -> int:
    """How often the host waited for the GPU during the work, as torch warns of it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per mode; no table without CUDA."""
    if not settings.device.startswith("cuda"):
        say("gpu: no CUDA device, nothing is measured")
        return []
    device = settings.device
    network = unet().to(device)
    image, label = volume((settings.size,) * 3, device)

    def model(precision: str, compiled: bool = False) -> AttackedModel:
        return AttackedModel(network, precision=precision, compile_network=compiled)

    modes = [("fp32", model("float32"), False), ("tf32", model("float32"), True), ("bf16", model("bfloat16"), True)]
    if settings.compiled:
        modes.append(("bf16, compiled", model("bfloat16", compiled=True), True))

    def with_tf32(job: Job, allowed: bool) -> Job:
        inner = job.run

        def run() -> list[tuple[float, float]]:
            with _tf32(allowed):
                return inner()

        job.run = run
        return job

    floor = with_tf32(Job("floor", timed(lambda: input_gradient(network, image, label), repeats=2)), False)
    jobs = [
        with_tf32(step_job(name, PGD(0.02, steps=STEPS), attacked, image, label), allowed)
        for name, attacked, allowed in modes
    ]
    run_rounds([floor, *jobs], settings.rounds, say)
    table = Table(
        "gpu",
        f"One attack step on {torch.cuda.get_device_name(device)}, 3D U-Net and {settings.size}^3 voxels, divided by "
        f"the floor (fp32, {floor.wall():.4f} s); medians of {settings.rounds} interleaved rounds.",
        (
            *(Column("mode"), Column("seconds", 4), Column("ratio", 2), Column("its quartiles"), Column("peak GiB", 2)),
            Column("host synchronizations more at twice the steps", 0),
        ),
    )
    for job, (name, attacked, allowed) in zip(jobs, modes, strict=True):
        spread = quartiles([wall / floor.wall() for wall, _ in job.samples])
        with _tf32(allowed):
            torch.cuda.reset_peak_memory_stats()
            PGD(0.02, steps=STEPS)(attacked, image, label)
            peak = torch.cuda.max_memory_allocated() / 2**30
            # Before and after the loop the host may wait; what grows with the steps is inside the loop.
            once, twice = (
                synchronizations(lambda steps=steps, attacked=attacked: PGD(0.02, steps=steps)(attacked, image, label))
                for steps in (STEPS, 2 * STEPS)
            )
        table.add(name, job.wall(), job.wall() / floor.wall(), spread, peak, twice - once)
    return [table]
