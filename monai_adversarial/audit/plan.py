# SPDX-License-Identifier: Apache-2.0
"""What an audit does: rows of a readable YAML file."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from monai_adversarial.attacks import Attack
from monai_adversarial.audit.detection import DetectorSetup, read_detector
from monai_adversarial.utils.calls import shown

__all__ = ["FAMILIES", "Plan", "Row", "budget_of_attack", "load_plan", "plan_names"]

FAMILIES = ("clean", "noise", "natural variation", "bias field", "geometry", "gradient", "queries", "transfer")
KNOWLEDGE = ("none", "white box", "queries", "another network")
_PLAN_KEYS = {"name", "description", "rows", "seed", "surface_tolerance_mm"}
_ROW_KEYS = {
    *("title", "family", "attack", "over", "goal", "knowledge", "description", "needs", "modality", "when", "ids"),
    "detector",
}
NEEDS = ("gradients", "queries", "surrogate")
CLEAN = "clean"
NO_GRADIENTS = "no gradients"
#: what values of a file are taken for, by the units of budgets
MODALITY = {"HU": "CT", "percentile": "MRI"}


@dataclass(frozen=True)
class Row:
    """One row of a plan: one attack with one budget.

    >>> from monai_adversarial.audit import load_plan
    >>> row = load_plan("quick", rows="elastic").rows[-1]
    >>> row.name, row.geometric, row.needs, row.budget["units"]
    ('elastic_5', True, 'gradients', 'mm')

    Args:
        name: in records and file names.
        title: for people.
        family: one of ``FAMILIES``.
        attack: what attacks; None for the clean image.
        goal: of the attacker, in words.
        knowledge: of the attacker: one of ``KNOWLEDGE``.
        description: what is done, in words.
        needs: ``"gradients"`` of the target, ``"queries"``, or a ``"surrogate"`` network whose gradients are followed.
        series: rows of one series differ in their budget alone and form a curve.
        budget: ``{"value", "units", "text"}``; None for the clean image.
        ids: of the mapping to documents that reviewers use.
        detector: that stands before the network; None for none.
    """

    name: str
    title: str
    family: str
    attack: Attack | None = None
    goal: str = ""
    knowledge: str = "none"
    description: str = ""
    needs: str = "queries"
    series: str | None = None
    budget: Mapping[str, Any] | None = None
    ids: Sequence[str] = ()
    detector: DetectorSetup | None = None

    @property
    def geometric(self) -> bool:
        """Whether anatomy moves."""
        return self.family == "geometry"

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        detected = {} if self.detector is None else {"detector": self.detector.as_json()}
        return {
            **detected,
            "name": self.name,
            "title": self.title,
            "family": self.family,
            "goal": self.goal,
            "knowledge": self.knowledge,
            "budget": None if self.budget is None else dict(self.budget),
            "geometric": self.geometric,
            "description": self.description,
            "attack": None if self.attack is None else shown(self.attack),
            "series": self.series,
            "ids": list(self.ids),
        }


@dataclass(frozen=True)
class Plan:
    """Rows, and what holds for all of them.

    >>> from monai_adversarial.audit import load_plan
    >>> plan = load_plan("quick", rows=["clean", "pgd_8"])
    >>> plan.name, [row.name for row in plan.rows], plan.seed
    ('quick', ['clean', 'pgd_8'], 0)

    Args:
        name: of the plan.
        description: in words.
        rows: in the order of the report.
        left_out: sentences about rows that do not fit the target.
        seed: of attacks and intervals.
        surface_tolerance_mm: of surface Dice.
    """

    name: str
    description: str
    rows: Sequence[Row]
    left_out: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    surface_tolerance_mm: float = 2.0

    @property
    def by_gradients(self) -> bool:
        """Whether a row follows the target's own gradients."""
        return any(row.needs == "gradients" for row in self.rows)


