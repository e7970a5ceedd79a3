# SPDX-License-Identifier: Apache-2.0
"""Attacks on a third-party abdominal U-Net and a real labelled CT: the table of ``docs/real_scan.md``.

    python benchmarks/real_scan.py --data ../shared/data

An experiment that was interrupted goes on with the rows that are missing; a row whose settings changed is run again.
Every row is one record below ``--output``; ``--docs`` keeps them in ``docs/real_scan.json`` and makes the page of them.
With ``--rows`` these are added to those that are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.data_folder import data_folder
from benchmarks.doc_tables import DOCS
from monai_adversarial.attacks import PGD, Attack, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.result import CONTROL_STREAM, AttackResult
from monai_adversarial.data.real_scan import LabelledScan, load_labelled_scan
from monai_adversarial.metrics import score_segmentation, score_visibility
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks import AllConvolutionalUNet, ResampledNetwork
from monai_adversarial.studies import Cell, Study, measurement_record
from monai_adversarial.studies.measurement import LABEL, common_settings, measured_budgets, network_hashes, norm_of
from monai_adversarial.studies.scoring import predict
from monai_adversarial.studies.study import Failure
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import case_hash, describe
from monai_adversarial.utils.plain import as_plain

CLASSES = (
    "background",
    "spleen",
    "pancreas",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "duodenum",
)
LIVER = CLASSES.index("liver")
WINDOW = (-160.0, 240.0)
NETWORK_SIZE = (144, 144, 144)
FLIPPED_AXES = (0, 2)
FIRST_SLICE = 60


def find_data(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the scan and the weights: ``given``, MONAI_ADVERSARIAL_DATA, or ``../shared/data``.

    Raises:
        FileNotFoundError: where there is none.
    """
    folder = data_folder(given)
    if not (folder / "abdomen_unet").is_dir() or not (folder / "abdomen_ct").is_dir():
        raise FileNotFoundError(
            f"the data folder must hold abdomen_ct and abdomen_unet, but {str(folder)!r} does not: "
            "pass --data or set MONAI_ADVERSARIAL_DATA."
        )
    return folder


def load_scan(data: Path) -> LabelledScan:
    """The labelled CT, cropped to the abdomen and the body: 122 x 94 x 52 voxels of 3 mm."""
    folder = data / "abdomen_ct"
    return load_labelled_scan(
        folder / "thorax_abdomen_ct.nii.gz", folder / "thorax_abdomen_labels.nii.gz", first_slice=FIRST_SLICE
    )


def load_network(data: Path, fold: int = 2) -> ResampledNetwork:
    """The pretrained U-Net as a function on the scanner's voxels."""
    network = AllConvolutionalUNet().load_weights(data / "abdomen_unet" / f"allconvunet_tcia_fold{fold}.pth")
    return ResampledNetwork(network, NETWORK_SIZE, FLIPPED_AXES).eval()


@dataclass(frozen=True)
class Row:
    """One attack of the table.

    Args:
        name: name of its record.
        title: what the table says.
        budget: what the table says about the budget.
        make: attack from the number of steps and further options of ``Attack``.
        fold: weights to attack; the other fold's are the transfer target.
        network_grid: attack the resampled volume that the network sees instead of the scanner's voxels.
    """

    name: str
    title: str
    budget: str
    make: Callable[..., Attack]
    fold: int = 2
    network_grid: bool = False


def _pgd(epsilon: float, classes: Sequence[int] | None = (LIVER,)) -> Callable[..., Attack]:
    def make(steps: int, **options: Any) -> Attack:
        return PGD(epsilon, units="HU", steps=steps, classes=classes, **options)

    return make


def _bias_field(max_gain: float, domain: str, zero_mean: bool = True) -> Callable[..., Attack]:
    def make(steps: int, **options: Any) -> Attack:
        return BiasFieldAttack(
            max_gain,
            domain=domain,
            zero_mean=zero_mean,
            window=WINDOW if domain == "window" else None,
            steps=steps,
            objective="dice",
            classes=(LIVER,),
            **options,
        )

    return make


def _elastic(max_displacement: float) -> Callable[..., Attack]:
    def make(steps: int, **options: Any) -> Attack:
        return ElasticAttack(
            max_displacement,
            norm="per_axis",
            steps=steps,
            objective="dice",
            classes=(LIVER,),
            **options,
        )

    return make


