# SPDX-License-Identifier: Apache-2.0
"""Certificates of the CT bundle's two networks on phantoms: what is certain, and what it costs.

    python -m benchmarks.certificate_phantoms    # about 5 CPU minutes on a core of its own; keeps rows that are there

Noise of 20 HU on the windowed image. One network was trained with attacks, none with this noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.doc_tables import measure_missing
from benchmarks.strength import WINDOW, bundle_network, phantom_cases
from monai_adversarial.data import CLASS_NAMES
from monai_adversarial.inferers import CertifiedSegmentationInferer
from monai_adversarial.metrics import (
    ClassHierarchy,
    certified_dice,
    certified_information,
    certified_recall,
)
from monai_adversarial.metrics.dice import mean_of_defined

__all__ = ["PhantomRow", "VARIANTS", "markdown_table", "measure"]

NAME = "certificate_phantoms.csv"
SPACING = (3.2, 3.2, 4.0)
SIGMA = 20.0
COPIES = 80
NETWORKS = {"not hardened": "model.pt", "hardened": "hardened.pt"}
ONCE, LOOKS = "once, at the end", "three looks, organs first, hierarchy"
#: network, variant and number of phantoms of each row, which are the same ones
CELLS = (("not hardened", ONCE, 4), ("hardened", ONCE, 4), ("hardened", LOOKS, 4))
HIERARCHY = ClassHierarchy(
    CLASS_NAMES,
    [
        {"kidney": ["left kidney", "right kidney"]},
        {"abdominal organ": ["liver", "spleen", "kidney", "pancreas"]},
        {"structure": ["abdominal organ", "aorta", "spine"]},
    ],
)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    ONCE: {},
    LOOKS: {
        "looks": (70, 75, 80),
        "focus": "organs",
        "focus_margin": 1,
        "focus_share": 0.9,
        "hierarchy": HIERARCHY,
    },
}


class InHalfPrecision(torch.nn.Module):
    """A network under bfloat16 autocast, with float32 logits."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the network."""
        with torch.autocast(image.device.type, torch.bfloat16):
            return self.network(image).float()


@dataclass(frozen=True)
class PhantomRow:
    """A network and a variant, means over phantoms and organs.

    Args:
        network: key of ``NETWORKS``.
        variant: key of ``VARIANTS``.
        phantoms: how many.
        radius: certified L2 distance in HU.
        voted_dice: Dice of the classes that the first votes pick.
        lower_dice: certified lower bound of the Dice.
        recall: certified recall.
        liver_ml: certified milliliters of the liver.
        liver_reference_ml: its volume.
        missed: upper bound of the share of organs of which less than a tenth is found.
        gain: certified information gain over the voxels of organs; NaN without a hierarchy.
        copies: mean number of predictions of a volume.
        windows: mean number of windows of a volume, 0 where they are not counted.
        skipped: of which so many were left out.
        seconds: CPU seconds of a volume.
    """

    network: str
    variant: str
    phantoms: int
    radius: float
    voted_dice: float
    lower_dice: float
    recall: float
    liver_ml: float
    liver_reference_ml: float
    missed: float
    gain: float
    copies: float
    windows: float
    skipped: float
    seconds: float


def measure(network: str, variant: str, count: int) -> PhantomRow:
    """Certify some phantoms.

    Args:
        network: key of ``NETWORKS``.
        variant: key of ``VARIANTS``.
        count: phantoms.
    """
    module = InHalfPrecision(bundle_network("cpu", NETWORKS[network]))
    inferer = CertifiedSegmentationInferer(
        SlidingWindowInferer((64, 64, 64), 4, 0.25, mode="gaussian"),
        sigma=SIGMA,
        units="HU",
        intensity=WINDOW,
        n0=10,
        n=COPIES,
        tau=0.75,
        exclude_below=0.1,
        outside_class=0,
        **VARIANTS[variant],
    )
    columns: dict[str, list[float]] = {}

    def add(**values: float) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for image, label in phantom_cases(count, "cpu"):
        begin = time.process_time()
        found = inferer.certify(image, module)
        add(seconds=time.process_time() - begin, copies=found.cost.copies[0])
        add(windows=found.cost.windows or 0, skipped=found.cost.windows_skipped or 0)
        (dice,), (voted,) = (certified_dice(p, label, CLASS_NAMES) for p in (found, found.selected))
        (recall,) = certified_recall(found, label, CLASS_NAMES, SPACING)
        add(lower_dice=mean_of_defined([organ["lower_bound"] for organ in dice.values()]))
        add(voted_dice=mean_of_defined([organ["lower_bound"] for organ in voted.values()]))
        add(recall=mean_of_defined([organ["recall"] for organ in recall.values()]))
        add(liver_ml=recall["liver"]["found_ml"], liver_reference_ml=recall["liver"]["reference_ml"])
        lesions, kept = (sum(organ[key] for organ in recall.values()) for key in ("lesions", "lesions_found"))
        add(missed=1 - kept / lesions)
        if found.hierarchy is not None:
            gains = certified_information(found, label)[0]
            add(gain=mean_of_defined([gains[name]["information_gain"] for name in CLASS_NAMES[1:]]))
    means = {"gain": float("nan")} | {name: sum(values) / len(values) for name, values in columns.items()}
    return PhantomRow(network, variant, count, inferer.radius, **means)


def markdown_table(rows: list[PhantomRow]) -> str:
    """The rows as a table."""
    lines = [
        "| network | votes | phantoms | voted Dice | certified Dice, at least | certified recall | liver, at least | "
        "organs missed, at most | gain | predictions | windows skipped | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        windows = f"{row.skipped / (row.windows + row.skipped):.0%}" if row.windows else "not counted"
        lines.append(
            f"| {row.network} | {row.variant} | {row.phantoms} | {row.voted_dice:.3f} | {row.lower_dice:.3f} | "
            f"{row.recall:.3f} | {row.liver_ml:.0f} of {row.liver_reference_ml:.0f} ml | {row.missed:.0%} | "
            f"{'' if row.gain != row.gain else f'{row.gain:.3f}'} | {row.copies:.0f} | {windows} | {row.seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is not there, write the rows and the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.certificate_phantoms", description=__doc__).parse_args()
    key = lambda row: (row.network, row.variant, row.phantoms)  # noqa: E731
    measure_missing(NAME, "certificates.md", PhantomRow, CELLS, key, measure, markdown_table)


if __name__ == "__main__":
    main()
