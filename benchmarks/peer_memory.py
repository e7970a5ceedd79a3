# SPDX-License-Identifier: Apache-2.0
"""Peak memory that a call of each library adds, each measured in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.fresh_process import extra_megabytes
from benchmarks.networks import input_gradient, unet, volume
from benchmarks.peer_time import EPSILON
from benchmarks.peers import Problem, loaded_attacks
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, times
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["prepare", "tables"]

PASSES = 3
SMALL = 32
FLOOR, DEFAULT, FLOAT32 = "floor", "ours, PGD default", "ours, PGD in float32"


def prepare(attack: str, size: int) -> Callable[[], object]:
    """A call on ``size``^3 voxels, after one on fewer voxels: what is loaded or compiled once is not its memory."""
    network = unet().requires_grad_(attack != FLOOR)  # as it is after loading

    def call(side: int) -> object:
        image, label = volume((side,) * 3, "cpu")
        if attack == FLOOR:
            return input_gradient(network, image, label)
        if attack in (DEFAULT, FLOAT32):
            model = AttackedModel(network, precision="auto" if attack == DEFAULT else "float32")
            return PGD(EPSILON, steps=PASSES)(model, image, label).adversarial
        found, absent = loaded_attacks("constant", "adaptive", "minimal")
        by_name = {one.name: one for _, one in found}
        if attack not in by_name:
            raise ValueError(f"attack must be one of {sorted(by_name)}, got {attack!r}; {' '.join(absent)}")
        return by_name[attack](Problem(network, image, label, EPSILON), PASSES)

    call(SMALL)
    return lambda: call(size)


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per attack."""
    found, absent = loaded_attacks("constant", "adaptive", "minimal")
    names = [FLOOR, DEFAULT, FLOAT32, *(one.name for _, one in found)]
    megabytes = {}
    for name in names:
        say(f"memory of {name}")
        megabytes[name] = extra_megabytes(
            "benchmarks.peer_memory", "prepare", settings.threads, attack=name, size=settings.size
        )
    table = Table(
        "peer_memory",
        f"Peak resident memory that a call of {PASSES} forward + backward passes adds on a 3D U-Net and "
        f"{settings.size}^3 voxels, CPU, each from a fresh process.",
        (Column("attack"), Column("extra MB", 0), Column("divided by the floor", 2)),
        notes=[f"Not run: {line}" for line in absent],
    )
    for name in names:
        table.add(name, megabytes[name], times(megabytes[name], megabytes[FLOOR]))
    return [table]
