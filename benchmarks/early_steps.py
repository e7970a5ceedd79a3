# SPDX-License-Identifier: Apache-2.0
"""Whether cheaper early steps pay: half the resolution, or less overlap of windows, in the first steps of PGD.

    python -m benchmarks.early_steps --cases 2

A cheaper step counts only where the Dice at equal CPU seconds is lower than that of fewer full steps. The way to a
gradient is changed here and nowhere in the package; what was found stands in ``benchmarks/NOTES.md``.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional

from benchmarks.strength import WINDOW, bundle_network, phantom_cases
from benchmarks.tables import Column, Table
from monai_adversarial.attacks import PGD
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.window_objective import WindowObjective
from monai_adversarial.inferers.memory_bounded import MemoryBoundedSlidingWindowInferer
from monai_adversarial.models import AttackedModel

__all__ = ["HalfResolution", "LessOverlap", "main"]

HU, SEED = 8.0, 2000


class HalfResolution(nn.Module):
    """A network that sees about half the resolution as long as ``coarse`` is set; logits are interpolated back.

    Voxels are averaged to the next size that the network can halve four times.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.coarse = network, False

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to logits on the same grid."""
        if not self.coarse:
            return self.network(image)
        size = [-(-voxels // 32) * 16 for voxels in image.shape[2:]]
        logits = self.network(functional.interpolate(image, size, mode="area"))
        return functional.interpolate(logits, image.shape[2:], mode="trilinear", align_corners=False)

    def early(self, value: bool) -> None:
        """Whether an early step begins."""
        self.coarse = value


class LessOverlap(MemoryBoundedSlidingWindowInferer):
    """Windows side by side, without an overlap, as long as ``coarse`` is set."""

    coarse = False
    of_steps: Any = None

    def plan(self, *args: Any, **kwargs: Any) -> Any:
        """The windows of a call."""
        if not self.coarse:
            return super().plan(*args, **kwargs)
        apart = copy.copy(self)
        apart.coarse, apart.overlap = False, 0.0
        return apart.plan(*args, **kwargs)

    def early(self, value: bool) -> None:
        """Whether an early step begins."""
        self.coarse = value


def with_early_steps(attack: Attack, switch: Any, count: int) -> Attack:
    """The attack, whose first ``count`` gradients are made with ``switch.early(True)``."""
    kind: Any = type(attack.gradient)

    class Early(kind):
        done = 0

        def evaluate(self, function: Any, parameters: Any, scale: float = 1.0) -> Any:
            early = self.done < count
            switch.early(early)
            self.done += 1
            try:
                found = super().evaluate(function, parameters, scale)
            finally:
                switch.early(False)
            # What another network or another blending thinks of a point must not make it the best one.
            return replace(found, ranks=torch.full_like(found.ranks, -torch.inf)) if early else found

    attack.gradient = copy.copy(attack.gradient)
    attack.gradient.__class__ = Early
    return attack


class _LayoutOfEach:
    """Windows of another overlap are another layout: each is found once."""

    def __init__(self, switch: LessOverlap) -> None:
        self.switch, self.call = switch, WindowObjective.__call__

    def __enter__(self) -> None:
        switch, call = self.switch, self.call

        def with_own_layout(objective: Any, *args: Any) -> Any:
            known = objective.__dict__.setdefault("_layouts", {})
            objective._layout = known.get(switch.coarse)
            try:
                return call(objective, *args)
            finally:
                known[switch.coarse] = objective._layout
                objective._layout = known.get(False)

        WindowObjective.__call__ = with_own_layout  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        WindowObjective.__call__ = self.call  # type: ignore[method-assign]


def measure(variant: str, steps: int, early: int, cases: list[Any]) -> tuple[float, float]:
    """Mean Dice after attack, and CPU seconds of all calls, scores included."""
    network = bundle_network("cpu")
    inferer: Any = None
    switch: Any = HalfResolution(network)
    if variant == "half resolution":
        network = switch
    else:
        plain = SlidingWindowInferer(48, 1, 0.5, mode="gaussian")
        inferer = switch = LessOverlap.__new__(LessOverlap)
        switch.__dict__.update(vars(plain), keep_windows_megabytes=None)
    scores, begin = [], time.process_time()
    model = AttackedModel(network, inferer, intensity=WINDOW)
    for image, label in cases:
        attack = with_early_steps(PGD(HU, "HU", steps=steps), switch, early)
        if inferer is None:
            result = attack(model, image, label)
        else:
            with _LayoutOfEach(switch):
                result = attack(model, image, label)
        scores.append(float(result.adversarial_dice.mean()))
    return sum(scores) / len(scores), time.process_time() - begin


def main() -> None:
    """Print a row for each number of steps and of early ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=["half resolution", "less overlap"])
    parser.add_argument(
        "--rows", nargs="+", default=["4,0", "5,0", "5,2", "7,0", "7,4", "10,0", "10,7"], metavar="STEPS,EARLY"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = list(phantom_cases(arguments.cases, "cpu", SEED))
    for variant in arguments.variants:
        table = Table(
            "early_steps",
            f"{variant.capitalize()} in the first steps, {arguments.cases} phantom(s), {HU:g} HU, default PGD.",
            (Column("steps"), Column("early ones"), Column("Dice", 3), Column("CPU seconds", 1)),
        )
        measure(variant, 1, 0, cases[:1])  # what is loaded and made once
        for steps, early in (map(int, row.split(",")) for row in arguments.rows):
            table.add(str(steps), str(early), *measure(variant, steps, early, cases))
            print(steps, early, *table.rows[-1][2:], flush=True)
        print(table.markdown(), flush=True)


if __name__ == "__main__":
    main()
