# SPDX-License-Identifier: Apache-2.0
"""Strength at equal cost, and cost of equal strength, on the CT phantom bundle's network.

Every attack may change each voxel by 8 HU inside the network's window. Voxels that the window clips look the same after
any such change of the scan (air at -1000 HU): ours leaves them alone, and other libraries, which know no window, are
given a network that does not see changes of them. A pass is one forward + one backward pass. What an attack does with
its passes is its own: constant steps of a quarter of the radius, or steps that it chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

import torch

from benchmarks.peers import PeerAttack, Problem, loaded_attacks
from benchmarks.peers.behind_window import BehindWindow
from benchmarks.peers.problem import LOSSES, CountedNetwork
from benchmarks.settings import Settings
from benchmarks.strength import BUNDLE, WINDOW, bundle_network, mean_dice, phantom_cases
from benchmarks.tables import Column, Table
from benchmarks.timing import Stopwatch, quartiles
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["OURS_DEFAULT", "REFERENCE", "REFERENCE_PASSES", "Contestant", "contestants", "first_reaching", "tables"]

WEIGHTS = BUNDLE / "models" / "model.pt"
HU = 8.0
EPSILON = HU / (WINDOW["a_max"] - WINDOW["a_min"])
REFERENCE_PASSES = 20
# ART and foolbox find torchattacks' voxels (tests/benchmarks); their speed is in the table of the peers.
EQUAL_VOXELS = ("ART PGD", "foolbox PGD")
OURS_SAME, OURS_DEFAULT = "ours, constant steps, cross-entropy", "ours, PGD default"
#: whose Dice the others are asked to reach
REFERENCE = "torchattacks PGD, cross-entropy"


Case = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Contestant:
    """An attack and what was measured of it.

    Args:
        name: attack and loss.
        library: ``"ours"`` or the library's name.
        run: from a case and a number of passes to (adversarial image, forward passes, backward passes).
        dice: number of passes -> mean Dice over the cases.
        cost: number of passes -> (forwards, backwards, CPU seconds), means over the cases.
    """

    name: str
    library: str
    run: Callable[[Case, int], tuple[torch.Tensor, float, float]]
    dice: dict[int, float] = field(default_factory=dict)
    cost: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def measure(self, network: torch.nn.Module, cases: Sequence[Case], passes: int) -> float:
        """Mean Dice after that many passes, measured once."""
        if passes not in self.dice:
            scores, costs = [], []
            for case in cases:
                watch = Stopwatch()
                adversarial, forwards, backwards = self.run(case, passes)
                costs.append((forwards, backwards, watch.seconds()[1]))
                change = float((adversarial - case[0]).abs().max())
                if change > EPSILON * 1.001:
                    raise RuntimeError(f"{self.name} left its budget: {change:.5f} instead of {EPSILON:.5f}.")
                scores.append(mean_dice(network, adversarial, case[1]))
            self.dice[passes] = mean(scores)
            self.cost[passes] = tuple(mean(part) for part in zip(*costs, strict=True))  # type: ignore[assignment]
        return self.dice[passes]


def first_reaching(dice: Callable[[int], float], target: float, most: int, known: Sequence[int] = ()) -> int | None:
    """Smallest number of passes with a Dice of at most ``target``; None if ``most`` passes do not get there.

    Found by halving between numbers that do not and that do, as if more passes never did less; exact below 16 passes,
    within an eighth above.

    Args:
        dice: of a number of passes.
        target: to be reached.
        most: where to give up.
        known: numbers of passes whose Dice is known already.
    """
    low = max((passes for passes in known if dice(passes) > target), default=0)
    high = min((passes for passes in known if passes > low and dice(passes) <= target), default=None)
    stride = max(1, low // 8)
    while high is None:
        if low >= most:
            return None
        tried = min(low + stride, most)
        low, high = (low, tried) if dice(tried) <= target else (tried, None)
        stride *= 2
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (low, middle) if dice(middle) <= target else (middle, high)
    return high


def _ours(name: str, model: AttackedModel, attack: Callable[[int], PGD]) -> Contestant:
    def run(case: Case, passes: int) -> tuple[torch.Tensor, float, float]:
        result = attack(passes)(model, *case)
        return result.adversarial, result.forwards, result.backwards

    return Contestant(name, "ours", run)


def _peer(attack: PeerAttack, library: str, network: torch.nn.Module, loss: str) -> Contestant:
    def run(case: Case, passes: int) -> tuple[torch.Tensor, float, float]:
        behind = BehindWindow(network, case[0])
        counted = CountedNetwork(behind)
        found = attack(Problem(counted, *case, EPSILON, loss), passes)
        return behind.seen(found), counted.forwards, counted.with_gradient

    return Contestant(f"{attack.name}, {LOSSES[loss]}", library, run)


def contestants(network: torch.nn.Module) -> tuple[list[Contestant], list[str]]:
    """The attacks that are compared, and a line for each library that is not here."""
    model = AttackedModel(network, intensity=WINDOW)
    same = {"step_size": HU / 4, "objective": "cross_entropy", "random_start": False}
    made = [
        _ours(OURS_DEFAULT, model, lambda passes: PGD(HU, "HU", steps=passes)),
        _ours(OURS_SAME, model, lambda passes: PGD(HU, "HU", steps=passes, **same)),
    ]
    found, absent = loaded_attacks("constant", "adaptive")
    for peer, attack in found:
        if attack.name not in EQUAL_VOXELS:
            made += [_peer(attack, peer.name, network, loss) for loss in attack.compared]
    return made, absent


def _equal_cost(attacks: list[Contestant], settings: Settings) -> Table:
    table = Table(
        "equal_cost",
        f"Mean organ Dice of {settings.cases} phantom(s) after so many forward + backward passes inside {HU:g} HU "
        "(lower is stronger), scored in float32. Voxels that the window clips stay as they are, for all.",
        (
            Column("attack"),
            *(Column(f"Dice after {passes}", 3) for passes in settings.passes),
            *(Column(f"CPU s of {passes}", 1) for passes in settings.passes),
            Column(f"forward passes of {settings.passes[-1]}", 0),
        ),
    )
    for one in attacks:
        costs = [one.cost[passes] for passes in settings.passes]
        table.add(one.name, *(one.dice[passes] for passes in settings.passes), *(c[2] for c in costs), costs[-1][0])
    return table


def _equal_strength(
    attacks: list[Contestant], network: torch.nn.Module, cases: list[Case], settings: Settings, say: Callable
) -> Table:
    by_name = {one.name: one for one in attacks}
    # Constant steps on cross-entropy: torchattacks' own PGD where it is, else ours, which is the same search.
    reference = by_name.get(REFERENCE, by_name[OURS_SAME])
    goal = reference.measure(network, cases, REFERENCE_PASSES)
    needed: dict[str, int | None] = {}
    for one in attacks:
        say(f"passes of {one.name} to a Dice of {goal:.3f}")
        dice = lambda passes, one=one: one.measure(network, cases, passes)  # noqa: E731
        needed[one.name] = first_reaching(dice, goal, settings.most_passes, sorted(one.dice))
    seconds: dict[str, list[float]] = {one.name: [] for one in attacks}
    for number in range(settings.few_rounds):
        say(f"round {number + 1} of {settings.few_rounds} at equal Dice")
        for one in attacks:
            passes = needed[one.name]
            if passes is not None:
                watch = Stopwatch()
                one.run(cases[0], passes)
                seconds[one.name].append(watch.seconds()[1])
    ours = median(seconds[OURS_DEFAULT]) if seconds[OURS_DEFAULT] else None
    table = Table(
        "equal_strength",
        f"Passes and CPU seconds to the mean organ Dice of {reference.name} after {REFERENCE_PASSES} passes "
        f"({goal:.3f}); seconds of one phantom, medians of {settings.few_rounds} interleaved rounds.",
        (
            *(Column("attack"), Column("passes", 0), Column("its Dice", 3), Column("CPU seconds", 2)),
            *(Column("quartiles"), Column("times ours", 2), Column("target")),
        ),
    )
    for one in attacks:
        passes = needed[one.name]
        if passes is None:
            best = min(one.dice.values())
            table.add(one.name, f"not in {settings.most_passes}", best, None, "", None, "")
            continue
        mine = median(seconds[one.name])
        table.add(
            one.name, passes, one.dice[passes], mine, quartiles(seconds[one.name]), mine / ours if ours else None, ""
        )
    if ours is None:
        table.notes.append(f"Both targets MISSED: {OURS_DEFAULT} does not get there in {settings.most_passes} passes.")
    _judge(table, "torchattacks PGD", 8.0)
    _judge(table, "adv_lib", 5.0)
    return table


def _judge(table: Table, library: str, target: float) -> None:
    """The verdict on the row of a library that needs least CPU seconds."""
    rows = [row for row in table.rows if str(row[0]).startswith(library) and isinstance(row[5], float)]
    if rows:
        best = min(rows, key=lambda row: row[5])  # type: ignore[arg-type, return-value]
        best[6] = f">= {target:g}: {'met' if best[5] >= target else 'MISSED'}"  # type: ignore[operator]


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """Dice at equal cost, and cost at equal Dice; a line that says why without the bundle's weights."""
    if not WEIGHTS.is_file():
        empty = Table("equal_cost", "Dice at equal cost.", (Column("attack"),))
        empty.notes.append(f"Not run: {WEIGHTS.name} of the bundle is missing.")
        return [empty]
    network = bundle_network(settings.device).requires_grad_(False)
    cases = phantom_cases(settings.cases, settings.device)
    attacks, absent = contestants(network)
    for one in attacks:
        say(f"Dice of {one.name}")
        one.run(cases[0], 1)  # what is loaded once
        for passes in settings.passes:
            one.measure(network, cases, passes)
    clean = mean(mean_dice(network, *case) for case in cases)
    cost = _equal_cost(attacks, settings)
    cost.notes = [
        f"Clean Dice {clean:.3f}. {' and '.join(EQUAL_VOXELS)} find torchattacks' voxels.",
        *(f"Not run: {line}" for line in absent),
    ]
    return [cost, _equal_strength(attacks, network, cases, settings, say)]
