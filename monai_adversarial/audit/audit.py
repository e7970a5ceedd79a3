# SPDX-License-Identifier: Apache-2.0
"""One call: target, cases and plan in, one report out."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import monai
import torch

import monai_adversarial
from monai_adversarial.audit.facts import TargetError, missing_sentence
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.plan import Plan, load_plan
from monai_adversarial.audit.report import write_report
from monai_adversarial.audit.shard import Shard
from monai_adversarial.audit.study import AuditStudy
from monai_adversarial.audit.summary import summarize_audit
from monai_adversarial.audit.target import AuditTarget
from monai_adversarial.data import find_cases
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.records import without_nan
from monai_adversarial.studies.study import Failure

__all__ = ["audit", "budget_units", "make_study"]

#: what no audit of this package covers
NEVER_TESTED = (
    "Attacks on training (poisoning, backdoors) and on the confidentiality of data and weights.",
    "Attackers with other goals than a wrong segmentation, for example one chosen organ erased or moved.",
    "Whether a person or a plausibility check would notice what was changed.",
)


def audit(
    model: AuditTarget | TargetParts | AttackedModel | str | os.PathLike[str],
    cases: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
    plan: str | os.PathLike[str] | Mapping[str, Any] | Plan = "quick",
    output_dir: str | os.PathLike[str] = "audit",
    *,
    rows: Sequence[str] | str | None = None,
    seed: int | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    surrogate: AttackedModel | None = None,
    images: bool = False,
    pictures: bool = True,
    data_kind: str = "",
    shard: Shard | None = None,
    compare: Sequence[Mapping[str, Any]] = (),
    title: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Audit a deployed network and write ``report.html``, ``audit.json`` and tables.

    What is done already is not done again: the same call goes on where an earlier one was interrupted.

    >>> import tempfile
    >>> from monai.transforms import SaveImage
    >>> from monai_adversarial.audit import AuditTarget, audit
    >>> from monai_adversarial.audit.report import findings_of
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"separate_folder": False, "print_log": False, "savepath_in_metadict": True}
    ...     write = SaveImage(folder, output_dtype="int16", **options)
    ...     case = {"case_id": "a", "image": str(write(image[0]).meta["saved_to"])}
    ...     target = AuditTarget.of_model(model, name="toy")
    ...     summary = audit(target, [case], "quick", f"{folder}/out", rows="pgd_8", pictures=False, progress=False)
    <BLANKLINE>
    row           reference         n  clean Dice  random change  attacked  worst case
    ...
    >>> findings_of(summary)[0].verdict
    'failed'

    Args:
        model: ``AuditTarget``; what a reader of ``monai_adversarial.audit.targets`` found; an ``AttackedModel`` that
            takes images as their files hold them; or the folder of a MONAI bundle.
        cases: a folder, datalist or file (see ``find_cases``), or a list of dictionaries with ``image`` and, where
            there is one, ``label``, as of a MONAI dataset. ``case_id`` names a case in the report; without it they are
            case_000, case_001, ... in their order.
        plan: ``"quick"``, ``"standard"``, ``"thorough"``, a YAML file, its content, or a ``Plan``.
        output_dir: records, pictures, report.
        rows: of the plan, to keep.
        seed: instead of the plan's.
        groups: column -> case id -> group (see ``read_subgroups``).
        surrogate: network whose gradients transfer rows follow.
        images: write adversarial images on the grid and in the values of their files.
        pictures: draw a panel of each case and row.
        data_kind: what the data are, for the report: ``"phantoms"``, ``"scans"``.
        shard: this process's part of the cases; None for that of ``torchrun``, or all.
        compare: ``audit.json`` of other audits of the same cases, shown beside.
        title: of the report; empty for one with the target's name.
        progress: show a progress bar.

    Returns:
        The content of ``audit.json``; empty in processes that do not report.

    Raises:
        TargetError: for a target that cannot be audited as it is.
        StudyError: where cells failed, after the report is written.
    """
    study = make_study(
        model,
        cases,
        plan,
        output_dir,
        rows=rows,
        seed=seed,
        groups=groups,
        surrogate=surrogate,
        images=images,
        pictures=pictures,
        data_kind=data_kind,
        shard=shard,
        compare=compare,
        title=title,
        progress=progress,
    )
    return study.run()


