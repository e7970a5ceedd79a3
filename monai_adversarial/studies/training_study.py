# SPDX-License-Identifier: Apache-2.0
"""Several trainings of one bundle, each attacked on the same held-out cases."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from torch import nn
from tqdm import tqdm

import monai_adversarial
from monai_adversarial.attacks import Attack
from monai_adversarial.metrics import organ_names
from monai_adversarial.metrics.batch_dice import hard_prediction
from monai_adversarial.metrics.study_dice import mean_dice, organ_dice
from monai_adversarial.networks.dual_normalization import has_dual_normalization, normalization
from monai_adversarial.studies.records import read_json, write_json
from monai_adversarial.studies.reports.training_report import TrainingReport
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import case_hash, describe, file_hash, fingerprint
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count
from monai_adversarial.utils.weights import load_weights

__all__ = ["TrainingStudy"]

RECORD_VERSION = 2
CLEAN = "clean"
DOMAINS = ("clean", "adversarial")  # branches of dual normalization


class TrainingStudy:
    """Trains a bundle in several ways and with several seeds, and attacks every network on the same cases.

    A training is a list of config files: the bundle's train config and its overlays. It runs as
    ``python -m monai.bundle run`` in a process of its own, once; its weights stay in ``output_dir/weights``. A network
    with dual normalization is attacked twice, once through each branch. Finished trainings, and finished attacks on a
    case, are not run again as long as configs, weights, this attack and the package version are the same; training data
    are not looked at.

    Scores are the mean Dice over the foreground classes; a class absent from both label and prediction is left out, a
    class in only one of them counts 0. Labels move with geometric attacks. ``worst`` is, per case, the lowest Dice over
    all attacks that are marked as intensity attacks by ``worst_of``.

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
        RuntimeError: when a training fails; the message names its log.
    """

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
        if not trainings:
            raise ValueError("trainings must map at least one name to config files, got none.")
        self.bundle_root, self.output_dir = Path(bundle_root), Path(output_dir)
        self.trainings = {name: [self.bundle_root / path for path in paths] for name, paths in trainings.items()}
        for name, paths in self.trainings.items():
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise FileNotFoundError(f"trainings[{name!r}] names a config file that is missing: {missing[0]}.")
        self.attacks = {
            name: tuple(attack) if isinstance(attack, (list, tuple)) else (attack,) for name, attack in attacks.items()
        }
        for name, members in self.attacks.items():
            if not members or not all(isinstance(member, Attack) for member in members):
                raise TypeError(f"attacks[{name!r}] must be an Attack or several.")
        self.worst_of = list(self.attacks) if worst_of is None else list(worst_of)
        unknown = [name for name in self.worst_of if name not in self.attacks]
        if unknown:
            raise ValueError(f"worst_of names {unknown[0]!r}, which is not among the attacks {list(self.attacks)}.")
        self.dataset, self.overrides, self.network_key = dataset, dict(overrides or {}), network_key
        self.classes = organ_names(class_names)
        self.seeds = [check_count("seeds", one, minimum=0) for one in seeds]
        self._case_hashes: dict[int, str] = {}
        self._attack_settings = {key: [describe(member) for member in members] for key, members in self.attacks.items()}
        self.data_name, self.seed, self.progress = data_name, check_count("seed", seed, minimum=0), bool(progress)

    def run(self, selected: Sequence[str] | str | None = None, seeds: Sequence[int] | None = None) -> dict[str, Any]:
        """Train and attack what is missing, then report on everything that is there.

        Args:
            selected: names of trainings, a list or one string separated by commas; None for all. Several processes may
                share the work so.
            seeds: of the trainings to run; None for all.

        Returns:
            rows of the table as ``{"rows": [...]}``.
        """
        if isinstance(selected, str):
            selected = [name.strip() for name in selected.split(",") if name.strip()]
        chosen = list(self.trainings) if selected is None else list(selected)
        unknown = [name for name in chosen if name not in self.trainings]
        if unknown:
            raise ValueError(f"there is no training {unknown[0]!r}: choose among {', '.join(self.trainings)}.")
        wanted_seeds = self.seeds if seeds is None else [one for one in self.seeds if one in list(seeds)]
        for one in wanted_seeds:
            for name in chosen:
                self._attack_all(name, one, self.train(name, one))
        report = TrainingReport(self.records(), list(self.attacks), self.worst_of, self.data_name, self.seed)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        report.write(self.output_dir)
        print(f"\n{report.table()}\n\nresults in {self.output_dir}", flush=True)
        return {"rows": report.rows()}

    def train(self, name: str, seed: int) -> Path:
        """Train one network unless its weights are there; returns their path."""
        path, note = self._weights(name, seed)
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
        write_json(
            note, {"fingerprint": self._training_mark(name, seed), "seconds": round(time.perf_counter() - began, 1)}
        )
        return path

    def _weights(self, name: str, seed: int) -> tuple[Path, Path]:
        stem = self.output_dir / "weights" / f"{name}_seed{seed}"
        return stem.with_suffix(".pt"), stem.with_suffix(".json")

    def _training_mark(self, name: str, seed: int) -> str:
        return fingerprint(
            {
                "configs": [config.read_text() for config in self.trainings[name]],
                "overrides": describe(self.overrides),
                "seed": seed,
                "version": monai_adversarial.__version__,
            }
        )

    def _is_trained(self, name: str, seed: int) -> bool:
        path, note = self._weights(name, seed)
        known = read_json(note)
        return (
            isinstance(known, dict) and known.get("fingerprint") == self._training_mark(name, seed) and path.is_file()
        )

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

    def _attack_all(self, name: str, seed: int, weights: Path) -> None:
        network = self.network(name, weights)
        digest = file_hash(weights)
        for domain in DOMAINS if has_dual_normalization(network) else ("clean",):
            title = f"{name}, {domain} branch" if has_dual_normalization(network) else name
            with normalization(network, domain):
                cases = range(len(self.dataset))
                for index in tqdm(
                    cases, desc=f"{title}, seed {seed}", unit="case", disable=not self.progress, file=sys.stderr
                ):
                    self._unit(network, digest, name, title, domain, seed, index)

    def _path(self, name: str, domain: str, seed: int, index: int) -> Path:
        return self.output_dir / "records" / f"{name}_{domain}_seed{seed}" / f"case_{index:03d}.json"

    def records(self) -> list[dict[str, Any]]:
        """All finished cases that still hold, in the order of the trainings: those of present weights, attacks and
        cases."""
        found = []
        for name in self.trainings:
            for domain in DOMAINS:
                for seed in self.seeds:
                    if not self._is_trained(name, seed):
                        continue
                    digest = file_hash(self._weights(name, seed)[0])
                    for index in range(len(self.dataset)):
                        record = read_json(self._path(name, domain, seed, index))
                        parts = self._valid_parts(record, digest, domain, index)
                        if len(parts) == 1 + len(self.attacks):
                            mean = record["mean"]
                            scored = [mean[key] for key in (CLEAN, *self.worst_of) if mean[key] is not None]
                            mean["worst"] = min(scored, default=None)
                            found.append(record)
        return found

    def _valid_parts(self, record: Any, digest: str, domain: str, index: int) -> list[str]:
        """``"clean"`` and the attacks whose results in a record still hold."""
        marks = record.get("fingerprints") if isinstance(record, dict) else None
        if not isinstance(marks, dict):
            return []
        return [part for part in (CLEAN, *self.attacks) if marks.get(part) == self._mark(digest, domain, index, part)]

    def _mark(self, digest: str, domain: str, index: int, part: str) -> str:
        if index not in self._case_hashes:
            batch = self._batch(index)
            self._case_hashes[index] = case_hash(batch["image"], batch["label"])
        return fingerprint(
            {
                "record": RECORD_VERSION,
                "version": monai_adversarial.__version__,
                "weights": digest,
                "domain": domain,
                "attack": self._attack_settings.get(part),
                "case": self._case_hashes[index],
                "classes": self.classes,
            }
        )

    def _batch(self, index: int) -> Any:
        return list_data_collate([self.dataset[index]])

    def _unit(self, network: nn.Module, digest: str, name: str, title: str, domain: str, seed: int, index: int) -> None:
        path = self._path(name, domain, seed, index)
        known = read_json(path)
        valid = self._valid_parts(known, digest, domain, index)
        missing = [part for part in (CLEAN, *self.attacks) if part not in valid]
        if not missing:
            return
        batch = self._batch(index)
        image, label = batch["image"], batch["label"]
        done = known["attacks"] if valid else {}
        parts = {part: done[part] for part in valid}
        marks = {part: self._mark(digest, domain, index, part) for part in valid}
        path.parent.mkdir(parents=True, exist_ok=True)
        for part in missing:
            if part == CLEAN:
                parts[part] = {"dice": self._dice(network, image, label)}
            else:
                parts[part] = self._attacked(self.attacks[part], network, image, label)
            marks[part] = self._mark(digest, domain, index, part)
            write_json(path, self._record(marks, parts, title, seed, index))

    def _attacked(
        self, members: Sequence[Attack], network: nn.Module, image: torch.Tensor, label: torch.Tensor
    ) -> dict[str, Any]:
        """Scores under the member that does most harm."""
        began = time.perf_counter()
        worst: dict[str, Any] = {}
        cost = {"forwards": 0, "backwards": 0}
        for member in members:
            result = member(network, image, label)
            found = self._dice(network, result.adversarial, result.label)
            cost = {key: value + getattr(result, key) for key, value in cost.items()}
            if not worst or mean_dice(found) < mean_dice(worst["dice"]):
                worst = {"dice": found, "budgets": {key: float(m.values[0]) for key, m in result.budgets.items()}}
        return {**worst, "cost": {**cost, "seconds": round(time.perf_counter() - began, 1)}}

    def _record(
        self, marks: Mapping[str, str], parts: Mapping[str, Any], title: str, seed: int, index: int
    ) -> dict[str, Any]:
        ordered = [part for part in (CLEAN, *self.attacks) if part in parts]
        return {
            "fingerprints": dict(marks),
            "training": title,
            "seed": seed,
            "case": f"case_{index:03d}",
            "dice": {part: parts[part]["dice"] for part in ordered},
            "mean": {part: mean_dice(parts[part]["dice"]) for part in ordered},
            "attacks": {part: parts[part] for part in ordered},
        }

    def _dice(self, network: nn.Module, image: torch.Tensor, label: torch.Tensor) -> dict[str, float | None]:
        with torch.no_grad():
            logits = as_plain(network(as_plain(image)))
        found = organ_dice(hard_prediction(logits, "softmax"), as_plain(label), self.classes)
        return dict(found)
