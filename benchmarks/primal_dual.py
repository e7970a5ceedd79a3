# SPDX-License-Identifier: Apache-2.0
"""Smallest norms of PDPGD beside FMN at equal passes: ``python -m benchmarks.primal_dual``.

Both work on the same cases with the same objective, steps and queries at the end; what counts is the median norm of
what they return, measured on finished images. The cases are crops of CT phantoms, or with ``--network abdominal`` the
whole real scan. Rows are written as they come, and those that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.doc_tables import RecordedTable
from benchmarks.query_cases import phantom_crops
from benchmarks.steps_to_dice import Case, networks
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import FMN, PDPGD
from monai_adversarial.models import AttackedModel

#: nothing was chosen on phantoms from this seed
SEED, CROP = 3000, (32, 32, 16)
BLOCKS = {"l0": 4}
PHANTOM = "CT phantom, U-Net"
PAGE, TABLE = "minimal_norm.md", "primal_dual"
FILE = "benchmarks/primal_dual.json"


def _cases(network: str, count: int) -> tuple[AttackedModel, list[Case]]:
    """Crops of phantoms, or the whole volumes of another network."""
    if network == PHANTOM:
        return AttackedModel(bundle_network("cpu"), intensity=WINDOW), list(phantom_crops(count, SEED, CROP))
    return next(one for one in networks() if one.name == network).load()


def rows(
    network: str, norms: Sequence[str], steps: Sequence[int], count: int, known: Iterable[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Median norm of each attack and the number of cases in which it succeeded, by norm and steps.

    Args:
        network: as ``benchmarks.steps_to_dice`` calls it.
        norms: of the noise.
        steps: numbers of steps.
        count: cases, of phantoms.
        known: rows that are there already.
    """
    there = {(row["network"], row["norm"], row["steps"]) for row in known}
    wanted = [(norm, number) for norm in norms for number in steps if (network, norm, number) not in there]
    model, cases = _cases(network, count) if wanted else (None, [])
    for norm, number in wanted:
        row: dict[str, Any] = {
            "network": network,
            "norm": norm,
            "block": BLOCKS.get(norm, 1),
            "steps": number,
            "cases": len(cases),
        }
        for name, recipe in (("fmn", FMN), ("pdpgd", PDPGD)):
            attack = recipe(norm, "HU", steps=number, block=row["block"])
            found = [attack(model, image, label) for image, label in cases]
            row[name] = median(float(result.smallest_norm.values) for result in found)
            row[f"{name}_successes"] = sum(bool(result.success) for result in found)
            row[f"{name}_passes"] = [found[0].forwards, found[0].backwards]
        yield row


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each network, norm and number of steps."""
    lines = [
        "| network | norm | steps | forward and backward passes | cases | FMN | PDPGD |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        unit = "HU" if row["norm"] != "l0" else f"blocks of {row['block']} voxels along each axis"
        passes = [" + ".join(map(str, row[f"{name}_passes"])) for name in ("fmn", "pdpgd")]
        assert passes[0] == passes[1], passes
        cells = [
            f"{row[name]:.4g}" + ("" if row[f"{name}_successes"] == row["cases"] else " (not all succeeded)")
            for name in ("fmn", "pdpgd")
        ]
        lines.append(
            f"| {row['network']} | {row['norm']}, {unit} | {row['steps']} | {passes[0]} | {row['cases']} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure what is missing, write it as it comes, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default=PHANTOM, help="part of a network's name; default the one of phantoms")
    parser.add_argument("--norms", nargs="+", default=["linf", "l2", "l1", "l0"])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 60])
    parser.add_argument("--cases", type=int, default=2, help="crops of phantoms")
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    names = [PHANTOM, *(one.name for one in networks())]
    network = next((name for name in names if arguments.network in name), None)
    if network is None:
        parser.error(f"--network must be part of one of {', '.join(names)}, got {arguments.network!r}.")
    output = arguments.output
    measured = RECORDED.read(output)
    for row in rows(network, arguments.norms, arguments.steps, arguments.cases, measured):
        measured.append(row)
        print(row, flush=True)
        RECORDED.write(output, measured, torch=torch.__version__, seed=SEED, crop=list(CROP))


if __name__ == "__main__":
    main()
