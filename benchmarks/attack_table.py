# SPDX-License-Identifier: Apache-2.0
"""Every attack once on each of three networks: mean organ Dice and cost, case by case. Tables of docs/attack_table.md.

    python -m benchmarks.attack_table docs/attack_table.csv

Rows are written as they come, and those that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import torch

from benchmarks.attack_table_entries import ENTRIES, Entry, Setting
from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.steps_to_dice import Case, Network, networks
from monai_adversarial.models import AttackedModel

__all__ = ["Row", "checks", "rows", "table"]

PAGE, TABLE = "attack_table.md", "attack_table.csv"
BUDGETS = (4.0, 8.0)
#: Dice that rounding and other random numbers may make of a comparison
ROOM = 1e-3
#: of a comparison between attacks whose searches differ; see ``checks``
WHITE, QUERIES, TRANSFER = "white box", "queries", "transfer"
ENSEMBLE, RANDOM = "AutoAttack3D", "random search"


@dataclass(frozen=True)
class Row:
    """One attack of one case.

    Args:
        network: name of the network.
        case: number of the case.
        attack: name of the entry.
        family: ``"white box"``, ``"queries"``, ``"transfer"`` or ``"other budget"``.
        budget_hu: radius in HU (L-infinity); NaN for attacks with a budget of another kind.
        budget: the attack's budget in words.
        clean_dice, dice: mean foreground Dice before and under attack, float32; of geometric attacks with the moved
            label.
        reference: ``"label"``, or ``"clean prediction"`` where there is none.
        forwards, backwards: passes of one sample.
        cpu_seconds: process time of the whole call.
    """

    network: str
    case: int
    attack: str
    family: str
    budget_hu: float
    budget: str
    clean_dice: float
    dice: float
    reference: str
    forwards: int
    backwards: int
    cpu_seconds: float


def rows(
    wanted: Iterable[Network],
    setting: Callable[[Network], Setting],
    known: Iterable[Row] = (),
    entries: Sequence[Entry] = ENTRIES,
) -> Iterator[Row]:
    """Measure what is missing, network by network.

    Args:
        wanted: networks.
        setting: steps and queries for a network.
        known: rows that are there already.
        entries: the attacks.
    """
    there: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for row in known:
        there[row.network, row.attack, str(row.budget_hu)].add(row.case)
    for network in wanted:
        load = cache(network.load)
        # As many as any attack has had: to count them anew takes the data.
        count = max((len(cases) for key, cases in there.items() if key[0] == network.name), default=0)
        for entry in entries:
            if entry.family == QUERIES and not setting(network).queries:
                continue
            for budget in BUDGETS if entry.in_hu else (float("nan"),):
                done = there[network.name, entry.name, str(budget)]
                if done and len(done) == count:
                    continue
                model, cases = load()
                for number, case in enumerate(cases):
                    if number not in done:
                        yield _measure(network, entry, budget, setting(network), model, number, case)


def _measure(
    network: Network, entry: Entry, budget: float, setting: Setting, model: AttackedModel, number: int, case: Case
) -> Row:
    begin = time.process_time()
    try:
        result = entry.make(budget, setting)(model, *case)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:  # one sentence; the others go on
        nothing = float("nan")
        return Row(
            network.name, number, entry.name, entry.family, budget, f"refused: {error}", nothing, nothing, "", 0, 0, 0.0
        )
    seconds = time.process_time() - begin
    return Row(
        network.name,
        number,
        entry.name,
        entry.family,
        budget,
        entry.budget or f"{budget:g} HU",
        round(float(result.clean_dice.mean()), 4),
        round(float(result.adversarial_dice.mean()), 4),
        "clean prediction" if result.reference_is_prediction else "label",
        result.forwards,
        result.backwards,
        round(seconds, 1),
    )


def table(measured: Sequence[Row], network: str) -> str:
    """Markdown for one network: mean Dice over its cases and the cost of one case, for each attack and budget."""
    own = [row for row in measured if row.network == network and row.dice == row.dice]
    cases = 1 + max(row.case for row in own)
    reference = own[0].reference
    lines = [
        f"{network}: {cases} case{'s' if cases > 1 else ''}, clean Dice {mean(r.clean_dice for r in own):.3f} "
        f"({'with the label' if reference == 'label' else 'stability of the prediction'}).",
        "",
        "| attack | knowledge | budget | Dice at 4 HU | Dice at 8 HU | forward + backward passes of a case |",
        "|---|---|---|---:|---:|---:|",
    ]
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in own:
        grouped[row.attack].append(row)
    for name, group in grouped.items():
        by_budget = {budget: [r for r in group if r.budget_hu == budget] for budget in BUDGETS}
        other = [r for r in group if r.budget_hu != r.budget_hu]
        cells = [f"{mean(r.dice for r in part):.3f}" if part else "" for part in by_budget.values()]
        if other:
            cells = [f"{mean(r.dice for r in other):.3f}", ""]
        cost = f"{mean(r.forwards for r in group):.0f} + {mean(r.backwards for r in group):.0f}"
        budget = other[0].budget if other else "voxels, L-infinity"
        lines.append(f"| {name} | {group[0].family} | {budget} | {' | '.join(cells)} | {cost} |")
    refused = [row for row in measured if row.network == network and row.dice != row.dice]
    lines += [""] * bool(refused)
    lines += [f"{name}: {text}" for name, text in dict.fromkeys((row.attack, row.budget) for row in refused)]
    return "\n".join(lines)


def checks(measured: Sequence[Row]) -> list[tuple[str, bool, str]]:
    """(claim, whether it holds in every case, what was seen) for each claim about an order of attacks."""
    by_cell: dict[tuple[str, int, float], dict[str, Row]] = defaultdict(dict)
    for row in measured:
        if row.dice != row.dice:
            continue
        by_cell[row.network, row.case, row.budget_hu][row.attack] = row
    cells = {key: cell for key, cell in by_cell.items() if key[2] == key[2]}
    found = []
    found.append(
        _order(
            "the ensemble is at least as strong as every single attack, in every case",
            cells,
            lambda row: row.attack == ENSEMBLE,
            lambda row: row.attack != ENSEMBLE,
        )
    )
    for family in (QUERIES, TRANSFER):
        found.append(
            _order(
                f"the best attack with the network's own gradients is at least as strong as every one by {family}",
                cells,
                lambda row: row.family == WHITE,
                lambda row, family=family: row.family == family,  # type: ignore[misc]
            )
        )
    for name in dict.fromkeys(row.attack for row in measured if row.family == QUERIES and row.attack != RANDOM):
        found.append(
            _order(
                f"{name} is below random search at equal queries, in every case",
                cells,
                lambda row, name=name: row.attack == name,  # type: ignore[misc]
                lambda row: row.attack == RANDOM,
                strictly=True,
            )
        )
    return [one for one in found if one is not None]


def _order(
    claim: str,
    cells: dict[tuple[str, int, float], dict[str, Row]],
    strong: Callable[[Row], bool],
    weak: Callable[[Row], bool],
    strictly: bool = False,
) -> tuple[str, bool, str] | None:
    """The lowest Dice of one group of attacks against every one of another group, cell by cell."""
    pairs, wrong = 0, []
    for (network, case, budget), cell in cells.items():
        best = [row.dice for row in cell.values() if strong(row)]
        for row in cell.values():
            if not best or not weak(row):
                continue
            pairs += 1
            if not (min(best) < row.dice if strictly else min(best) <= row.dice + ROOM):
                wrong.append(f"{network}, case {case}, {budget:g} HU: {row.attack} {row.dice:.3f}, {min(best):.3f}")
    if not pairs:
        return None
    seen = f"{pairs - len(wrong)} of {pairs}" + (f"; not in: {'; '.join(wrong)}" if wrong else "")
    return claim, not wrong, seen


def verdicts(measured: Sequence[Row]) -> str:
    """Markdown of the checks."""
    lines = ["| claim | holds | seen |", "|---|---|---|"]
    lines += [f"| {claim} | {'yes' if holds else '**no**'} | {seen} |" for claim, holds, seen in checks(measured)]
    return "\n".join(lines)


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, none where there is no file."""
    return read_rows(path, Row)