ROWS = (
    Row("pgd_16", "PGD against the liver", "16 HU", _pgd(16)),
    Row("pgd_8", "PGD against the liver", "8 HU", _pgd(8)),
    Row("pgd_4", "PGD against the liver", "4 HU", _pgd(4)),
    Row("pgd_16_all", "PGD against all organs", "16 HU", _pgd(16, None)),
    Row("bias_window_30", "bias field, display window", "30 % gain", _bias_field(0.3, "window")),
    Row("bias_window_10", "bias field, display window", "10 % gain", _bias_field(0.1, "window")),
    Row("bias_window_10_any_mean", "the same, brightness may change", "10 % gain", _bias_field(0.1, "window", False)),
    Row("bias_attenuation_30", "bias field, attenuation", "30 % gain", _bias_field(0.3, "attenuation")),
    Row("bias_attenuation_3", "bias field, attenuation", "3 % gain", _bias_field(0.03, "attenuation")),
    Row("elastic_5", "diffeomorphic deformation", "5 mm per axis", _elastic(5.0)),
    Row("elastic_3", "diffeomorphic deformation", "3 mm per axis", _elastic(3.0)),
    Row("pgd_16_network_grid", "PGD on the network's own 144³ grid", "16 HU", _pgd(16), network_grid=True),
    Row("pgd_16_fold1", "PGD against the liver, fold 1", "16 HU", _pgd(16), fold=1),
)


PAGE, KEPT = DOCS / "real_scan.md", DOCS / "real_scan.json"
# What the study needs to go on, and no reader of the page.
OF_THE_STUDY = ("fingerprint", "seal")
# The untouched scan is a row of its own.
CLEAN = "clean"
SCANNER_GRID, NETWORK_GRID = "scanner_grid", "network_grid"


@dataclass(frozen=True)
class Case:
    """What is attacked: a batch of one, its label, and a function from the batch to logits on its grid."""

    image: torch.Tensor
    label: torch.Tensor
    spacing: tuple[float, ...]
    predict: nn.Module


