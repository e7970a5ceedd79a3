# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory in V, the size of one float32 volume, at few and at many classes, each in a process of its own.

The network is a single 1 x 1 x 1 convolution behind a sliding window, so that the volumes are nearly all there is.
Where the freed blocks lie differs from process to process, and with it what a call adds: ours is the median of several.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.fresh_process import extra_megabytes
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged, times
from benchmarks.window_memory import METHODS

__all__ = ["tables"]

# Classes -> volumes that a call of ours may add.
TARGETS = {3: 12.0, 14: 16.0, 105: 60.0}


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per number of classes, one column per method."""
    size, window = settings.volume, settings.volume // 2
    megabytes = size**3 * 4 / 2**20
    table = Table(
        "volumes",
        f"Peak resident memory that a call of PGD-2 adds, in V = one float32 volume of {size}^3 voxels ({megabytes:.1f}"
        f" MB); a 1 x 1 x 1 network behind windows of {window}^3 voxels, overlap 0.25, float32, CPU, each from a fresh "
        f"process, ours the median of {settings.rounds}.",
        (
            Column("classes"),
            *(Column(f"{method}, V", 1) for method in METHODS),
            Column("ours, lowest to highest"),
            Column("ours / inference", 2),
            Column("target for ours"),
        ),
    )
    for classes in settings.classes:
        volumes = {}
        for method in METHODS:
            say(f"volumes of {method} at {classes} classes")
            volumes[method] = [
                extra_megabytes(
                    *("benchmarks.window_memory", "prepare", settings.threads),
                    **{"method": method, "network": "pointwise", "classes": classes},
                    shape=[size] * 3,
                    size=window,
                )
                / megabytes
                for _ in range(settings.rounds if method == "ours" else 1)
            ]
        ours = volumes["ours"]
        table.add(
            str(classes),
            *map(median, volumes.values()),
            f"{min(ours):.1f} to {max(ours):.1f}",
            times(median(ours), volumes["inference"][0]),
            judged(median(ours), TARGETS.get(classes)),
        )
    return [table]
