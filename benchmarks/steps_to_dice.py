# SPDX-License-Identifier: Apache-2.0
"""How many steps, and how many seconds, PGD needs to bring a segmentation down: the table of ``docs/search.md``.

    python -m benchmarks.steps_to_dice docs/search.csv

Rows are written as they come, and those that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from monai.data import MetaTensor

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.data_folder import data_folder
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.strength import BUNDLE, WINDOW, bundle_network, phantom_cases
from monai_adversarial.attacks import PGD, Attack
from monai_adversarial.models import AttackedModel

__all__ = ["ATTACKS", "PASSES", "Network", "Row", "networks", "rows", "summary"]

PAGE, TABLE = "search.md", "search.csv"
PASSES = (2, 3, 4, 5, 10, 20)
# No network was looked at with these when default and constants were chosen: see the page.
PHANTOM_SEED, PHANTOMS = 3000, 3
PHANTOM_SPACING = (3.2, 3.2, 4.0)
SPLEEN_WINDOW = {"a_min": -57.0, "a_max": 164.0, "b_min": 0.0, "b_max": 1.0, "clip": True}

Case = tuple[torch.Tensor, torch.Tensor | None]


def _constant(epsilon: float, steps: int) -> Attack:
    return PGD(epsilon, "HU", steps=steps, step_size=epsilon / 4, objective="dice_ce")


def _default(epsilon: float, steps: int) -> Attack:
    return PGD(epsilon, "HU", steps=steps)


ATTACKS: dict[str, Callable[[float, int], Attack]] = {
    "constant steps, Dice + CE": _constant,
    "default": _default,
}
REFERENCE, REFERENCE_STEPS = "constant steps, Dice + CE", 20


@dataclass(frozen=True)
class Network:
    """A network and what it is attacked on.

    Args:
        name: what the table calls it.
        epsilon: budget in HU, L-infinity.
        load: makes the attacked model and its cases.
    """

    name: str
    epsilon: float
    load: Callable[[], tuple[AttackedModel, list[Case]]]


@dataclass(frozen=True)
class Row:
    """One attack of one network.

    Args:
        network: name of the network.
        budget_hu: budget.
        attack: which of ``ATTACKS``.
        steps: gradient evaluations.
        clean_dice: mean foreground Dice before, over the cases.
        dice: the same under attack.
        cpu_seconds: process time of the whole call, scores included, all cases together.
        forwards, backwards: passes of one sample, all cases together.
    """

    network: str
    budget_hu: float
    attack: str
    steps: int
    clean_dice: float
    dice: float
    cpu_seconds: float
    forwards: int
    backwards: int


def _phantom(weights: str) -> tuple[AttackedModel, list[Case]]:
    # Geometric attacks are in mm.
    affine = torch.diag(torch.tensor([*PHANTOM_SPACING, 1.0], dtype=torch.float64))
    cases = [(MetaTensor(image, affine=affine), label) for image, label in phantom_cases(PHANTOMS, "cpu", PHANTOM_SEED)]
    return AttackedModel(bundle_network("cpu", weights), intensity=WINDOW), list(cases)


def _abdomen(data: Path) -> tuple[AttackedModel, list[Case]]:
    from benchmarks.real_scan import CLASSES, load_network, load_scan

    scan = load_scan(data)
    model = AttackedModel(load_network(data, fold=1), image_units="HU", class_names=CLASSES)
    return model, [(scan.image, scan.label.as_tensor().long())]


def _spleen(data: Path) -> tuple[AttackedModel, list[Case]]:
    from monai.transforms import (
        Compose,
        CropForeground,
        EnsureChannelFirst,
        LoadImage,
        Orientation,
        Resize,
        ScaleIntensityRange,
    )

    prepare = Compose(
        [
            LoadImage(),
            EnsureChannelFirst(),
            Orientation("RAS", labels=None),
            ScaleIntensityRange(**SPLEEN_WINDOW),
            CropForeground(allow_smaller=True),
            Resize((128, 128, 128), mode="trilinear"),
        ]
    )
    image = prepare(data / "abdomen_ct" / "portal_venous_ct_unlabelled.nii.gz")[None]
    network = torch.jit.load(str(data / "spleen_torchscript" / "model.pt"), map_location="cpu").eval()
    return AttackedModel(network, intensity=SPLEEN_WINDOW), [(image, None)]


def networks(say: Callable[[str], None] = print) -> list[Network]:
    """The networks that can be attacked here; of the others a line is said."""
    found = []
    for name, weights in (("CT phantom, U-Net", "model.pt"), ("CT phantom, hardened U-Net", "hardened.pt")):
        if (BUNDLE / "models" / weights).is_file():
            found.append(Network(name, 8.0, lambda weights=weights: _phantom(weights)))  # type: ignore[misc]
        else:
            say(f"{name}: skipped, there is no {BUNDLE / 'models' / weights}")
    data = data_folder()
    for name, epsilon, folder, load in (
        ("abdominal U-Net, fold 1, real CT", 4.0, "abdomen_unet", _abdomen),
        ("TorchScript spleen U-Net, real CT", 1.0, "spleen_torchscript", _spleen),
    ):
        if (data / folder).is_dir():
            found.append(Network(name, epsilon, lambda load=load: load(data)))  # type: ignore[misc]
        else:
            say(f"{name}: skipped, there is no {folder} in MONAI_ADVERSARIAL_DATA or ../shared/data")
    return found


def rows(
    wanted: Iterable[Network],
    passes: Sequence[int] = PASSES,
    attacks: Sequence[str] = tuple(ATTACKS),
    known: Iterable[Row] = (),
) -> Iterator[Row]:
    """Measure, network by network; the attacks of a number of steps follow each other, so that a busy moment of the
    machine hits all of them.

    Args:
        wanted: networks.
        passes: numbers of steps.
        attacks: names of ``ATTACKS``.
        known: rows that are there already.
    """
    there = {(row.network, row.attack, row.steps) for row in known}
    for network in wanted:
        load = cache(network.load)
        for steps in sorted(passes):
            for attack in attacks:
                if (network.name, attack, steps) not in there:
                    yield _measure(network, attack, steps, *load())


def _measure(network: Network, name: str, steps: int, model: AttackedModel, cases: list[Case]) -> Row:
    attack = ATTACKS[name](network.epsilon, steps)
    begin = time.process_time()
    results = [attack(model, image, label) for image, label in cases]
    seconds = time.process_time() - begin
    clean, dice = (
        sum(float(getattr(result, part).mean()) for result in results) / len(results)
        for part in ("clean_dice", "adversarial_dice")
    )
    counts = (sum(result.forwards for result in results), sum(result.backwards for result in results))
    return Row(network.name, network.epsilon, name, steps, round(clean, 4), round(dice, 4), round(seconds, 2), *counts)


def summary(measured: Iterable[Row]) -> str:
    """Markdown: Dice after each number of steps, and what it takes to reach the reference's Dice."""
    by_network: dict[str, list[Row]] = {}
    for row in measured:
        by_network.setdefault(row.network, []).append(row)
    steps = sorted({row.steps for group in by_network.values() for row in group})
    lines = [
        "| network, budget | attack | " + " | ".join(map(str, steps)) + " | steps to it | CPU seconds, ratio |",
        "|---|---|" + "---:|" * (len(steps) + 2),
    ]
    for name, group in by_network.items():
        reference = next((r for r in group if (r.attack, r.steps) == (REFERENCE, REFERENCE_STEPS)), None)
        for attack in dict.fromkeys(row.attack for row in group):
            own = {row.steps: row for row in group if row.attack == attack}
            cells = [f"{own[n].dice:.3f}" if n in own else "" for n in steps]
            reached = None
            if reference is not None:
                reached = next((own[n] for n in sorted(own) if own[n].dice <= reference.dice), None)
            head = f"{name}, {group[0].budget_hu:g} HU (clean {group[0].clean_dice:.3f})"
            cells += ["not reached" if reached is None else str(reached.steps)]
            cells += ["" if reached is None or reference is None else _ratio(reached, reference)]
            lines.append(f"| {head} | {attack} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(row: Row, reference: Row) -> str:
    return f"{row.cpu_seconds:.1f}, {row.cpu_seconds / reference.cpu_seconds:.2f}"


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, none where there is no file."""
    return read_rows(path, Row)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the CSV file in ``folder``."""
    return replace_table(text, TABLE, summary(read(folder / TABLE)))


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps_to_dice", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it has are kept")
    parser.add_argument("--passes", type=int, nargs="+", default=PASSES, help="numbers of steps")
    parser.add_argument("--only", nargs="+", help="networks whose name contains one of these")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = read(arguments.output)
    wanted = [n for n in networks() if not arguments.only or any(part in n.name for part in arguments.only)]
    for row in rows(wanted, arguments.passes, known=measured):
        measured.append(row)
        write_rows(arguments.output, measured, Row)
        print(row, flush=True)
    page = DOCS / PAGE
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and page.is_file():
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    print(summary(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