class RealScanStudy(Study):
    """The rows of the experiment on one scan.

    Args:
        scan: labelled scan.
        networks: fold -> network on the scanner's voxels.
        output_dir: for the records and ``real_scan.md``.
        rows: what to run.
        class_names: names of the classes, background first.
        steps: gradient evaluations per attack.
        draws: random controls per attack.
        precision: of the attacks; scores are always computed in float32.
        progress: show progress bars.
    """

    title = "real scan"

    def __init__(
        self,
        scan: LabelledScan,
        networks: Mapping[int, ResampledNetwork],
        output_dir: str | os.PathLike[str],
        rows: Sequence[Row] = ROWS,
        class_names: Sequence[str] = CLASSES,
        steps: int = 10,
        draws: int = 5,
        precision: str = "auto",
        progress: bool = True,
    ) -> None:
        super().__init__(output_dir, progress)
        self.scan, self.networks, self.class_names = scan, dict(networks), tuple(class_names)
        self.rows = {row.name: row for row in rows}
        self.steps, self.draws, self.precision = steps, draws, precision

    @classmethod
    def from_folder(
        cls, data: Path, output_dir: str | os.PathLike[str], folds: Iterable[int] = (1, 2), **options: Any
    ) -> RealScanStudy:
        """Load scan and networks from the data folder."""
        return cls(load_scan(data), {fold: load_network(data, fold) for fold in folds}, output_dir, **options)

    @cached_property
    def organs(self) -> list[str]:
        """Organs that the label holds, in the order of the classes."""
        present = set(self.scan.label.unique().tolist())
        return [name for index, name in enumerate(self.class_names) if index and index in present]

    @cached_property
    def _scan_hash(self) -> str:
        return case_hash(self.scan.image, self.scan.label)

    def case(self, fold: int, network_grid: bool = False) -> Case:
        """The case for one network, on the scanner's voxels or on the network's grid."""
        image, label, wrapped = self.scan.image, self.scan.label, self.networks[fold]
        spacing = tuple(float(step) for step in image.affine[:3, :3].norm(dim=0))
        if not network_grid:
            return Case(image, label, spacing, wrapped)
        plain, size = image.as_tensor(), wrapped.spatial_size
        resized = F.interpolate(wrapped.flip(label.as_tensor()).float(), size=size, mode="nearest-exact")
        steps = tuple(step * before / after for step, before, after in zip(spacing, plain.shape[2:], size, strict=True))
        return Case(wrapped.to_network_grid(plain).contiguous(), resized.long(), steps, wrapped.network)

    def model(self, case: Case) -> AttackedModel:
        """A network that takes raw HU; what is found on the scanner's voxels is rounded to whole HU."""
        return AttackedModel(
            case.predict,
            image_units="HU",
            round_to_integer=isinstance(case.predict, ResampledNetwork),
            class_names=self.class_names,
            precision=self.precision,
        )

    def segment(self, case: Case, image: torch.Tensor) -> torch.Tensor:
        """Class map in float32, whatever precision the attack used."""
        return predict(self.model(case), image)

    def compare(self, case: Case, prediction: torch.Tensor, label: torch.Tensor) -> dict[str, dict[str, float]]:
        """Dice and HD95 per organ of a class map."""
        scores = score_segmentation(prediction, label, case.spacing, self.class_names)
        return {name: {"dice": values["dice"], "hd95_mm": values["hd95_mm"]} for name, values in scores.items()}

    def score(self, case: Case, image: torch.Tensor, label: torch.Tensor) -> dict[str, dict[str, float]]:
        """Dice and HD95 per organ of the prediction in float32."""
        return self.compare(case, self.segment(case, image), label)

    def cells(self) -> list[Cell]:
        """The untouched scan under each network, and the rows."""
        cells = [Cell(SCANNER_GRID, CLEAN, network=_network_name(fold)) for fold in sorted(self.networks)]
        for row in self.rows.values():
            case = NETWORK_GRID if row.network_grid else SCANNER_GRID
            cells.append(Cell(case, row.name, network=_network_name(row.fold)))
        return cells

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Scan, networks and attack; the other fold counts where the attack is transferred to it."""
        fold = _fold(cell)
        known = {
            **common_settings(),
            "scan": self._scan_hash,
            "network_settings": describe(self.networks[fold]),
            "classes": self.class_names,
        }
        if cell.attack == CLEAN:
            return known
        row = self.rows[cell.attack]
        other = self._other_fold(row)
        return {
            **known,
            "attack_settings": [describe(row.make(self.steps)), self.precision],
            "draws": self.draws,
            "other": None if other is None else [other, describe(self.networks[other])],
        }

    def _other_fold(self, row: Row) -> int | None:
        others = [fold for fold in self.networks if fold != row.fold]
        return others[0] if others and not row.network_grid else None

    def run(self) -> dict[str, Any]:
        """Run the rows that are missing and write the table.

        Returns:
            ``clean``: scores of the untouched scan per fold; ``organs``; ``rows``: the records by name.
        """
        wanted = self.cells()
        return self.finish(wanted, self.run_cells(wanted))

    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write ``real_scan.md``."""
        found = {
            "organs": self.organs,
            "clean": {str(_fold(record)): record["scores"]["clean"] for record in records if record["attack"] == CLEAN},
            "rows": {record["attack"]: record for record in records if record["attack"] != CLEAN},
        }
        write_text(self.output_dir / "real_scan.md", table(found, list(self.rows.values()), self.table_organ))
        return found

    @property
    def table_organ(self) -> str:
        """The organ that the table is about."""
        return self.class_names[LIVER] if LIVER < len(self.class_names) else self.organs[0]

    def compute(self, cell: Cell, _: Any) -> dict[str, Any]:
        """Attack, draw random controls of equal size, and score both."""
        if cell.attack == CLEAN:
            case = self.case(_fold(cell))
            model = self.model(case)
            return measurement_record(
                cell,
                None,
                model,
                reference=LABEL,
                scores={"clean": self.score(case, case.image, case.label)},
                measurements={},
                cost={"forwards": 1, "backwards": 0},
                hashes={"inputs": self._scan_hash, "network": network_hashes(model)},
            )
        row = self.rows[cell.attack]
        case = self.case(row.fold, row.network_grid)
        attack, model = copy.copy(row.make(self.steps)), self.model(case)
        attack.progress = self.progress
        clean = self.score(case, case.image, case.label)
        began = time.perf_counter()
        result = attack(model, case.image, case.label, spacing=case.spacing)
        seconds = time.perf_counter() - began
        controls = [result.random_control(stream) for stream in range(self.draws)]
        sizes = [control_size(result, stream, image) for stream, (image, _) in enumerate(controls)]
        attacked = self.segment(case, result.adversarial)
        drawn = [self.segment(case, image) for image, _ in controls]
        scores = {
            "clean": clean,
            "adversarial": self.compare(case, attacked, result.label),
        }
        more: dict[str, Any] = {
            "random": [self.compare(case, seen, label) for seen, (_, label) in zip(drawn, controls, strict=True)]
        }
        if result.bound.geometric:
            scores["adversarial_original_label"] = self.compare(case, attacked, case.label)
            # How far the label itself moved: what a network that follows the anatomy perfectly would score.
            scores["moved_label"] = self.compare(case, result.label, case.label)
            more["random_original_label"] = [self.compare(case, seen, case.label) for seen in drawn]
        fold = self._other_fold(row)
        if fold is not None:
            other = self.case(fold)
            more["other_fold"] = {
                "fold": fold,
                "random": self.score(other, *controls[0]),
                "adversarial": self.score(other, result.adversarial, result.label),
            }
        return measurement_record(
            cell,
            attack,
            model,
            reference=LABEL,
            scores=scores,
            measurements=measured_budgets(result.budgets, norm_of(attack)),
            cost={
                "forwards": result.forwards,
                "backwards": result.backwards,
                "queries": result.queries,
                "seconds": round(seconds, 1),
            },
            hashes={"inputs": self._scan_hash, "network": network_hashes(model)},
            random_sizes=sizes,
            objective_history=[round(float(value), 4) for value in result.objective_history[:, 0]],
            zero_gradient_fraction=float(result.zero_gradient_fraction[0]),
            visibility=score_visibility(result.adversarial, case.image, WINDOW),
            **more,
        )