def plan_names() -> list[str]:
    """The plans that come with the package.

    >>> from monai_adversarial.audit import plan_names
    >>> plan_names()
    ['quick', 'standard', 'thorough']
    """
    folder = resources.files("monai_adversarial.audit") / "plans"
    found = [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]
    order = ("quick", "standard", "thorough")
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def load_plan(
    plan: str | os.PathLike[str] | Mapping[str, Any],
    units: str = "HU",
    differentiable: bool = True,
    surrogate: bool = False,
    rows: Sequence[str] | str | None = None,
    seed: int | None = None,
    cases: int | None = None,
) -> Plan:
    """Read a plan for a target.

    >>> from monai_adversarial.audit import load_plan
    >>> [row.name for row in load_plan("quick").rows]
    ['clean', 'noise_3', 'blur_3', 'pgd_2', 'pgd_8', 'bias_field_0.3', 'elastic_5']
    >>> load_plan("quick", differentiable=False).left_out[0]
    'PGD: the target has no gradients.'
    >>> load_plan("quick", rows="fgsm")
    Traceback (most recent call last):
    ValueError: ...

    Args:
        plan: ``"quick"``, ``"standard"``, ``"thorough"``, a YAML file, or its content.
        units: of intensity budgets: ``"HU"`` where the map between file and network is known, else ``"percentile"``.
        differentiable: whether rows that need gradients can run.
        surrogate: whether there is another network whose gradients transfer rows follow.
        rows: names of rows to keep, with or without the value of their budget: a list, or one string separated by
            commas; None for all.
        seed: instead of the plan's.
        cases: that are audited: rows whose detector needs more of them are left out; None where that is not known.

    Raises:
        FileNotFoundError: where there is no such plan.
        ValueError: for a key, a row or a value that the plan must not have, in one sentence.
    """
    content = _content(plan)
    _check_keys("the plan", content, _PLAN_KEYS, required=("name", "rows"))
    seed = content.get("seed", 0) if seed is None else seed
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed of the plan must be a whole number >= 0, got {seed!r}.")
    found: list[Row] = []
    left_out: list[str] = []
    bases: dict[str, str] = {}
    if not isinstance(content["rows"], Mapping) or not content["rows"]:
        raise ValueError("rows of the plan must map names to rows.")
    for name, row in content["rows"].items():
        row = {} if row is None else row
        if not isinstance(row, Mapping):
            raise ValueError(f"row {str(name)!r} of the plan must be a mapping, got {type(row).__name__} {row!r:.80}.")
        needs = row.get("needs", "queries")
        title = row.get("title", name)
        modality = row.get("modality", MODALITY[units])
        if modality not in MODALITY.values():
            raise ValueError(
                f"modality of row {str(name)!r} must be one of {', '.join(MODALITY.values())}, got {modality!r}."
            )
        if modality != MODALITY[units]:
            left_out.append(f"{title}: for {row['modality']}, and budgets are in {units}.")
            continue
        if row.get("when") == NO_GRADIENTS and differentiable:
            left_out.append(f"{title}: in this plan for targets without gradients alone.")
            continue
        try:
            made = _rows_of(str(name), row, units, seed)
        except _NotInstalled as error:
            left_out.append(f"{title}: {error}")
            continue
        if needs == "gradients" and not differentiable:
            left_out.append(f"{title}: the target has no gradients.")
        elif needs == "surrogate" and not surrogate:
            left_out.append(f"{title}: no other network was given to transfer from.")
        elif made and cases is not None and made[0].detector and (why := made[0].detector.too_few(cases)):
            left_out.append(f"{title}: {why}")
        elif not made:
            left_out.append(f"{title}: the plan has no budget in {units} for it.")
        else:
            found += made
            bases |= {row.name: str(name) for row in made}
    if rows is not None:
        wanted = [part.strip() for part in rows.split(",")] if isinstance(rows, str) else list(rows)
        known = {*bases, *bases.values(), CLEAN}
        for one in wanted:
            if one not in known:
                raise ValueError(
                    f"the plan has no row {one!r}{_nearest(one, known)}: it has {', '.join(sorted(known))}."
                )
        dropped = [row for row in found if not {row.name, bases[row.name]} & {*wanted, CLEAN}]
        left_out += [f"{row.title}: not asked for." for row in dropped]
        found = [row for row in found if row not in dropped]
    if not found or found[0].name != CLEAN:
        found.insert(0, Row(CLEAN, "Clean images", "clean", description="The unchanged images."))
    _check_distinct(found)
    tolerance = content.get("surface_tolerance_mm", 2.0)
    if not _is_number(tolerance) or not 0 < tolerance < math.inf:
        raise ValueError(f"surface_tolerance_mm must be > 0 mm and a finite number, got {tolerance!r}.")
    return Plan(str(content["name"]), str(content.get("description", "")), found, left_out, seed, float(tolerance))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _NotInstalled(Exception):
    """A row needs an extra that is not installed."""


