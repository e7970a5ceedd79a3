# SPDX-License-Identifier: Apache-2.0
"""Loss landscape and attention of the CT bundle's two networks around phantoms under PGD.

    python -m benchmarks.landscape    # about 3 CPU minutes; writes docs/landscape.csv, tables and a picture

The steps of the attack in the precision "auto", reports in float32. The picture is of the hardened network on the first
phantom.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from monai.inferers import SlidingWindowInferer

from benchmarks.doc_tables import DOCS, measure_missing
from benchmarks.strength import WINDOW, bundle_network, phantom_cases
from monai_adversarial.attacks import PGD, grad_cam, loss_landscape
from monai_adversarial.data import CLASS_NAMES
from monai_adversarial.metrics import AttentionOverlap
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.models import AttackedModel

__all__ = ["CELLS", "LandscapeRow", "main", "markdown_table", "measure"]

NAME = "landscape.csv"
PAGE = "analyses.md"
NETWORKS = {"not hardened": "model.pt", "hardened": "hardened.pt"}
EPSILON, STEPS, POINTS = 8.0, 10, 7
PICTURE = ("hardened", 0)
#: network and phantom of each row
CELLS = (("not hardened", 0), ("not hardened", 1), ("hardened", 0))


@dataclass(frozen=True)
class LandscapeRow:
    """A network and a phantom.

    Args:
        network: key of ``NETWORKS``.
        phantom: its number.
        clean_dice: mean Dice of the organs.
        attacked_dice: the same under PGD.
        center: loss of the clean image.
        rise: of the loss on the attack's way.
        random_rise: the largest along the random direction.
        sharpness: see ``LossLandscape``.
        flags: names, separated by spaces.
        overlap: of the attention to each organ before and under attack, mean over organs.
        in_organ: share of the attention under attack in its organ, mean over organs.
        clean_in_organ: the same before.
    """

    network: str
    phantom: int
    clean_dice: float
    attacked_dice: float
    center: float
    rise: float
    random_rise: float
    sharpness: float
    flags: str
    overlap: float
    in_organ: float
    clean_in_organ: float


def measure(network: str, phantom: int) -> LandscapeRow:
    """Attack one phantom and look around; the first one's picture is written.

    Args:
        network: key of ``NETWORKS``.
        phantom: its number.
    """
    image, label = phantom_cases(phantom + 1, "cpu")[phantom]
    model = AttackedModel(
        bundle_network("cpu", NETWORKS[network]),
        SlidingWindowInferer((64, 64, 64), 4, 0.25, mode="gaussian"),
        intensity=WINDOW,
        image_units="network",
        class_names=CLASS_NAMES,
    )
    result = PGD(EPSILON, "HU", steps=STEPS)(model, image, label)
    around = loss_landscape(result, points=POINTS)
    if (network, phantom) == PICTURE:
        around.save(DOCS / "images" / "landscape.png")
    attention = AttentionOverlap(CLASS_NAMES, attention=grad_cam)
    attention.add(result)
    found = attention.aggregate()

    def mean(number: str) -> float:
        return mean_of_defined([found[f"{organ}_{number}"] for organ in CLASS_NAMES[1:]])

    return LandscapeRow(
        network,
        phantom,
        float(result.clean_dice),
        float(result.adversarial_dice),
        float(around.center),
        float(around.rise),
        float(around.random_rise),
        float(around.sharpness),
        " ".join(flag.name for flag in around.flags),
        mean("overlap"),
        mean("in_organ"),
        mean("clean_in_organ"),
    )


def markdown_table(rows: list[LandscapeRow]) -> str:
    """The rows as a table."""
    lines = [
        "| network | phantom | Dice, clean and attacked | loss of the clean image | rise, attack | rise, random | "
        "sharpness | flags | overlap of attention | attention in the organ, clean and attacked |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.network} | {row.phantom + 1} | {row.clean_dice:.3f}, {row.attacked_dice:.3f} | {row.center:.3f} | "
            f"{row.rise:.3f} | {row.random_rise:.3f} | {row.sharpness:.2f} | {row.flags or 'none'} | "
            f"{row.overlap:.2f} | {row.clean_in_organ:.2f}, {row.in_organ:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is not there, write the rows and the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.landscape", description=__doc__).parse_args()
    measure_missing(NAME, PAGE, LandscapeRow, CELLS, lambda row: (row.network, row.phantom), measure, markdown_table)


if __name__ == "__main__":
    main()