def _network_name(fold: int) -> str:
    return f"fold{fold}"


def _fold(cell: Cell | Mapping[str, Any]) -> int:
    name = cell.network if isinstance(cell, Cell) else cell["network"]
    return int(str(name).removeprefix("fold"))


def control_size(result: AttackResult, stream: int, image: torch.Tensor) -> dict[str, float]:
    """What a random control measures in the units of the budget, for the claim that it is as large as the attack."""
    bound = result.bound
    with torch.no_grad():
        drawn = bound.random_control(bound.scene.generators(CONTROL_STREAM + stream), result.parameters)
        measured = bound.measure(bound.scene.image, as_plain(image), drawn)
    return {name: float(m.values[0]) for name, m in measured.items() if m.limit_of(0)}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replace_when_complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _organ_mean(scores: Mapping[str, Mapping[str, float | None]], organs: Sequence[str]) -> float | None:
    values = [scores[name]["dice"] for name in organs]
    return statistics.fmean(v for v in values if v is not None) if any(v is not None for v in values) else None


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def _measured(budgets: Mapping[str, Mapping[str, Any]], controls: Sequence[Mapping[str, float]]) -> str:
    """Every measured budget with its unit, and the mean of the random controls."""
    parts = []
    for name, measured in budgets.items():
        if not measured["limit"]:  # a limit of 0 says what must not change at all
            continue
        sign = "≥" if measured["bound"] == "lower" else "≤"
        units = "" if measured["units"] in ("", "1") else f" {measured['units']}"
        random = _mean(sizes.get(name) for sizes in controls)
        beside = "" if random is None else f", random {random:.3g}"
        norm = measured["norm"]
        said = f" in the {norm.replace('_', ' ')} norm" if norm and norm not in name else ""
        parts.append(
            f"{name.replace('_', ' ')} {measured['value']:.3g}{units}{said} ({sign} {measured['limit']:.3g}{beside})"
        )
    return "; ".join(parts)


