# SPDX-License-Identifier: Apache-2.0
"""What purifiers cost on clean scans, and what they are worth against attackers who do and do not know them."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate

from monai_adversarial.attacks import (
    Attack,
    AttackResult,
    BackwardPassSubstitute,
    ExpectationOverTransformation,
    GradientEstimator,
)
from monai_adversarial.inferers.purified import purifiers_of, purifies_at_random
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.models import AttackedModel
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.studies.labeled_classes import scored_where_labeled, values_of_all
from monai_adversarial.studies.measurement import (
    LABEL,
    common_settings,
    measured_budgets,
    measurement_record,
    model_settings,
    network_hashes,
    norm_of,
)
from monai_adversarial.studies.predictions import finished_prediction, run_attack
from monai_adversarial.studies.records import safe_name
from monai_adversarial.studies.reports.purification_report import PurificationReport
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.studies.scoring import (
    DiceScores,
    device_of,
    dice_of,
    mean_dice,
    named_model,
    predict,
    scored_organs,
)
from monai_adversarial.studies.study import UNDEFENDED, Cell, Failure, Study, chosen_names
from monai_adversarial.utils.backward_pass import DECLARED, SUBSTITUTES
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.hashing import case_hash, describe
from monai_adversarial.utils.shown_names import printable
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["PurificationStudy"]

# Draws of the defender when a finished image is scored; an attacker's draws have other numbers.
SCORING = 1_000_003


class PurificationStudy(Study):
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
    them counts 0, and organs that no label of the dataset holds are not scored, which is said. Random defenses are
    scored as the mean of ``draws`` draws that no attacker saw. A cell is one case under one attack with one defense;
    finished cells (with the same defense, attack, model, image and package version) are not run again, and one bad case
    does not stop the others (see ``Study``).

    >>> import tempfile
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.purifiers import GaussianDenoise, MedianDenoise
    >>> from monai_adversarial.studies import PurificationStudy, place_purifiers
    >>> model, image, label = example_case(16)
    >>> defenses = place_purifiers(model.inferer, {"gaussian": GaussianDenoise(), "median": MedianDenoise()})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = PurificationStudy(
    ...         model, [{"image": image[0], "label": label[0]}], defenses, {"pgd": PGD(16, "HU", steps=2)}, folder,
    ...         class_names=EXAMPLE_CLASSES, progress=False,
    ...     )
    ...     cells = study.cells()
    >>> [(cell.attack, cell.defense) for cell in cells]
    [('pgd', 'gaussian'), ('pgd', 'median')]

    Args:
        model: what is attacked: an ``AttackedModel`` with the undefended inferer, or a bare network.
        dataset: items with ``image`` (channel first, in the units of the attacks) and ``label``, as loaded by MONAI's
            ``Dataset``, or batches of one of them.
        defenses: name -> inferer with the purifier(s) in it, which takes the place of the model's.
        attacks: name -> attack.
        output_dir: for ``purification.csv``, ``purification_cases.csv``, ``purification.png``, ``purification.md`` and
            the records.
        class_names: names of the network's classes, background first; None for those of the model.
        organs: names of the classes that are scored; None for all that the labels hold.
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

    needs_case = True

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        dataset: Any,
        defenses: Mapping[str, Any],
        attacks: Mapping[str, Attack],
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
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
        super().__init__(output_dir, progress)
        without = [name for name, defended in defenses.items() if not purifiers_of(defended)]
        if without or not defenses or UNDEFENDED in defenses:
            raise TypeError(
                "defenses must map names (other than 'undefended') to inferers with a PurifiedInferer in them, "
                f"got {without or list(defenses)}."
            )
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks.values()):
            raise TypeError("attacks must map at least one name to an Attack.")
        self.model = named_model(model, class_names)
        names = scored_organs(self.model)
        unknown = [organ for organ in organs or () if organ not in names.values()]
        if unknown:
            raise ValueError(f"organs must be among {', '.join(names.values())}, got {unknown[0]!r}.")
        self.dataset, self.defenses, self.attacks = dataset, dict(defenses), dict(attacks)
        self.organs = {index: name for index, name in names.items() if organs is None or name in organs}
        self._look_at_labels = organs is None and self.model.scored_classes is None
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
        self.data_name, self.seed = data_name, check_count("seed", seed, minimum=0)
        self.title = data_name
        self.image_key, self.label_key = image_key, label_key
        self._hashes: dict[str, str] = {}
        self._shared: dict[str, Any] = {}
        self._networks: list[str] = []

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

        Raises:
            ValueError: for a name that is no defense.
            StudyError: where cells failed; the others are done and in the tables.
        """
        chosen = chosen_names("defense", selected, self.defenses)
        wanted = [cell for cell in self.cells() if cell.defense in chosen]
        return self.finish(wanted, self.run_cells(wanted))

    def cells(self) -> list[Cell]:
        """Every case under every attack with every defense."""
        return [
            Cell(f"case_{index:03d}", attack, defense)
            for index in range(len(self.dataset))
            for attack in self.attacks
            for defense in self.defenses
        ]

    def forget(self) -> None:
        """Read images and weights anew."""
        super().forget()
        self._hashes.clear()
        if self._look_at_labels and (values := values_of_all(self.dataset, self.label_key)):
            self._look_at_labels = False
            self.model, absent = scored_where_labeled(self.model, values)
            self.organs = scored_organs(self.model)
            if absent:
                print(printable(self.model.facts[-1]), flush=True)
        self._networks = network_hashes(self.model)
        self._shared = {**common_settings(), "model": model_settings(self.model), "organs": self.organs}

    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the tables and the figure."""
        report = PurificationReport(records, self.data_name, self.seed)
        report.write(self.output_dir)
        print(printable(f"\n{report.table()}\n\nresults in {self.output_dir}"), flush=True)
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

    def record_path(self, cell: Cell) -> Path:
        """One folder per defense."""
        name = f"{safe_name(cell.attack)}_{safe_name(cell.case)}.json"
        return self.output_dir / "records" / safe_name(cell.defense) / name

    def source(self, case: str) -> str | None:
        """The file of the image, where the data set knows it."""
        entries = getattr(self.dataset, "data", None)
        entry = entries[_index_of(case)] if isinstance(entries, Sequence) else None
        found = entry.get(self.image_key) if isinstance(entry, Mapping) else None
        return str(found) if isinstance(found, (str, os.PathLike)) else None

    def knows(self, case: str) -> bool:
        """Whether the case has been read."""
        return case in self._hashes

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Model, defense, attack, the two attackers' steps and the content of the case."""
        if not self._shared:
            self.forget()
        if cell.case not in self._hashes:
            self.load(cell.case)
        attack, random = self.attacks[cell.attack], self._is_random(cell.defense)
        return {
            **self._shared,
            "defense_settings": describe(self.defenses[cell.defense]),
            "attack_settings": [repr(type(attack)), describe(attack)],
            "hash": self._hashes[cell.case],
            "steps": self.adaptive(cell.attack, "declared", random).steps,
            "longer": self.longer(cell.attack).steps,
            "study": [
                self._substitutes(cell.attack, cell.defense),
                *([self.samples, self.draws] if random else []),
            ],
        }

    def load(self, case: str) -> _Case:
        """The case, whose undefended attacks are computed when they are needed."""
        loaded = _Case(self, _index_of(case))
        self._hashes[case] = loaded.hash
        return loaded

    def defended(self, name: str) -> AttackedModel:
        """The model behind a defense."""
        return self.model.replace(inferer=self.defenses[name])

    def compute(self, cell: Cell, case: _Case) -> dict[str, Any]:
        """All columns of one cell."""
        began = time.perf_counter()
        attack_name, name = cell.attack, cell.defense
        inferer, model = self.defenses[name], self.defended(name)
        purifiers = purifiers_of(inferer)
        random = self._is_random(name)
        unaware = case.undefended(attack_name)
        scores: dict[str, DiceScores] = {
            "clean_undefended": case.undefended_scores(attack_name)["clean"],
            "undefended": case.undefended_scores(attack_name)["undefended"],
            "undefended_longer": case.undefended_longer(attack_name),
            "unaware": self.score(inferer, unaware.adversarial, unaware.label),
        }
        candidates, cost = {}, {"forwards": 0, "backwards": 0}
        norm = norm_of(self.attacks[attack_name])
        budgets = {"unaware": measured_budgets(unaware.budgets, norm)}
        for substitute in self._substitutes(attack_name, name):
            aware = self.adaptive(attack_name, substitute, random)
            result = run_attack(aware, model, case.image, case.label, start=unaware.parameters)
            cost = {key: cost[key] + getattr(result, key) for key in cost}
            candidates[substitute] = self.score_finished(inferer, result)
            if "clean" not in scores:
                scores["clean"] = self.score_clean(inferer, result, case)
            budgets[substitute] = measured_budgets(result.budgets, norm)
        best = min(candidates, key=lambda key: _height(candidates[key]))
        scores["adaptive_gradient"] = candidates[best]
        candidates["unaware"] = scores["unaware"]
        best = min(candidates, key=lambda key: _height(candidates[key]))
        scores["adaptive"] = candidates[best]
        return measurement_record(
            cell,
            self.attacks[attack_name],
            self.model,
            reference=LABEL,
            scores=scores,
            adversarial="adaptive",
            measurements=budgets[best],
            cost={**cost, "seconds": round(time.perf_counter() - began, 1)},
            hashes={"inputs": case.hash, "network": self._networks},
            gradient="+".join(dict.fromkeys(purifier.gradient for purifier in purifiers)),
            random=random,
            samples=self.samples if random else 1,
            steps=self.adaptive(attack_name, "declared", random).steps,
            adaptive_by=best,
            candidates={key: mean_dice(value) for key, value in candidates.items()},
        )

    def _is_random(self, name: str) -> bool:
        return purifies_at_random(self.defenses[name])

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

    def score(self, inferer: Any, image: torch.Tensor, label: torch.Tensor) -> DiceScores:
        """Dice per organ, None where an organ is neither in the label nor in the prediction; the mean over the draws
        of a random defense."""
        model = self.model.replace(inferer=inferer)
        rows = []
        for draw in range(self.draws if purifies_at_random(inferer) else 1):
            with random_draw(SCORING, draw):
                prediction = predict(model, image)
            rows.append(self._dice(prediction, label))
        means = {name: mean_of_defined(row[name]["dice"] for row in rows) for name in self.organs.values()}
        return {name: {"dice": mean if mean == mean else None} for name, mean in means.items()}

    def score_finished(self, inferer: Any, result: AttackResult) -> DiceScores:
        """Scores of an attack's image behind the inferer that it attacked: of the prediction that the attack has
        scored, unless the defense is random."""
        if purifies_at_random(inferer):
            return self.score(inferer, result.adversarial, result.label)
        return self._dice(finished_prediction(self.model.replace(inferer=inferer), result), result.label)

    def score_clean(self, inferer: Any, result: AttackResult, case: _Case) -> DiceScores:
        """Scores of the clean image behind the inferer that was attacked."""
        if purifies_at_random(inferer):
            return self.score(inferer, case.image, case.label)
        return self._dice(result.clean_prediction, case.label)

    def _dice(self, prediction: torch.Tensor, label: torch.Tensor) -> DiceScores:
        return dice_of(prediction, label, self.organs, self.model.ignore_index)


