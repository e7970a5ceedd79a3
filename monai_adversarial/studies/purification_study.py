# SPDX-License-Identifier: Apache-2.0
"""What purifiers cost on clean scans, and what they are worth against attackers who do and do not know them."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate
from torch import nn
from tqdm import tqdm

import monai_adversarial
from monai_adversarial.attacks import (
    Attack,
    AttackResult,
    BackwardPassSubstitute,
    ExpectationOverTransformation,
    GradientEstimator,
)
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.metrics import organ_names
from monai_adversarial.metrics.batch_dice import hard_prediction
from monai_adversarial.metrics.study_dice import mean_defined, mean_dice, organ_dice
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.studies.records import read_json, write_json
from monai_adversarial.studies.reports.purification_report import PurificationReport
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.utils.backward_pass import DECLARED, SUBSTITUTES
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.hashing import case_hash, describe, fingerprint, network_hash
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["PurificationStudy", "purifiers_of"]

UNDEFENDED = "undefended"
# Draws of the defender when a finished image is scored; an attacker's draws have other numbers.
SCORING = 1_000_003
RECORD_VERSION = 2


def purifiers_of(inferer: Any) -> list[Any]:
    """The purifiers of an inferer and of the inferers inside it, outermost first."""
    found: list[Any] = []
    while inferer is not None:
        if isinstance(inferer, PurifiedInferer):
            found += inferer.purifiers
        inferer = getattr(inferer, "inferer", None)
    return found


class PurificationStudy:
    """Every defense against every attack, on every case: Dice of the clean image, under an attack that does not know
    the defense, and under one that does.

    Columns, all scored with the defense in place unless it says otherwise:

    - ``clean``: the clean image;
    - ``undefended``: the attack on the inferer without the defense, scored without it;
    - ``undefended_longer``: the same, gone on for ``adaptive_steps`` more, as the adaptive attacker does;
    - ``unaware``: the same adversarial image;
    - ``adaptive_gradient``: the attack on the defended inferer: exact gradients where the purifier is differentiable,
      else its declared stand-in (backward pass differentiable approximation), averaged over ``samples`` draws of a
      random purifier (expectation over transformation); it goes on from where the unaware attack stopped. With
      several ``substitutes`` the attacker keeps the best per case;
    - ``adaptive``: per case the lower of the last two: an attacker who knows the defense may as well use an image made
      without it.

    Dice is the mean over organs; an organ absent from both label and prediction is left out, an organ in only one of
    them counts 0. Random defenses are scored as the mean of ``draws`` draws that no attacker saw. A unit is one case
    under one attack with one defense; finished units (with the same defense, attack, network, image and package
    version) are not run again.

    Args:
        network: segmentation network.
        dataset: items with ``image`` (channel first, in the units of the attacks) and ``label``, as loaded by MONAI's
            ``Dataset``, or batches of one of them.
        inferer: undefended inferer; None calls the network.
        defenses: name -> inferer with the purifier(s) in it.
        attacks: name -> attack.
        output_dir: for ``purification.csv``, ``purification_cases.csv``, ``purification.png``, ``purification.md`` and
            the records.
        class_names: names of the network's classes, background first.
        organs: names of the classes that are scored; None for all but the background.
        samples: draws per gradient against random defenses.
        adaptive_steps: steps of the attack on the defended inferer, one number or one per attack (``{"pgd": 20}``);
            None, and for attacks that are not named, as many as the attack has.
        random_steps: the same for random defenses; None, and for attacks that are not named, as many as against others.
        draws: draws of a random defense per scored image.
        substitutes: backward passes that the adaptive attacker tries ("declared", "identity", ...) against defenses
            that are not random, one list or one per attack (the others: "declared"). Those that come to the same for a
            defense are tried once; random ones are attacked by "declared".
        data_name: what the tables call the cases.
        seed: of the bootstrap.
        image_key: key of the image.
        label_key: key of the label.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: for arguments that do not fit, in one sentence.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Any,
        inferer: Any,
        defenses: Mapping[str, Any],
        attacks: Mapping[str, Attack],
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | Mapping[Any, str],
        organs: Sequence[str] | None = None,
        samples: int = 20,
        adaptive_steps: int | Mapping[str, int] | None = None,
        random_steps: int | Mapping[str, int] | None = None,
        draws: int = 5,
        substitutes: Sequence[str] | Mapping[str, Sequence[str]] = ("declared",),
        data_name: str = "cases",
        seed: int = 0,
        image_key: str = "image",
        label_key: str = "label",
        progress: bool = True,
    ) -> None:
        without = [name for name, defended in defenses.items() if not purifiers_of(defended)]
        if without or not defenses or UNDEFENDED in defenses:
            raise TypeError(
                "defenses must map names (other than 'undefended') to inferers with a PurifiedInferer in them, "
                f"got {without or list(defenses)}."
            )
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks.values()):
            raise TypeError("attacks must map at least one name to an Attack.")
        names = organ_names(class_names)
        unknown = [organ for organ in organs or () if organ not in names.values()]
        if unknown:
            raise ValueError(f"organs must be among {', '.join(names.values())}, got {unknown[0]!r}.")
        self.network, self.dataset, self.inferer = network, dataset, inferer
        self.defenses, self.attacks = dict(defenses), dict(attacks)
        self.output_dir = Path(output_dir)
        self.organs = {index: name for index, name in names.items() if organs is None or name in organs}
        self.samples, self.draws = check_count("samples", samples), check_count("draws", draws)
        self.adaptive_steps = {
            name: check_count("adaptive_steps", steps)
            for name, steps in self._per_attack("adaptive_steps", adaptive_steps).items()
        }
        self.random_steps = {
            name: check_count("random_steps", steps)
            for name, steps in self._per_attack("random_steps", random_steps).items()
        }
        self.substitutes = {
            name: [check_choice("substitutes", one, SUBSTITUTES) for one in chosen]
            for name, chosen in self._per_attack("substitutes", substitutes).items()
        }
        self.data_name, self.seed, self.progress = data_name, check_count("seed", seed, minimum=0), bool(progress)
        self.image_key, self.label_key = image_key, label_key
        self._weights = ""

    def _per_attack(self, argument: str, given: Any) -> dict[str, Any]:
        """A setting for each attack that has one."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            return dict.fromkeys(self.attacks, given)
        unknown = [name for name in given if name not in self.attacks]
        if unknown:
            raise ValueError(f"{argument} must name attacks among {', '.join(self.attacks)}, got {unknown[0]!r}.")
        return dict(given)

    def run(self, selected: Sequence[str] | str | None = None) -> dict[str, Any]:
        """Run what is missing, then report on everything that is there.

        Args:
            selected: names of the defenses to run, a list or one string separated by commas; None for all.

        Returns:
            rows of the table as ``{"rows": [...]}``.
        """
        if isinstance(selected, str):
            selected = [name.strip() for name in selected.split(",") if name.strip()]
        chosen = list(self.defenses) if selected is None else list(selected)
        unknown = [name for name in chosen if name not in self.defenses]
        if unknown:
            raise ValueError(f"there is no defense {unknown[0]!r}: choose among {', '.join(self.defenses)}.")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._weights = network_hash(self.network)
        total = len(self.dataset) * len(self.attacks) * len(chosen)
        records: list[dict[str, Any]] = []
        with tqdm(total=total, desc=self.data_name, unit="unit", disable=not self.progress, file=sys.stderr) as bar:
            for index in range(len(self.dataset)):
                case = _Case(self, index)
                for attack_name in self.attacks:
                    for name in self.defenses:
                        if name in chosen:
                            bar.set_postfix_str(f"{case.name} {attack_name} {name}")
                        record = self._unit(case, attack_name, name, compute=name in chosen)
                        bar.update(name in chosen)
                        if record is not None:
                            records.append(record)
        report = PurificationReport(records, self.data_name, self.seed)
        report.write(self.output_dir)
        print(f"\n{report.table()}\n\nresults in {self.output_dir}", flush=True)
        return {"rows": report.rows()}

    def best(self, count: int, attack: str, among: Sequence[str] | None = None) -> list[str]:
        """The defenses with the highest mean Dice against the adaptive form of one attack, from the table on disk.

        Args:
            count: how many.
            attack: name of the attack.
            among: candidates; None for all.

        Raises:
            FileNotFoundError: when ``run`` has written no table yet.
        """
        rows = read_rows(self.output_dir / "purification.csv")
        candidates = [row for row in rows if row["attack"] == attack and (among is None or row["defense"] in among)]
        ranked = sorted(candidates, key=lambda row: row["adaptive"], reverse=True)
        return [row["defense"] for row in ranked[: check_count("count", count)]]

    def _path(self, case: _Case, attack_name: str, name: str) -> Path:
        return self.output_dir / "records" / name / f"{attack_name}_{case.name}.json"

    def _fingerprint(self, case: _Case, attack_name: str, name: str) -> str:
        attack = self.attacks[attack_name]
        random = self._is_random(name)
        settings = {
            "record": RECORD_VERSION,
            "version": monai_adversarial.__version__,
            "network": self._weights,
            "inferer": describe(self.inferer),
            "defense": describe(self.defenses[name]),
            "attack": [repr(type(attack)), describe(attack)],
            "case": case.hash,
            "organs": self.organs,
            "steps": self.adaptive(attack_name, "declared", random).steps,
            "longer": self.longer(attack_name).steps,
            "study": [self._substitutes(attack_name, name), *([self.samples, self.draws] if random else [])],
        }
        return fingerprint(settings)

    def _unit(self, case: _Case, attack_name: str, name: str, compute: bool) -> dict[str, Any] | None:
        """The record of a unit: as it is stored if it still holds, else computed and written, or None."""
        path = self._path(case, attack_name, name)
        mark = self._fingerprint(case, attack_name, name)
        record = read_json(path)
        if isinstance(record, dict) and record.get("fingerprint") == mark:
            return record
        if not compute:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"fingerprint": mark, **self._compute(case, attack_name, name)}
        write_json(path, record)
        return record

    def _compute(self, case: _Case, attack_name: str, name: str) -> dict[str, Any]:
        began = time.perf_counter()
        inferer = self.defenses[name]
        purifiers = purifiers_of(inferer)
        random = self._is_random(name)
        unaware = case.undefended(attack_name)
        scores = {
            "clean_undefended": case.clean_undefended(),
            "clean": self.score(inferer, case.image, case.label, random),
            "undefended": case.undefended_scores(attack_name),
            "undefended_longer": case.undefended_longer(attack_name),
            "unaware": self.score(inferer, unaware.adversarial, unaware.label, random),
        }
        candidates, cost = {}, {"forwards": 0, "backwards": 0}
        budgets: dict[str, Any] = {}
        for substitute in self._substitutes(attack_name, name):
            result = self.adaptive(attack_name, substitute, random)(
                self.network, case.image, case.label, inferer=inferer, start=unaware.parameters
            )
            cost = {key: cost[key] + getattr(result, key) for key in cost}
            candidates[substitute] = self.score(inferer, result.adversarial, result.label, random)
            budgets[substitute] = {
                key: {"value": float(m.values[0]), "units": m.units, "limit": m.limit}
                for key, m in result.budgets.items()
            }
        best = min(candidates, key=lambda key: mean_dice(candidates[key]))
        scores["adaptive_gradient"] = candidates[best]
        candidates["unaware"] = scores["unaware"]
        best = min(candidates, key=lambda key: mean_dice(candidates[key]))
        scores["adaptive"] = candidates[best]
        return {
            "case": case.name,
            "attack": attack_name,
            "defense": name,
            "gradient": "+".join(dict.fromkeys(purifier.gradient for purifier in purifiers)),
            "random": random,
            "samples": self.samples if random else 1,
            "steps": self.adaptive(attack_name, "declared", random).steps,
            "adaptive_by": best,
            "dice": scores,
            "mean": {key: mean_dice(value) for key, value in scores.items()},
            "candidates": {key: mean_dice(value) for key, value in candidates.items()},
            "budgets": budgets,
            "cost": {**cost, "seconds": round(time.perf_counter() - began, 1)},
        }

    def _is_random(self, name: str) -> bool:
        return any(purifier.random for purifier in purifiers_of(self.defenses[name]))

    def _substitutes(self, attack_name: str, name: str) -> list[str]:
        """The backward passes to try, without those that come to the same."""
        if self._is_random(name):
            return ["declared"]
        purifiers = purifiers_of(self.defenses[name])
        different: dict[tuple[str, ...], str] = {}
        for substitute in self.substitutes.get(attack_name, ["declared"]):
            different.setdefault(tuple(_effect(substitute, purifier) for purifier in purifiers), substitute)
        return list(different.values())

    def adaptive(self, attack_name: str, substitute: str, random: bool) -> Attack:
        """The attack of someone who knows the defense."""
        estimator: GradientEstimator = BackwardPassSubstitute(substitute)
        aware = self.longer(attack_name)
        if random:
            aware.steps = self.random_steps.get(attack_name, aware.steps)
        if random:
            estimator = ExpectationOverTransformation(self.samples, estimator)
        aware.gradient = estimator
        return aware

    def longer(self, attack_name: str) -> Attack:
        """The attack with the steps of someone who goes on."""
        attack = copy.copy(self.attacks[attack_name])
        attack.steps = self.adaptive_steps.get(attack_name, attack.steps)
        return attack

    def score(
        self, inferer: Any, image: torch.Tensor, label: torch.Tensor, random: bool = False
    ) -> dict[str, float | None]:
        """Dice per organ, None where an organ is neither in the label nor in the prediction; the mean over the draws
        of a random defense."""
        bound = inferer.for_image(image) if hasattr(inferer, "for_image") else inferer
        plain = as_plain(image)
        rows = []
        for draw in range(self.draws if random else 1):
            with torch.no_grad(), random_draw(SCORING, draw):
                logits = as_plain(self.network(plain) if bound is None else bound(plain, self.network))
            rows.append(organ_dice(hard_prediction(logits, "softmax"), as_plain(label), self.organs))
        return {name: mean_defined(row[name] for row in rows) for name in self.organs.values()}


def _effect(substitute: str, purifier: Any) -> str:
    """What a choice of backward pass means for one purifier."""
    if substitute == "declared":
        substitute = DECLARED[purifier.gradient]
    has_own = type(purifier).surrogate is not Purifier.surrogate
    return "identity" if substitute == "surrogate" and not has_own else substitute


class _Case:
    """One case with its undefended attack results: computed when needed, each attack once."""

    def __init__(self, study: PurificationStudy, index: int) -> None:
        self.study = study
        item = study.dataset[index]
        image = item[study.image_key]
        # A data set holds channel-first items; a study on batches of one is given those.
        batch = list_data_collate([item]) if image.ndim <= 4 else item
        self.image, self.label = batch[study.image_key], batch[study.label_key]
        self.name = f"case_{index:03d}"
        self.hash = case_hash(self.image, self.label)
        self._clean: dict[str, float | None] | None = None
        self._last: tuple[str, AttackResult, dict[str, float | None]] | None = None
        self._longer: tuple[str, dict[str, float | None]] | None = None

    def clean_undefended(self) -> dict[str, float | None]:
        """Scores of the clean image without a defense."""
        if self._clean is None:
            self._clean = self.study.score(self.study.inferer, self.image, self.label)
        return self._clean

    def undefended(self, attack_name: str) -> AttackResult:
        """The attack without a defense."""
        if self._last is None or self._last[0] != attack_name:
            study = self.study
            study.network.eval()
            result = study.attacks[attack_name](study.network, self.image, self.label, inferer=study.inferer)
            self._last = attack_name, result, study.score(study.inferer, result.adversarial, result.label)
        return self._last[1]

    def undefended_scores(self, attack_name: str) -> dict[str, float | None]:
        """Scores of the undefended attack without a defense."""
        self.undefended(attack_name)
        assert self._last is not None
        return self._last[2]

    def undefended_longer(self, attack_name: str) -> dict[str, float | None]:
        """Scores without a defense when the undefended attack goes on; the worse of both per case."""
        if self._longer is None or self._longer[0] != attack_name:
            study, before = self.study, self.undefended(attack_name)
            result = study.longer(attack_name)(
                study.network, self.image, self.label, inferer=study.inferer, start=before.parameters
            )
            scores = [study.score(study.inferer, result.adversarial, result.label), self.undefended_scores(attack_name)]
            self._longer = attack_name, min(scores, key=mean_dice)
        return self._longer[1]
