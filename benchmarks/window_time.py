# SPDX-License-Identifier: Apache-2.0
"""Time of a whole-volume step through eight windows, against what the windows alone cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.networks import PlainInferer, input_gradient, unet, volume
from benchmarks.settings import Settings
from benchmarks.step_time import steps_on
from benchmarks.tables import Table
from benchmarks.timing import Job, run_rounds, timed, timing_table
from monai_adversarial.attacks import PGD
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.precision import Precision

__all__ = ["tables", "window_jobs"]

WINDOWS = 8
ONE_FORWARD, TWO_FORWARDS = "1 forward + 1 backward per window", "2 forwards + 1 backward per window"


def window_jobs(settings: Settings) -> list[Job]:
    """Rows: the passes of the windows by hand, and whole-volume steps of ours in float32 and by default."""
    device, window = settings.device, settings.size
    network = unet((8, 16, 32, 64)).to(device)
    image, label = volume((window + window * 3 // 4,) * 3, device)
    patch, patch_label = volume((window,) * 3, device, seed=1)
    precision = Precision("float32", image)

    def by_hand(forwards_only: int) -> Callable[[], None]:
        def run() -> None:
            # Under the same memory handling, so that the ratio is what the method itself adds.
            with keep_freed_memory(device):
                for _ in range(WINDOWS):
                    for _ in range(forwards_only):
                        with torch.no_grad(), precision.autocast():
                            network(patch)
                    input_gradient(network, patch, patch_label, precision)

        return run

    step = steps_on(network, image, label, ONE_FORWARD)

    def noise() -> PGD:
        return PGD(0.02, steps=4)

    ours = SlidingWindowInferer(window, sw_batch_size=1, overlap=0.25)
    return [
        Job(ONE_FORWARD, timed(by_hand(0)), reference=ONE_FORWARD),
        Job(TWO_FORWARDS, timed(by_hand(1)), reference=ONE_FORWARD),
        step("whole-volume step, 8 windows, float32", noise(), 1.05, inferer=ours, precision="float32"),
        step("whole-volume step, 8 windows, default (auto)", noise(), inferer=ours),
        step("float32, autograd through MONAI's inferer", noise(), inferer=PlainInferer(ours), precision="float32"),
    ]


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """The time of a whole-volume step."""
    jobs = window_jobs(settings)
    run_rounds(jobs, settings.few_rounds, say)
    title = (
        f"One whole-volume step through {WINDOWS} windows of {settings.size}^3 voxels (U-Net 8-16-32-64, overlap "
        f"0.25); medians of {settings.few_rounds} interleaved rounds. The references run in float32, frozen, to the "
        "input only."
    )
    return [timing_table("windows", title, jobs)]
