# SPDX-License-Identifier: Apache-2.0
"""Several trainings of one bundle, each attacked on the same held-out cases."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import list_data_collate
from torch import nn

import monai_adversarial
from monai_adversarial.attacks import Attack
from monai_adversarial.metrics import organ_names
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.dual_normalization import has_dual_normalization, normalization
from monai_adversarial.studies.labeled_classes import labeled_organs, unlabeled_fact, values_of_all
from monai_adversarial.studies.measurement import (
    LABEL,
    common_settings,
    measured_budgets,
    measurement_record,
    norm_of,
)
from monai_adversarial.studies.predictions import finished_prediction, run_attack
from monai_adversarial.studies.records import read_json, safe_name, write_json
from monai_adversarial.studies.reports.training_report import TrainingReport
from monai_adversarial.studies.scoring import DiceScores, device_of, dice_of, listed_names, mean_dice
from monai_adversarial.studies.study import Cell, Failure, Study, chosen_names
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import case_hash, describe, file_hash, fingerprint
from monai_adversarial.utils.shown_names import printable
from monai_adversarial.utils.validation import check_count
from monai_adversarial.utils.weights import load_weights

__all__ = ["TrainingStudy"]

CLEAN = "clean"
DOMAINS = ("clean", "adversarial")  # branches of dual normalization


@dataclass(frozen=True)
class _Network:
    """One trained network, seen through one branch of its normalization."""

    training: str
    domain: str
    seed: int

    @property
    def name(self) -> str:
        """Its name in cells and records."""
        return f"{self.training}_{self.domain}_seed{self.seed}"


class TrainingStudy(Study):
    """Trains a bundle in several ways and with several seeds, and attacks every network on the same cases.

    A training is a list of config files: the bundle's train config and its overlays. It runs as
    ``python -m monai.bundle run`` in a process of its own, once; its weights stay in ``output_dir/weights``. A network
    with dual normalization is attacked twice, once through each branch. A cell is one case under one attack against
    one network. Finished trainings and cells are not run again as long as configs, weights, this attack and the package
    version are the same; training data are not looked at. A training or a case that fails does not stop the others
    (see ``Study``); only cases that every attack has finished are in the tables.

    Scores are the mean Dice over the foreground classes; a class absent from both label and prediction is left out, a
    class in only one of them counts 0, and classes that no label holds are not scored, which is said. Labels move with
    geometric attacks. ``worst`` is, per case, the lowest Dice over all attacks that are marked as intensity attacks by
    ``worst_of``.

    >>> import tempfile
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.studies import TrainingStudy
    >>> trainings = {"clean": ["configs/train.json"], "pgd": ["configs/train.json", "configs/adversarial.json"]}
    >>> with tempfile.TemporaryDirectory() as bundle:
    ...     TrainingStudy(trainings, [], {"pgd": PGD(8, "HU")}, bundle, f"{bundle}/out", ["background", "spleen"])
    Traceback (most recent call last):
    FileNotFoundError: ...

    Args:
        trainings: name -> config files, relative to the bundle's root.
        dataset: held-out items with ``image`` (channel first) and ``label``.
        attacks: name -> attack, or a sequence of attacks of which the worst counts per case.
        bundle_root: the bundle.
        output_dir: weights, logs, records, ``training.csv``, ``training_cases.csv``, ``training.md``, ``training.png``.
        class_names: names of the network's classes, background first.
        seeds: of the trainings.
        worst_of: names of the attacks that ``worst`` joins; None for all.
        overrides: further keys of the train configs, for example ``{"max_epochs": 2}``.
        network_key: key of the network in the configs.
        data_name: what the tables call the cases.
        seed: of the bootstrap.
        progress: show progress bars.

    Raises:
        TypeError, ValueError: for arguments that do not fit, in one sentence.
        FileNotFoundError: for a missing config file.
    """

    needs_case = True

    def __init__(
        self,
        trainings: Mapping[str, Sequence[str]],
        dataset: Any,
        attacks: Mapping[str, Attack | Sequence[Attack]],
        bundle_root: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | Mapping[Any, str],
        seeds: Sequence[int] = (0, 1),
        worst_of: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        network_key: str = "network",
        data_name: str = "cases",
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__(output_dir, progress)
        if not trainings:
            raise ValueError("trainings must map at least one name to config files, got none.")
        self.bundle_root = Path(bundle_root)
        self.trainings = {name: [self.bundle_root / path for path in paths] for name, paths in trainings.items()}
        for name, paths in self.trainings.items():
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise FileNotFoundError(f"trainings[{name!r}] names a config file that is missing: {missing[0]}.")
        self.attacks = {
            name: tuple(attack) if isinstance(attack, (list, tuple)) else (attack,) for name, attack in attacks.items()
        }
        if not self.attacks:
            raise TypeError("attacks must map at least one name to an Attack or several, got none.")
        for name, members in self.attacks.items():
            if not members or not all(isinstance(member, Attack) for member in members):
                raise TypeError(f"attacks[{name!r}] must be an Attack or several.")
        self.worst_of = list(self.attacks) if worst_of is None else list(worst_of)
        unknown = [name for name in self.worst_of if name not in self.attacks]
        if unknown:
            raise ValueError(f"worst_of names {unknown[0]!r}, which is not among the attacks {list(self.attacks)}.")
        self.dataset, self.overrides, self.network_key = dataset, dict(overrides or {}), network_key
        self.class_names, self.classes = class_names, organ_names(class_names)
        self.seeds = [check_count("seeds", one, minimum=0) for one in seeds]
        self._hashes: dict[str, str] = {}
        self._weight_hashes: dict[tuple[str, int], str] = {}
        self._networks = {
            made.name: made
            for name in self.trainings
            for domain in DOMAINS
            for one in self.seeds
            for made in (_Network(name, domain, one),)
        }
        self._opened: AttackedModel | None = None
        # What is said of the model once the labels were read.
        self._of_labels: dict[str, Any] | None = None
        self._attack_settings = {key: [describe(member) for member in members] for key, members in self.attacks.items()}
        self.data_name, self.seed = data_name, check_count("seed", seed, minimum=0)

    def run(self, selected: Sequence[str] | str | None = None, seeds: Sequence[int] | None = None) -> dict[str, Any]:
        """Train and attack what is missing, then report on everything that is there.

        Args:
            selected: names of trainings, a list or one string separated by commas; None for all. Several processes may
                share the work so.
            seeds: of the trainings to run; None for all.

        Returns:
            rows of the table as ``{"rows": [...]}``.

        Raises:
            ValueError: for a name that is no training.
            StudyError: where trainings or cases failed; the message names the log of a training.
        """
        chosen = chosen_names("training", selected, self.trainings)
        wanted_seeds = self.seeds if seeds is None else [one for one in self.seeds if one in list(seeds)]
        self.make_folder()
        wanted: list[Cell] = []
        failures: list[Failure] = []
        for one in wanted_seeds:
            for name in chosen:
                cells = self._cells_of(_Network(name, CLEAN, one))
                try:
                    self.train(name, one)
                    dual = has_dual_normalization(self.network(name, self._weights(name, one)[0]))
                except OSError:  # what cannot be written concerns all trainings
                    raise
                except Exception as error:
                    wanted += cells
                    failures += [self._fail(cell, error, keep=True, of_case=False) for cell in cells]
                    continue
                cells += self._cells_of(_Network(name, DOMAINS[1], one)) if dual else []
                self.title = f"{name}, seed {one}"
                wanted += cells
                failures += self.run_cells(cells)
        return self.finish(wanted, failures)

    def cells(self) -> list[Cell]:
        """Every case under every attack against every network; those of branches that a network lacks never run."""
        return [cell for network in self._networks.values() for cell in self._cells_of(network)]

    def _cells_of(self, network: _Network) -> list[Cell]:
        return [
            Cell(f"case_{index:03d}", attack, network=network.name)
            for index in range(len(self.dataset))
            for attack in self.attacks
        ]

    def forget(self) -> None:
        """Weights may have been trained again; the held-out cases are read once."""
        super().forget()
        self._weight_hashes.clear()
        if self._of_labels is None and (values := values_of_all(self.dataset, "label")):
            found = labeled_organs(self.classes, values)
            absent = [name for index, name in self.classes.items() if index not in found]
            self._of_labels = {}
            if absent:
                fact = unlabeled_fact(found.values(), absent)
                self._of_labels = {"scored_classes": list(found.values()), "facts": [fact]}
                print(printable(fact), flush=True)
            self.classes = found

    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the tables and the figure."""
        report = TrainingReport(self.joined(records), list(self.attacks), self.worst_of, self.data_name, self.seed)
        report.write(self.output_dir)
        print(printable(f"\n{report.table()}\n\nresults in {self.output_dir}"), flush=True)
        return {"rows": report.rows()}

    def joined(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One entry per network and case that every attack has finished: Dice without an attack, and under each."""
        found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
        for record in records:
            found.setdefault((record["network"], record["case"]), {})[record["attack"]] = record
        entries = []
        for (network, case), of_attack in found.items():
            if len(of_attack) < len(self.attacks):
                continue
            first = next(iter(of_attack.values()))
            scores = {CLEAN: first["scores"][CLEAN]}
            scores |= {attack: of_attack[attack]["scores"]["adversarial"] for attack in self.attacks}
            dice = {part: {name: one["dice"] for name, one in of_part.items()} for part, of_part in scores.items()}
            mean = {part: mean_dice(of_part) for part, of_part in scores.items()}
            known = [value for key in (CLEAN, *self.worst_of) if (value := mean[key]) is not None]
            mean["worst"] = min(known, default=None)
            seed = self._networks[network].seed
            entries.append({"training": first["training"], "seed": seed, "case": case, "dice": dice, "mean": mean})
        return entries

    def train(self, name: str, seed: int) -> Path:
        """Train one network unless its weights are there; returns their path."""
        path, note = self._weights(name, seed)
        self._weight_hashes.pop((name, seed), None)
        if self._is_trained(name, seed):
            return path
        log = self.output_dir / "logs" / f"{name}_seed{seed}.log"
        for made in (path.parent, log.parent):
            made.mkdir(parents=True, exist_ok=True)
        if self.progress:
            print(f"training {name!r} with seed {seed} (log: {log}) ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        with replace_when_complete(path) as temporary:
            command = [sys.executable, "-m", "monai.bundle", "run"]
            command += ["--config_file", str([str(config) for config in self.trainings[name]])]
            options = {
                "bundle_root": str(self.bundle_root),
                "ckpt_dir": str(Path(temporary).parent),
                "weights_name": Path(temporary).name,
                "seed": seed,
                **self.overrides,
            }
            for key, value in options.items():
                command += [f"--{key}", str(value)]
            with open(log, "w", encoding="utf-8") as stream:
                done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
            if done.returncode != 0:
                last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
                raise RuntimeError(f"training {name!r} with seed {seed} failed ({' '.join(last)}): see {log}.")
        note_of = {
            "fingerprint": self._training_mark(name, seed),
            "weights": file_hash(path),
            "seconds": round(time.perf_counter() - began, 1),
        }
        write_json(note, note_of)
        self._weight_hashes.pop((name, seed), None)
        return path

    def _weights(self, name: str, seed: int) -> tuple[Path, Path]:
        stem = self.output_dir / "weights" / f"{name}_seed{seed}"
        return stem.with_suffix(".pt"), stem.with_suffix(".json")

    def _training_mark(self, name: str, seed: int) -> str:
        return fingerprint(
            {
                "configs": [config.read_text(encoding="utf-8") for config in self.trainings[name]],
                "overrides": describe(self.overrides),
                "seed": seed,
                "version": monai_adversarial.__version__,
            }
        )

    def _is_trained(self, name: str, seed: int) -> bool:
        path, note = self._weights(name, seed)
        known = read_json(note)
        if not isinstance(known, dict) or known.get("fingerprint") != self._training_mark(name, seed):
            return False
        # Weights that somebody put in their place were not trained so.
        return path.is_file() and known.get("weights") == self._weight_hash(_Network(name, CLEAN, seed))

    def network(self, name: str, weights: Path) -> nn.Module:
        """The trained network, in evaluation mode."""
        parser = ConfigParser()
        parser.read_config([str(config) for config in self.trainings[name]])
        parser["bundle_root"] = str(self.bundle_root)
        parser.parse()
        if "imports" in parser:
            parser.get_parsed_content("imports")
        network = parser.get_parsed_content(self.network_key)
        return load_weights(network, weights).eval()

    @contextmanager
    def network_scope(self, network: str) -> Iterator[None]:
        """The trained network, through one branch of its normalization."""
        made = self._networks[network]
        module = self.network(made.training, self._weights(made.training, made.seed)[0])
        self._opened = AttackedModel(module, class_names=listed_names(self.class_names), **(self._of_labels or {}))
        try:
            with normalization(module, made.domain):
                yield
        finally:
            self._opened = None

    def record_path(self, cell: Cell) -> Path:
        """One folder per network and case."""
        folders = (safe_name(cell.network), safe_name(cell.case))
        return self.output_dir.joinpath("records", *folders, f"{safe_name(cell.attack)}.json")

    def source(self, case: str) -> str | None:
        """The file of the image, where the data set knows it."""
        entries = getattr(self.dataset, "data", None)
        entry = entries[_index_of(case)] if isinstance(entries, Sequence) else None
        found = entry.get("image") if isinstance(entry, Mapping) else None
        return str(found) if isinstance(found, (str, os.PathLike)) else None

    def knows(self, case: str) -> bool:
        """Whether the case has been read."""
        return case in self._hashes

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Weights, branch, attack and the content of the case."""
        network = self._networks[cell.network]
        if not self._is_trained(network.training, network.seed):
            raise FileNotFoundError(f"there are no weights of training {network.training!r}, seed {network.seed}.")
        if cell.case not in self._hashes:
            self.load(cell.case)
        return {
            **common_settings(),
            "weights": self._weight_hash(network),
            "domain": network.domain,
            "attack_settings": self._attack_settings[cell.attack],
            "hash": self._hashes[cell.case],
            "classes": self.classes,
        }

    def _weight_hash(self, network: _Network) -> str:
        key = network.training, network.seed
        if key not in self._weight_hashes:
            self._weight_hashes[key] = file_hash(self._weights(*key)[0])
        return self._weight_hashes[key]

    def load(self, case: str) -> Any:
        """The batch of one case."""
        batch = list_data_collate([self.dataset[_index_of(case)]])
        self._hashes[case] = case_hash(batch["image"], batch["label"])
        return {"image": batch["image"], "label": batch["label"], CLEAN: None}

    def compute(self, cell: Cell, case: dict[str, Any]) -> dict[str, Any]:
        """Scores without an attack, and under the member of the attack that does most harm."""
        model, network = self._opened, self._networks[cell.network]
        assert model is not None
        began = time.perf_counter()
        device = device_of(model)
        image, label = case["image"].to(device), case["label"].to(device)
        worst: DiceScores = {}
        strongest, budgets = self.attacks[cell.attack][0], {}
        cost = {"forwards": 0, "backwards": 0}
        for member in self.attacks[cell.attack]:
            result = run_attack(member, model, image, label)
            if case[CLEAN] is None:
                case[CLEAN] = dice_of(result.clean_prediction, label, self.classes)
            found = dice_of(finished_prediction(model, result), result.label, self.classes)
            cost = {key: value + getattr(result, key) for key, value in cost.items()}
            if not worst or _mean(found) < _mean(worst):
                worst, strongest = found, member
                budgets = measured_budgets(result.budgets, norm_of(member))
        dual = has_dual_normalization(model.network)
        return measurement_record(
            cell,
            strongest,
            model,
            reference=LABEL,
            scores={CLEAN: case[CLEAN], "adversarial": worst},
            measurements=budgets,
            cost={**cost, "seconds": round(time.perf_counter() - began, 1)},
            hashes={"inputs": self._hashes[cell.case], "network": [self._weight_hash(network)]},
            training=f"{network.training}, {network.domain} branch" if dual else network.training,
            seed=network.seed,
        )


def _index_of(case: str) -> int:
    return int(case.removeprefix("case_"))


def _mean(scores: DiceScores) -> float:
    """Mean Dice; a case without any organ is not a success of an attack."""
    mean = mean_dice(scores)
    return math.inf if mean is None else mean