def with_table(text: str, folder: Path) -> str:
    """The page with its tables made anew from the CSV file in ``folder``."""
    measured = sorted(read(folder / TABLE), key=_place)
    whole = "\n\n".join(table(measured, name) for name in dict.fromkeys(row.network for row in measured))
    return replace_table(replace_table(text, TABLE, whole), "attack_checks", verdicts(measured))


def _place(row: Row) -> tuple[int, int]:
    """Networks in the order in which they were measured, attacks in that of the entries."""
    names = [entry.name for entry in ENTRIES]
    order = ("CT phantom, U-Net", "abdominal", "TorchScript")
    network = next((number for number, part in enumerate(order) if part in row.network), len(order))
    return network, names.index(row.attack) if row.attack in names else len(names)


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack_table", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it has are kept")
    parser.add_argument("--only", nargs="+", help="networks whose name contains one of these")
    parser.add_argument("--attacks", nargs="+", choices=[e.name for e in ENTRIES], help="some of the attacks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = read(arguments.output)
    wanted = [
        network
        for network in networks()
        if "hardened" not in network.name and (not arguments.only or any(p in network.name for p in arguments.only))
    ]
    entries = [entry for entry in ENTRIES if not arguments.attacks or entry.name in arguments.attacks]
    for row in rows(wanted, Setting.of, measured, entries):
        measured.append(row)
        write_rows(arguments.output, measured, Row)
        print(row, flush=True)
    page = DOCS / PAGE
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and page.is_file():
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    print(verdicts(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