def table(found: Mapping[str, Any], rows: Sequence[Row] = ROWS, organ: str = "liver") -> str:
    """Markdown of the rows that are finished."""
    organs = found["organs"]
    done = [(row, found["rows"][row.name]) for row in rows if row.name in found["rows"]]

    def clean_dice(row: Row) -> float | None:
        of_fold = found["clean"].get(str(row.fold))
        return None if of_fold is None else of_fold[organ]["dice"]

    clean = _markdown(
        ("network", *organs, "mean", f"{organ} HD95, mm"),
        (
            (
                f"fold {fold}",
                *(_number(scores[name]["dice"]) for name in organs),
                _number(_organ_mean(scores, organs)),
                _number(scores[organ]["hd95_mm"], 1),
            )
            for fold, scores in found["clean"].items()
        ),
    )
    main = []
    for row, result in done:
        drawn = [scores[organ]["dice"] for scores in result["random"]]
        other = result.get("other_fold")
        main.append(
            (
                row.title,
                row.budget,
                _number(clean_dice(row)),
                f"{_number(_mean(drawn))} ({_number(min(v for v in drawn if v is not None))})",
                f"**{_number(result['scores']['adversarial'][organ]['dice'])}**",
                _number(_mean(_organ_mean(scores, organs) for scores in result["random"])),
                _number(_organ_mean(result["scores"]["adversarial"], organs)),
                _number(result["scores"]["adversarial"][organ]["hd95_mm"], 1),
                "–"
                if other is None
                else f"{_number(other['random'][organ]['dice'])} → {_number(other['adversarial'][organ]['dice'])}",
            )
        )
    scores_table = _markdown(
        (
            "attack",
            "budget",
            f"{organ}, clean",
            f"{organ}, random of equal size: mean (lowest)",
            f"{organ}, attacked",
            "mean of organs, random",
            "mean of organs, attacked",
            f"{organ} HD95 attacked, mm",
            f"{organ}, other fold: random → attacked",
        ),
        main,
    )
    per_organ = _markdown(
        ("attack", "budget", *organs),
        (
            (
                row.title,
                row.budget,
                *(
                    f"{_number(_mean(scores[name]['dice'] for scores in result['random']), 2)} → "
                    f"{_number(result['scores']['adversarial'][name]['dice'], 2)}"
                    for name in organs
                ),
            )
            for row, result in done
        ),
    )
    geometric = [(row, result) for row, result in done if "adversarial_original_label" in result["scores"]]
    labels = _markdown(
        (
            "attack",
            "budget",
            f"{organ}, moved label: random → attacked",
            f"{organ}, unmoved label: random → attacked",
            f"{organ}, moved label against unmoved label",
        ),
        (
            (
                row.title,
                row.budget,
                f"{_number(_mean(s[organ]['dice'] for s in result['random']))} → "
                f"{_number(result['scores']['adversarial'][organ]['dice'])}",
                f"{_number(_mean(s[organ]['dice'] for s in result['random_original_label']))} → "
                f"{_number(result['scores']['adversarial_original_label'][organ]['dice'])}",
                _number(result["scores"]["moved_label"][organ]["dice"]),
            )
            for row, result in geometric
        ),
    )
    cost = _markdown(
        ("attack", "budget", "measured on the result", "RMS change, HU", "SSIM", "forwards", "backwards"),
        (
            (
                row.title,
                row.budget,
                _measured(result["measurements"], result.get("random_sizes", ())),
                _number(result["visibility"]["rms_change_hu"], 1),
                _number(result["visibility"]["ssim"]),
                str(result["cost"]["forwards"]),
                str(result["cost"]["backwards"]),
            )
            for row, result in done
        ),
    )
    sections = [
        ("Untouched scan, Dice per organ", clean),
        (f"Dice of the {organ}, and mean over the {len(organs)} organs of the label", scores_table),
        ("Dice per organ: random of equal size → attacked", per_organ),
        *([("Deformations: which label to score against", labels)] if geometric else []),
        ("Budgets measured on the finished image, visibility and cost", cost),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections) + "\n"


