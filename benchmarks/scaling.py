# SPDX-License-Identifier: Apache-2.0
"""How the time of a default step of ours grows: with the batch, the volume, the windows, the classes, the processes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.fresh_process import Fresh
from benchmarks.networks import input_gradient, unet, volume
from benchmarks.settings import Settings
from benchmarks.step_time import step_job
from benchmarks.tables import Column, Table
from benchmarks.timing import Job, quartiles, run_rounds, timed
from benchmarks.window_memory import grid_side
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["prepare_process", "tables"]

STEPS = 4
CHANNELS = (8, 16, 32, 64)
BATCHES = (1, 2, 4)
PROCESSES = (1, 2)


def _job(
    name: str,
    device: str,
    shape: tuple[int, ...],
    *,
    batch: int = 1,
    classes: int = 3,
    window: int | None = None,
    reference: str = "",
) -> Job:
    model = AttackedModel(
        unet(CHANNELS, classes=classes).to(device),
        None if window is None else SlidingWindowInferer(window, sw_batch_size=1, overlap=0.25),
    )
    image, label = volume(shape, device, classes=classes, batch=batch)
    return step_job(name, PGD(0.02, steps=STEPS), model, image, label, reference=reference)


def _floor(name: str, device: str, shape: tuple[int, ...], classes: int) -> Job:
    """One forward and one backward pass to the input of the same network, float32."""
    network, (image, label) = unet(CHANNELS, classes=classes).to(device), volume(shape, device, classes=classes)
    return Job(name, timed(lambda: input_gradient(network, image, label)))


def _class_count(title: str, rows: list[tuple[str, Job, Job]]) -> Table:
    """Steps at several numbers of classes beside the floors of the same networks, whose last layer is classes wide."""
    table = Table(
        "class_count",
        title,
        (
            *(Column("classes"), Column("CPU seconds of a step", 3), Column("quartiles"), Column("seconds", 3)),
            *(Column("CPU seconds of the floor", 3), Column("step / floor", 2)),
        ),
    )
    for shown, job, floor in rows:
        spread = quartiles([sample[1] for sample in job.samples], digits=3)
        table.add(shown, job.cpu(), spread, job.wall(), floor.cpu(), job.cpu() / floor.cpu())
    return table


def prepare_process(size: int, calls: int) -> Callable[[], None]:
    """Calls of PGD on a volume, after one."""
    model = AttackedModel(unet(CHANNELS))
    image, label = volume((size,) * 3, "cpu")
    attack = PGD(0.02, steps=STEPS)

    def work() -> None:
        for _ in range(calls):
            attack(model, image, label)

    attack(model, image, label)
    return work


def _growth(name: str, title: str, unit: str, jobs: list[tuple[str, float, Job]]) -> Table:
    """Jobs with how many units each holds: seconds of a step, of a unit, and of a unit against the first row's."""
    table = Table(
        name,
        title,
        (
            *(Column(unit), Column("CPU seconds of a step", 3), Column("quartiles"), Column("seconds", 3)),
            Column("CPU time per unit / first row's", 2),
        ),
    )
    _, first_units, first = jobs[0]
    for shown, units, job in jobs:
        spread = quartiles([sample[1] for sample in job.samples], digits=3)
        table.add(shown, job.cpu(), spread, job.wall(), job.cpu() / units * first_units / first.cpu())
    return table


def _processes(settings: Settings, size: int, say: Callable[[str], None]) -> Table:
    table = Table(
        "processes",
        f"Attacks of PGD-{STEPS} on {size}^3 voxels in several processes at once, which share the {settings.threads} "
        "threads.",
        (Column("processes"), Column("attacks per second, together", 2), Column("/ first row's", 2)),
    )
    calls, first = 4, None
    for count in PROCESSES:
        say(f"{count} process(es)")
        threads = max(1, settings.threads // count)
        workers = [
            Fresh("benchmarks.scaling", "prepare_process", threads, size=size, calls=calls) for _ in range(count)
        ]
        for worker in workers:
            worker.start()
        rate = count * calls / max(worker.result()["seconds"] for worker in workers)
        first = first or rate
        table.add(str(count), rate, rate / first)
    return table


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One table per thing that grows."""
    device, window = settings.device, settings.volume // 4
    side = max(16, settings.size * 2 // 3 // 16 * 16)  # what the U-Net can halve four times
    sides = [side // 2, side, side * 3 // 2]
    sides = [max(16, one // 16 * 16) for one in sides]
    grids = [tuple(grid_side(count, window) for count in grid) for grid in settings.windows]
    batches = [(str(b), float(b), _job(f"batch {b}", device, (side,) * 3, batch=b)) for b in BATCHES]
    volumes = [(f"{one}^3", one**3 / 1e6, _job(f"volume {one}", device, (one,) * 3)) for one in sides]
    windows = [
        (str(prod(grid)), float(prod(grid)), _job(f"windows {prod(grid)}", device, shape, window=window))
        for grid, shape in zip(settings.windows, grids, strict=True)
    ]
    classes = [
        (
            str(k),
            _job(f"classes {k}", device, (side,) * 3, classes=k),
            _floor(f"floor of {k} classes", device, (side,) * 3, k),
        )
        for k in settings.classes
    ]
    jobs = [job for group in (batches, volumes, windows) for _, _, job in group]
    jobs += [job for _, *both in classes for job in both]
    run_rounds(jobs, settings.few_rounds, say)
    how = (
        f"U-Net {'-'.join(map(str, CHANNELS))}, default precision, medians of {settings.few_rounds} interleaved rounds"
    )
    made = [
        _growth("batch", f"A default PGD step and the batch: {side}^3 voxels each, {how}.", "batch", batches),
        _growth("volume_size", f"A default PGD step and the volume: {how}.", "voxels", volumes),
        _growth(
            "window_count",
            f"A default PGD step and the windows: {window}^3 voxels each, overlap 0.25, {how}.",
            "windows",
            windows,
        ),
        _class_count(
            f"A default PGD step and the classes; floor: the same network, float32. {side}^3 voxels, {how}.",
            classes,
        ),
    ]
    if torch.cuda.is_available():
        return made
    return [*made, _processes(settings, side, say)]
