# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory of an attack on a network without windows whose layers are computed again, beside its inference.

The network is a chain of dilated convolutions that keeps the image's size, as MeshNet does: what autograd would save of
it is several times what its inference needs.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from benchmarks.fresh_process import Fresh
from benchmarks.networks import dilated_chain, volume
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged, times
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["prepare", "tables"]

SMALL = 32
LAYERS, CHANNELS = 25, 8
# A call of ours / MONAI's inference.
TARGET = 3.0


def prepare(method: str, size: int) -> Callable[[], object]:
    """Inference in float32 or a call of PGD-2 on a volume, after the same on a small one.

    Raises:
        ValueError: for another method.
    """
    if method not in ("inference", "ours"):
        raise ValueError(f"method must be 'inference' or 'ours', got {method!r}.")
    network = dilated_chain(LAYERS, CHANNELS)

    def work(side: int) -> Callable[[], object]:
        image, label = volume((side,) * 3, "cpu")

        def inference() -> object:
            with torch.no_grad():
                return network(image)

        model = AttackedModel(network, checkpoint_layers=True)
        return inference if method == "inference" else lambda: PGD(0.02, steps=2)(model, image, label)

    work(SMALL)()
    return work(size)


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row for inference, one for ours."""
    size = settings.layered
    megabytes = size**3 * 4 / 2**20
    table = Table(
        "layers",
        f"Peak resident memory that a call of PGD-2 adds on a chain of {LAYERS} dilated convolutions of {CHANNELS} "
        f"channels and {size}^3 voxels, whose layers are computed again, in V = one float32 volume ({megabytes:.1f} "
        f"MB); default precision, inference in float32, each from a fresh process, medians of {settings.few_rounds}.",
        (
            Column("what"),
            Column("V", 1),
            Column("lowest to highest"),
            Column("/ inference", 2),
            Column("CPU seconds", 1),
            Column("target"),
        ),
    )
    least = None
    for method in ("inference", "ours"):
        found, seconds = [], []
        for _ in range(settings.few_rounds):
            say(f"memory of {method}, {size}^3 voxels")
            fresh = Fresh("benchmarks.layer_memory", "prepare", settings.threads, method=method, size=size)
            fresh.start()
            result = fresh.result()
            found.append(result["megabytes"] / megabytes)
            seconds.append(result["cpu"])
        least = median(found) if least is None else least
        ratio = times(median(found), least)
        spread = f"{min(found):.1f} to {max(found):.1f}"
        judgement = judged(ratio, TARGET if method == "ours" else None)
        table.add(method, median(found), spread, ratio, median(seconds), judgement)
    return [table]