PREFACE = """# A third-party network on a real scan

Written by `python benchmarks/real_scan.py --docs` from its records, [real_scan.json](real_scan.json).

**What was attacked.** The all-convolutional 3D U-Net ({parameters:,} parameters, 9 classes, raw HU as input) that the
authors of OBELISK-Net trained on TCIA Pancreas-CT and released (MIT). Nobody here trained or changed it. Two sets of
weights: fold {fold}, the better one on this scan, is attacked; the other is the target of transfer.

**On what.** One real CT (wasserth/TotalSegmentator, Apache-2.0; 3 mm isotropic, ends in mid-abdomen), from another
source than the network's training data. Its labels were made by TotalSegmentator, not by hand. One patient: the table
shows what is possible, not how often. The pancreas is cut off by the end of the scan ({pancreas} voxels) and is not
found even in the untouched scan.

**Where the budgets hold.** On the scanner's own voxels ({shape} of 3 mm after cropping to abdomen and body).
Flipping, resizing to the network's 144³ grid and resizing the logits back lie inside the attacked function and are
differentiated through. The finished image is rounded to integer HU and its budget is measured after that. Dice and HD95
are computed in float32 on the scanner's voxels.

**How.** {steps} gradient evaluations from one random start, in steps that fall, the [default](search.md) of each
attack. The target is the liver alone unless the row says otherwise; PGD goes along annealed Dice, the others along soft
Dice. "Random of equal size" is the same perturbation with random parameters and the same largest change (random signs
for noise) as far as its budget lets it, {draws} draws; the last table has what both measured. Deformations are scored
against the label moved with the image. Bias fields keep the mean of the logarithm of their gain at zero, so that none
is a mere change of brightness, unless the row says otherwise. Their display window is {low:g} to {high:g} HU;
attenuation is HU + 1000, so that 3 % are about 32 HU in soft tissue.

"""


def published(found: Mapping[str, Any], study: RealScanStudy) -> dict[str, Any]:
    """What ``docs/real_scan.json`` holds: the records, and what the page says about scan, network and effort."""
    counts = study.scan.label.as_tensor().flatten().bincount(minlength=len(study.class_names)).tolist()
    weights = study.networks[ROWS[0].fold].parameters()
    return {
        "shape": list(study.scan.image.shape[2:]),
        "voxels": dict(zip(study.class_names, counts, strict=True)),
        "parameters": sum(one.numel() for one in weights),
        "steps": study.steps,
        "draws": study.draws,
        "organs": found["organs"],
        "clean": found["clean"],
        "rows": {
            name: {key: value for key, value in record.items() if key not in OF_THE_STUDY}
            for name, record in found["rows"].items()
        },
    }


def joined(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, with the rows that were found now.

    Raises:
        ValueError: where the kept rows are of another scan, network or effort.
    """
    for name in ("shape", "voxels", "parameters", "steps", "draws"):
        if kept[name] != found[name]:
            raise ValueError(
                f"the kept rows must be of the same run, but {name} was {kept[name]} and is {found[name]}: remove "
                f"{KEPT.name}."
            )
    rows = {**kept["rows"], **found["rows"]}
    return {**found, "rows": {row.name: rows[row.name] for row in ROWS if row.name in rows}}


def document(kept: Mapping[str, Any]) -> str:
    """The page of the documentation, from ``docs/real_scan.json``."""
    preface = PREFACE.format(
        parameters=kept["parameters"],
        fold=ROWS[0].fold,
        pancreas=kept["voxels"]["pancreas"],
        shape=" × ".join(map(str, kept["shape"])),
        steps=kept["steps"],
        draws=kept["draws"],
        low=WINDOW[0],
        high=WINDOW[1],
    )
    missing = [f"- {row.title}, {row.budget}" for row in ROWS if row.name not in kept["rows"]]
    if missing:
        lines = ["**Not measured yet:**", "", *missing, "", "`--docs --rows NAME ...` adds rows to the record.", "", ""]
        preface += "\n".join(lines)
    return preface + table(kept, ROWS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="folder with abdomen_ct and abdomen_unet (default: ../shared/data)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/real_scan"), help="folder")
    parser.add_argument("--docs", action="store_true", help="keep the rows in docs/real_scan.json and write the page")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="only these attacks")
    parser.add_argument("--steps", type=int, default=10, help="gradient evaluations per attack")
    parser.add_argument("--draws", type=int, default=5, help="random controls per attack")
    parser.add_argument("--precision", default="auto", help="of the attack; scores are computed in float32")
    options = parser.parse_args(arguments)
    if options.draws < 1:
        raise ValueError(f"--draws must be >= 1, got {options.draws}.")
    rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
    study = RealScanStudy.from_folder(
        find_data(options.data),
        options.output,
        rows=rows,
        steps=options.steps,
        draws=options.draws,
        precision=options.precision,
    )
    kept = published(study.run(), study)
    if options.docs and options.rows is not None and KEPT.exists():
        kept = joined(json.loads(KEPT.read_text(encoding="utf-8")), kept)
    page = document(kept)
    print(page)
    if options.docs:
        write_text(KEPT, json.dumps(kept, indent=1) + "\n")
        write_text(PAGE, page)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