def make_study(
    model: Any,
    cases: Any,
    plan: Any = "quick",
    output_dir: str | os.PathLike[str] = "audit",
    *,
    rows: Sequence[str] | str | None = None,
    seed: int | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    surrogate: AttackedModel | None = None,
    data_kind: str = "",
    shard: Shard | None = None,
    compare: Sequence[Mapping[str, Any]] = (),
    title: str = "",
    **options: Any,
) -> AuditStudy:
    """The study that ``audit`` runs; see there."""
    target = as_target(model)
    if target.missing:
        raise TargetError(missing_sentence(target.name, target.missing))
    # Names of files often name patients, so that a case without an id is called by its number.
    entries = (
        find_cases(cases, unlabeled="keep")
        if isinstance(cases, (str, os.PathLike))
        else [{"case_id": f"case_{number:03d}", **case} for number, case in enumerate(cases)]
    )
    for entry in entries:
        if "image" not in entry:
            raise ValueError(f"cases must name the file of each image as 'image', got the keys {sorted(entry)}.")
    if not entries:
        raise ValueError("cases must hold at least one case, got none.")
    if not isinstance(plan, Plan):
        units = budget_units(target)
        plan = load_plan(plan, units, target.differentiable, surrogate is not None, rows, seed, len(entries))
    shard = Shard.from_environment() if shard is None else shard
    reporter = _Reporter(target, plan, groups or {}, data_kind, compare, surrogate is not None, title)
    return AuditStudy(target, entries, plan, output_dir, reporter, surrogate, shard=shard, **options)


def as_target(model: Any) -> AuditTarget:
    """A target of whatever ``audit`` takes."""
    if isinstance(model, AuditTarget):
        return model
    if isinstance(model, TargetParts):
        return AuditTarget(model)
    if isinstance(model, AttackedModel):
        return AuditTarget.of_model(model)
    if isinstance(model, (str, os.PathLike)):
        from monai_adversarial.audit.targets.bundle import read_bundle

        return AuditTarget(read_bundle(os.fspath(model)))
    raise TypeError(
        f"model must be an AuditTarget, TargetParts, an AttackedModel or the folder of a MONAI bundle, got "
        f"{type(model).__name__}."
    )


def budget_units(target: AuditTarget) -> str:
    """See ``AuditTarget.budget_units``."""
    return target.budget_units


