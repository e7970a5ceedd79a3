# SPDX-License-Identifier: Apache-2.0
"""The attacks of docs/attack_table.md, each with the settings that it has there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.steps_to_dice import Network
from monai_adversarial import attacks
from monai_adversarial.attacks import Attack
from monai_adversarial.models import AttackedModel

__all__ = ["ENTRIES", "Entry", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What an attack of one case may cost.

    Args:
        steps: gradients.
        queries: of attacks without gradients, random search included.
    """

    steps: int
    queries: int

    @classmethod
    def of(cls, network: Network) -> Setting:
        """Fewer queries where a pass takes seconds."""
        return cls(10, 100) if "phantom" in network.name else cls(5, 20)


def _as_it_is(network: Network, model: AttackedModel) -> AttackedModel:
    return model


@dataclass(frozen=True)
class Entry:
    """One attack.

    Args:
        name: in the table.
        family: what the attacker knows, or ``"other budget"``.
        make: from the radius in HU and the setting to the attack.
        budget: in words, for budgets that are not a radius in HU.
        prepare: makes the attacked model from the network's; transfer attacks add their surrogate to it.
    """

    name: str
    family: str
    make: Callable[[float, Setting], Attack]
    budget: str = ""
    prepare: Callable[[Network, AttackedModel], AttackedModel] = _as_it_is

    @property
    def in_hu(self) -> bool:
        """Whether the budget is a radius in HU for each voxel."""
        return not self.budget


def _white(name: str, recipe: str, **options: Any) -> Entry:
    return Entry(name, "white box", lambda e, s: getattr(attacks, recipe)(e, "HU", steps=s.steps, **options))


def _query(name: str, recipe: str, **options: Any) -> Entry:
    return Entry(name, "queries", lambda e, s: getattr(attacks, recipe)(e, "HU", queries=s.queries, **options))


def _random_search(epsilon: float, setting: Setting) -> Attack:
    noise = attacks.AdditiveNoise(epsilon, units="HU")
    return attacks.Attack(noise, search=attacks.RandomSearch(), steps=setting.queries)


def _ensemble(epsilon: float, setting: Setting) -> Attack:
    return attacks.AutoAttack3D(epsilon, "HU", steps=setting.steps, queries=setting.queries)


ENTRIES: tuple[Entry, ...] = (
    Entry("random search", "queries", _random_search),
    Entry("FGSM", "white box", lambda e, s: attacks.FGSM(e, "HU")),
    _white("BIM", "BIM"),
    _white("MI-FGSM", "MIFGSM"),
    _white("PGD", "PGD"),
    _white("PGD, cross-entropy", "PGD", objective="cross_entropy"),
    _white("SegPGD", "PGD", objective="segpgd"),
    _white("CosPGD", "PGD", objective="cospgd"),
    _white("PGD, margin", "PGD", objective="margin"),
    _white("Auto-PGD", "APGD"),
    _white("SEA3D", "SEA3D"),
    Entry("AutoAttack3D", "white box", _ensemble),
    _query("square attack", "SquareAttack"),
    Entry(
        "bias field",
        "other budget",
        lambda e, s: attacks.BiasFieldAttack(steps=s.steps),
        "30 % gain in the window",
    ),
    Entry("elastic", "other budget", lambda e, s: attacks.ElasticAttack(steps=s.steps), "5 mm, moved label"),
    Entry(
        "affine",
        "other budget",
        lambda e, s: attacks.AffineAttack(steps=s.steps),
        "rotation, translation and scale, moved label",
    ),
)
