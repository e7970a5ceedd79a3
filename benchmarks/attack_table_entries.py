# SPDX-License-Identifier: Apache-2.0
"""The attacks of docs/attack_table.md, each with the settings that it has there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.data_folder import data_folder
from benchmarks.spleen_surrogate import SpleenOfAbdomen
from benchmarks.steps_to_dice import SPLEEN_WINDOW, Network
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial import attacks
from monai_adversarial.attacks import Attack
from monai_adversarial.models import AttackedModel

__all__ = ["ENTRIES", "Entry", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What an attack of one case may cost, and what its attacker has.

    Args:
        steps: gradients.
        queries: of attacks without gradients, random search included; 0 leaves them out.
        surrogate: loads another network that answers the same question; None where there is none.
        window: HU in which bias field, speckle and frequencies act on a network that has no window.
    """

    steps: int
    queries: int
    surrogate: Callable[[], AttackedModel] | None = None
    window: tuple[float, float] | None = None

    @classmethod
    def of(cls, network: Network) -> Setting:
        """Fewer steps and queries where a pass takes seconds."""
        if "phantom" in network.name:
            return cls(10, 100, _hardened)
        if "abdominal" in network.name:
            return cls(5, 20, lambda: _abdominal(fold=2), (-160.0, 240.0))
        return cls(5, 40, _spleen_of_abdominal)


@cache
def _hardened() -> AttackedModel:
    return AttackedModel(bundle_network("cpu", "hardened.pt"), intensity=WINDOW)


@cache
def _abdominal(fold: int) -> AttackedModel:
    from benchmarks.real_scan import CLASSES, load_network

    return AttackedModel(load_network(data_folder(), fold=fold), image_units="HU", class_names=CLASSES)


@cache
def _spleen_of_abdominal() -> AttackedModel:
    window = SPLEEN_WINDOW["a_min"], SPLEEN_WINDOW["a_max"]
    spleen = SpleenOfAbdomen(_abdominal(fold=1).network, _abdominal(fold=1).class_names.index("spleen"), window)
    return AttackedModel(spleen, intensity=SPLEEN_WINDOW)


@dataclass(frozen=True)
class Entry:
    """One attack.

    Args:
        name: in the table.
        family: what the attacker knows, or ``"other budget"``.
        make: from the radius in HU and the setting to the attack.
        budget: in words, for budgets that are not a radius in HU.
    """

    name: str
    family: str
    make: Callable[[float, Setting], Attack]
    budget: str = ""

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


def _from_surrogate(setting: Setting) -> dict[str, Any]:
    if setting.surrogate is None:
        raise ValueError("there is no other network of this task.")
    return {"steps": setting.steps, "gradient": attacks.SurrogateGradient(setting.surrogate())}


def _ensemble_transfer(epsilon: float, setting: Setting) -> Attack:
    if setting.surrogate is None:
        raise ValueError("there is no other network of this task.")
    return attacks.EnsembleTransfer(epsilon, setting.surrogate(), "HU", steps=setting.steps)


ENTRIES: tuple[Entry, ...] = (
    Entry("random search", "queries", _random_search),
    Entry("FGSM", "white box", lambda e, s: attacks.FGSM(e, "HU")),
    _white("PGD", "PGD"),
    _white("Auto-PGD", "APGD"),
    Entry("AutoAttack3D", "white box", _ensemble),
    _white("BIM", "BIM"),
    _white("MI-FGSM", "MIFGSM"),
    _white("PGD, cross-entropy", "PGD", objective="cross_entropy"),
    _white("SegPGD", "PGD", objective="segpgd"),
    _white("CosPGD", "PGD", objective="cospgd"),
    _white("PGD, margin", "PGD", objective="margin"),
    _white("SEA3D", "SEA3D"),
    _query("square attack", "SquareAttack"),
    _query("NES", "NES"),
    _query("RGF", "RGF"),
    _query("ZOO", "ZOO"),
    _query("SAGM", "SAGMAttack"),
    _query("SimBA, cosine basis", "SimBADCT"),
    Entry("PGD on another network", "transfer", lambda e, s: attacks.PGD(e, "HU", **_from_surrogate(s))),
    Entry("MI + DI + TI on another network", "transfer", _ensemble_transfer),
    Entry(
        "bias field",
        "other budget",
        lambda e, s: attacks.BiasFieldAttack(window=s.window, steps=s.steps),
        "30 % gain in the window",
    ),
    Entry("elastic", "other budget", lambda e, s: attacks.ElasticAttack(steps=s.steps), "5 mm, moved label"),
    Entry(
        "affine",
        "other budget",
        lambda e, s: attacks.AffineAttack(steps=s.steps),
        "rotation, translation and scale, moved label",
    ),
    Entry("stAdv", "other budget", lambda e, s: attacks.StAdv(steps=s.steps), "2 mm for each voxel, moved label"),
    Entry(
        "ADef",
        "other budget",
        lambda e, s: attacks.ADef(steps=s.steps),
        "the smallest smooth flow that halves Dice, moved label",
    ),
    Entry(
        "speckle",
        "other budget",
        lambda e, s: attacks.SpeckleAttack(window=s.window, steps=s.steps),
        "10 % of each value",
    ),
    # Few steps need larger ones to cross the budget.
    Entry(
        "VAFA",
        "other budget",
        lambda e, s: attacks.VAFA(window=s.window, steps=s.steps, step_size=20 / s.steps),
        "quantization steps up to 20 of 255",
    ),
    Entry(
        "AdvDrop",
        "other budget",
        lambda e, s: attacks.AdvDrop(window=s.window, steps=s.steps, step_size=60 / s.steps),
        "quantization steps up to 60 of 255",
    ),
    Entry(
        "SA2",
        "other budget",
        lambda e, s: attacks.SpectralAttack(window=s.window, steps=s.steps),
        "40 % of each coefficient",
    ),
    Entry(
        "texture",
        "other budget",
        lambda e, s: attacks.TextureAttack(window=s.window, steps=s.steps),
        "spread of bands halved or doubled, mean by a quarter of it, 20 HU",
    ),
    Entry(
        "texture, spread alone",
        "other budget",
        lambda e, s: attacks.TextureAttack(max_shift=0, window=s.window, steps=s.steps),
        "spread of bands halved or doubled, 20 HU",
    ),
    Entry(
        "CT acquisition",
        "other budget",
        lambda e, s: attacks.CTAcquisitionAttack(window=s.window, steps=s.steps),
        "scanner and protocol, default ranges",
    ),
)