class _Reporter:
    """Writes the report of an audit whenever its study ends."""

    def __init__(
        self,
        target: AuditTarget,
        plan: Plan,
        groups: Mapping[str, Mapping[str, str]],
        data_kind: str,
        compare: Sequence[Mapping[str, Any]],
        has_surrogate: bool,
        title: str = "",
    ) -> None:
        self.target, self.plan, self.groups, self.data_kind = target, plan, groups, data_kind
        self.title = title or f"Robustness audit of {target.name}"
        self.compare, self.has_surrogate = _titled_apart(self.title, compare), has_surrogate
        self.began, self.clock = datetime.now(timezone.utc), time.perf_counter()

    def __call__(
        self, study: AuditStudy, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]
    ) -> dict[str, Any]:
        """Write page, JSON and tables; returns the content of ``audit.json``."""
        summary: dict[str, Any] = without_nan(
            summarize_audit(
                records,
                title=self.title,
                target=self._target(study, records),
                plan={
                    "name": self.plan.name,
                    "description": self.plan.description,
                    "rows": [row.as_json() for row in self.plan.rows],
                    "surface_tolerance_mm": self.plan.surface_tolerance_mm,
                },
                data=self._data(study, records),
                groups=self.groups,
                failures=[
                    {
                        "case": one.cell.case,
                        "row": one.cell.attack,
                        "reason": without_paths(one.sentence, study.entries),
                    }
                    for one in failures
                ],
                not_tested=[*self.plan.left_out, *NEVER_TESTED],
                seed=self.plan.seed,
                versions=versions(),
                seeds={"attacks": self.plan.seed, "intervals": self.plan.seed},
                started=self.began.isoformat(timespec="seconds"),
                seconds=round(time.perf_counter() - self.clock, 1),
                command=None,
            )
        )
        files = write_report(summary, study.output_dir, compare=self.compare)
        print(f"\n{summary_text(summary)}\n\nreport: {files['report.html']}", flush=True)
        return summary

    def _target(self, study: AuditStudy, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        target = self.target
        settings = target.settings()
        return {
            "name": target.name,
            "kind": target.kind,
            "gradients": target.differentiable,
            "facts": [vars(fact) for fact in [*target.facts(), *study.first_case]],
            "missing": [vars(one) for one in target.missing],
            "classes": self._classes(records),
            "hashes": {
                **{f"weights {number + 1}": value for number, value in enumerate(settings["weights"])},
                **settings["hashes"],
            },
        }

    def _classes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Names of the network's channels, the background of exclusive classes first."""
        given = self.target.model.class_names
        if given is not None:
            return list(given.values()) if isinstance(given, Mapping) else list(given)
        organs = list(records[0]["scores"]["clean"]) if records else []
        return organs if self.target.model.found_activation == "sigmoid" else ["background", *organs]

    def _data(self, study: AuditStudy, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        entries = study.entries.values()
        labeled = sum(entry.get("label") is not None for entry in entries)
        notes = []
        if study.unlabeled:
            notes.append(f"Not labeled in this data set, and not scored: {', '.join(study.unlabeled)}.")
        if labeled < len(study.entries):
            notes.append(
                f"{len(study.entries) - labeled} cases without a label: stability against the network's own clean "
                "prediction, which says nothing about accuracy."
            )
        return {
            "cases": len(study.entries),
            "with_label": labeled,
            "kind": self.data_kind or "not told",
            "spacing_mm": records[0]["spacing_mm"] if records else [],
            "notes": notes,
        }


def _titled_apart(title: str, others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Audits that are shown beside one, each with a title of its own: two weights of one bundle share a name."""
    taken, found = {title}, []
    for number, other in enumerate(others):
        own = str(other["title"])
        found.append({**other, "title": own if own not in taken else f"{own} (other audit {number + 1})"})
        taken.add(own)
    return found


def versions() -> dict[str, str]:
    """Of what computed the audit."""
    return {
        "monai_adversarial": monai_adversarial.__version__,
        "monai": monai.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def without_paths(sentence: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence for reports, where names of files, which may name patients, have no place."""
    for case, entry in entries.items():
        for key in ("image", "label", "dicom"):
            for file in entry[key] if isinstance(entry.get(key), (list, tuple)) else [entry.get(key)]:
                if file is not None:
                    sentence = sentence.replace(str(file), f"<{key} of {case}>").replace(
                        Path(str(file)).name, f"<{key} of {case}>"
                    )
        for text in entry.get("hidden", ()):
            sentence = sentence.replace(text, f"<file of {case}>")
    return sentence


def summary_text(summary: Mapping[str, Any]) -> str:
    """A table for the terminal: clean, random and adversarial Dice of every row."""
    titles = {row["name"]: row["title"] for row in summary["plan"]["rows"]}
    lines = [["row", "reference", "n", "clean Dice", "random change", "attacked", "worst case"]]
    for entry in summary["results"]:
        means = entry["mean"]
        lines.append(
            [
                titles[entry["row"]],
                entry["reference"],
                str(entry["n"]),
                *(_interval(means[i]["dice"]) if i in means else "" for i in ("clean", "random", "adversarial")),
                "" if entry["worst_case"] is None else f"{entry['worst_case']['dice']:.3f}",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-" * max(map(len, text)))
    text += [
        "",
        "Dice: mean over organs and cases [95 % bootstrap interval over cases]. Against the clean prediction it is",
        "stability, not accuracy. Attacks that move anatomy are scored against the label moved with it.",
    ]
    flagged = [check for check in summary["health"] if check["verdict"] != "pass"]
    text += [f"{check['verdict']}: {check['check']}: {check['text']}" for check in flagged]
    return "\n".join(text)


def _interval(found: Mapping[str, Any]) -> str:
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    if mean is None or mean != mean:
        return "not defined"
    return f"{mean:.3f}" if low is None or low != low else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