def _content(plan: Any) -> Mapping[str, Any]:
    if isinstance(plan, Mapping):
        return plan
    text = str(plan)
    if text in plan_names():
        raw = (resources.files("monai_adversarial.audit") / "plans" / f"{text}.yaml").read_text(encoding="utf-8")
    elif Path(text).is_file():
        try:
            raw = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"cannot read the plan {text}: it is not UTF-8 (byte {error.start}).") from error
    else:
        raise FileNotFoundError(f"there is no plan {text}: it must be {', '.join(plan_names())} or a YAML file.")
    try:
        content = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot read the plan {text} as YAML: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"the plan {text} must be a mapping with name and rows, got {type(content).__name__}.")
    return content


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(str(name), [str(one) for one in known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _check_keys(what: str, given: Any, allowed: set[str], required: Sequence[str] = ()) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping, got {type(given).__name__}.")
    for key in given:
        if key not in allowed:
            raise ValueError(f"{what} has no key {key!r}{_nearest(key, allowed)}: it has {', '.join(sorted(allowed))}.")
    for key in required:
        if key not in given:
            raise ValueError(f"{what} lacks the key {key!r}.")


def _rows_of(name: str, row: Mapping[str, Any], units: str, seed: int) -> list[Row]:
    _check_keys(f"row {name!r}", row, _ROW_KEYS, required=("family",))
    family, knowledge, needs = row["family"], row.get("knowledge", "none"), row.get("needs", "queries")
    for key, value, allowed in (
        ("family", family, FAMILIES),
        ("knowledge", knowledge, KNOWLEDGE),
        ("needs", needs, NEEDS),
        ("when", row.get("when", NO_GRADIENTS), (NO_GRADIENTS,)),
    ):
        if value not in allowed:
            raise ValueError(f"{key} of row {name!r} must be one of {', '.join(allowed)}, got {value!r}.")
    common = {
        "family": family,
        "knowledge": knowledge,
        "needs": needs,
        "goal": row.get("goal", ""),
        "description": " ".join(str(row.get("description", "")).split()),
        "ids": tuple(row.get("ids", ())) if isinstance(row.get("ids", ()), (list, tuple)) else None,
    }
    if "detector" in row:
        if needs != "gradients":
            raise ValueError(f"needs of row {name!r} must be 'gradients', which a detector's attacker needs too.")
        try:
            common["detector"] = read_detector(name, row["detector"])
        except ModuleNotFoundError as error:
            raise _NotInstalled(" ".join(str(error).split())) from error
    if common["ids"] is None:
        raise ValueError(f"ids of row {name!r} must be a list, got {row['ids']!r:.80}.")
    title = str(row.get("title", name))
    if "attack" not in row:
        if family != "clean":
            raise ValueError(f"row {name!r} lacks the key 'attack'.")
        return [Row(name, title, attack=None, **common)]
    if not isinstance(row["attack"], Mapping):
        raise ValueError(f"attack of row {name!r} must be a component with _target_, got {row['attack']!r:.80}.")
    variants = _variants(name, row.get("over"), units)
    made = []
    for changes, suffix, budget in variants:
        attack = _attack(name, _filled({**row["attack"], **changes}, units), seed)
        own = budget_of_attack(attack)
        budget = {**own, **budget, "text": own["text"] or budget.get("text", "")}
        made.append(
            Row(
                f"{name}{suffix}",
                f"{title}, {budget['text']}" if budget.get("text") else title,
                attack=attack,
                series=name if len(variants) > 1 else None,
                budget=budget,
                **common,
            )
        )
    return made


def _variants(name: str, over: Any, units: str) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Changes of the attack's arguments, the end of the row's name, and what is known of the budget."""
    if over is None:
        return [({}, "", {})]
    if not isinstance(over, Mapping) or len(over) != 1:
        raise ValueError(f"over of row {name!r} must name one argument of the attack, got {over!r}.")
    ((argument, values),) = over.items()
    extra: dict[str, Any] = {}
    if isinstance(values, Mapping):  # by units
        if set(values) - {"HU", "percentile"}:
            raise ValueError(f"over of row {name!r} must give values for HU and percentile, got {sorted(values)}.")
        values, extra = values.get(units, []), {"units": units}
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"over of row {name!r} must give a list of values for {argument!r}, got {values!r}.")
    for value in values:
        if not _is_number(value):
            raise ValueError(f"over of row {name!r} must give numbers for {argument!r}, got {value!r:.80}.")
    words = argument.replace("_", " ")
    return [
        ({argument: value, **extra}, f"_{value:g}", {"value": value, "text": f"{words} {value:g}"}) for value in values
    ]


def _attack(name: str, component: Any, seed: int) -> Attack:
    if not isinstance(component, Mapping) or "_target_" not in component:
        raise ValueError(f"attack of row {name!r} must be a component with _target_, got {component!r}.")
    try:
        made = ConfigParser({"attack": dict(component)}).get_parsed_content("attack")
        if isinstance(made, Attack) and "seed" not in component:
            made = ConfigParser({"attack": {"seed": seed, **component}}).get_parsed_content("attack")
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ImportError) and "pip install" in str(cause):
            raise _NotInstalled(" ".join(str(cause).split())) from error
        raise ValueError(f"attack of row {name!r} cannot be made: {' '.join(str(cause).split())}") from error
    if not isinstance(made, Attack):
        raise ValueError(
            f"attack of row {name!r} must be a monai_adversarial.attacks.Attack, got {type(made).__name__}."
        )
    return made


def _filled(component: Any, units: str) -> Any:
    """A component with ``@units`` and ``@modality`` replaced by those of the target."""
    if isinstance(component, Mapping):
        return {key: _filled(value, units) for key, value in component.items()}
    return (
        {"@units": units, "@modality": MODALITY[units]}.get(component, component)
        if isinstance(component, str)
        else component
    )


def budget_of_attack(attack: Attack) -> dict[str, Any]:
    """Value, units and words of an attack's budget."""
    perturbation = attack.perturbation
    for attribute, units, words in (
        ("epsilon", getattr(perturbation, "units", None), None),
        ("max_gain", "gain", "{:.0%} gain"),
        ("max_displacement", "mm", None),
    ):
        value = getattr(perturbation, attribute, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            shown = words.format(value) if words else _in_units(float(value), str(units))
            norm = getattr(perturbation, "norm", None)
            return {"value": value, "units": units, "norm": norm if isinstance(norm, str) else None, "text": shown}
    return {"value": None, "units": None, "norm": None, "text": ""}


def _in_units(value: float, units: str) -> str:
    return f"{value:.2g} of the image's range" if units == "percentile" else f"{value:g} {units}"


def _check_distinct(rows: Sequence[Row]) -> None:
    names = [row.name for row in rows]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"every row of the plan needs a name of its own, but {', '.join(sorted(twice))} come twice.")