def _index_of(case: str) -> int:
    return int(case.removeprefix("case_"))


def _height(scores: DiceScores) -> float:
    """Mean Dice; a case without any organ is not a success of an attack."""
    mean = mean_dice(scores)
    return math.inf if mean is None else mean


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
        device = device_of(study.model)
        self.image, self.label = (batch[key].to(device) for key in (study.image_key, study.label_key))
        self.hash = case_hash(self.image, self.label)
        self._last: tuple[str, AttackResult, dict[str, DiceScores]] | None = None
        self._longer: tuple[str, DiceScores] | None = None

    def undefended(self, attack_name: str) -> AttackResult:
        """The attack without a defense."""
        if self._last is None or self._last[0] != attack_name:
            study, inferer = self.study, self.study.model.inferer
            result = run_attack(study.attacks[attack_name], study.model, self.image, self.label)
            scores = {
                "clean": study.score_clean(inferer, result, self),
                "undefended": study.score_finished(inferer, result),
            }
            self._last = attack_name, result, scores
        return self._last[1]

    def undefended_scores(self, attack_name: str) -> dict[str, DiceScores]:
        """Scores without a defense: of the ``clean`` image, and of the ``undefended`` attack."""
        self.undefended(attack_name)
        assert self._last is not None
        return self._last[2]

    def undefended_longer(self, attack_name: str) -> DiceScores:
        """Scores without a defense when the undefended attack goes on; the worse of both per case."""
        if self._longer is None or self._longer[0] != attack_name:
            study, before = self.study, self.undefended(attack_name)
            longer = study.longer(attack_name)
            result = run_attack(longer, study.model, self.image, self.label, start=before.parameters)
            scores = study.score_finished(study.model.inferer, result)
            self._longer = attack_name, min(scores, self.undefended_scores(attack_name)["undefended"], key=_height)
        return self._longer[1]
