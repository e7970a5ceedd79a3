# SPDX-License-Identifier: Apache-2.0
"""The audit's report over an ``AttackStudy``: one page for whoever attacks images in the space of their files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_adversarial.attacks import Attack
from monai_adversarial.audit.audit import NEVER_TESTED, versions
from monai_adversarial.audit.plan import Row, budget_of_attack
from monai_adversarial.audit.report import write_report
from monai_adversarial.audit.summary import summarize_audit
from monai_adversarial.studies import AttackStudy
from monai_adversarial.studies.records import without_nan
from monai_adversarial.utils.modules import describe_callable

__all__ = ["report_attack_study", "run_and_report"]

#: kind of perturbation -> family of the report
_FAMILIES = {"BiasField": "bias field", "ElasticDeformation": "geometry", "AffineTransform": "geometry"}


def run_and_report(study: AttackStudy, title: str = "", data_kind: str = "") -> dict[str, Any]:
    """Run a study and write the page over what is done, also where cells fail.

    >>> import tempfile
    >>> from monai.data import Dataset
    >>> from monai_adversarial.attacks import FGSM
    >>> from monai_adversarial.audit import run_and_report
    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.studies import AttackStudy, StudyError
    >>> dataset = Dataset([{"image": "missing.nii.gz", "case_id": "a"}])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attacks = {"fgsm": FGSM(8, "HU")}
    ...     study = AttackStudy(example_case(16)[0], dataset, attacks, folder, EXAMPLE_CLASSES, progress=False)
    ...     try:
    ...         run_and_report(study, title="Toy")
    ...     except StudyError as error:
    ...         print(len(error.failures), "cell failed")
    1 cell failed

    Args:
        study: to run.
        title: of the page.
        data_kind: what the data are: ``"phantoms"``, ``"scans"``.

    Returns:
        what ``AttackStudy.run`` returns.
    """
    try:
        return study.run()
    finally:
        if records := study.records():
            page = report_attack_study(study, records, title, data_kind)
            print(f"report: {page}", flush=True)


def report_attack_study(study: AttackStudy, records: Any, title: str = "", data_kind: str = "") -> Path:
    """Write ``report/report.html`` below the study's folder.

    Args:
        study: that was run.
        records: of its cells.
        title: of the page; None for the network's name.
        data_kind: what the data are.
    """
    name = describe_callable(study.model.network)
    rows = [_row(attack_name, attack) for attack_name, attack in study.attacks.items()]
    done = {record["attack"] for record in records}
    first = records[0]
    labeled = {record["case"] for record in records if record["reference"] == "label"}
    cases = {record["case"] for record in records}
    failed = [
        {"case": one.cell.case, "row": one.cell.attack, "reason": study.without_paths(one)} for one in study.failures
    ]
    summary = summarize_audit(
        [_with_volumes(record) for record in records],
        title=title or f"Robustness of {name}",
        target={
            "name": name,
            "kind": "AttackedModel",
            "gradients": True,
            "facts": [{"what": "model", "value": fact, "source": "", "told": False} for fact in first["facts"]],
            "missing": [],
            "classes": list(study.model.class_names or first["scored_classes"]),
            "hashes": {f"weights {n + 1}": value for n, value in enumerate(first["hashes"]["network"])},
        },
        plan={
            "name": "attacks",
            "description": "Attacks on images in the space and the values of their files, HU per native voxel.",
            "rows": [row.as_json() for row in rows if row.name in done],
            "surface_tolerance_mm": None,
        },
        data={
            "cases": len(cases),
            "with_label": len(labeled),
            "kind": data_kind or "not told",
            "spacing_mm": first["spacing_mm"],
            "notes": [],
        },
        failures=failed,
        not_tested=[
            *(f"{row.title}: not asked for." for row in rows if row.name not in done),
            "Natural variation, attacks by queries and transfer: python -m monai_adversarial audit.",
            *NEVER_TESTED,
        ],
        seed=study.seed,
        versions=versions(),
        seeds={"intervals": study.seed},
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=sum(float(record["cost"]["total_seconds"]) for record in records),
        command=None,
    )
    folder = study.output_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    return write_report(without_nan(summary), folder, files_dir=study.output_dir)["report.html"]


def _row(name: str, attack: Attack) -> Row:
    budget = budget_of_attack(attack)
    family = _FAMILIES.get(type(attack.perturbation).__name__, "gradient")
    title = f"{name.replace('_', ' ')}, {budget['text']}" if budget["text"] else name.replace("_", " ")
    return Row(
        name,
        title,
        family,
        attack,
        goal="the segmentation that is asked for" if attack.targeted else "a wrong segmentation",
        knowledge="queries" if attack.by_queries else "another network" if attack.gradient.surrogates else "white box",
        description=f"{attack!r}.",
        needs="gradients",
        budget=budget,
        ids=("white-box", "evasion"),
    )


def _with_volumes(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with volumes in ml, and with the place of its files seen from the folder of the report."""
    milliliters = math.prod(record["spacing_mm"]) / 1000.0
    scores = {
        image: {
            organ: {**score, "volume_ml": score["predicted_voxels"] * milliliters} for organ, score in of_image.items()
        }
        for image, of_image in record["scores"].items()
    }
    files = {kind: file for kind, file in record["files"].items() if kind == "panel"}
    return {**record, "scores": scores, "files": files}
