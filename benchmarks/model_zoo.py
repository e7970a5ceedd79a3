# SPDX-License-Identifier: Apache-2.0
"""One overlay on the bundles of MONAI's Model Zoo: the table of ``docs/model_zoo.md``.

    python -m benchmarks.model_zoo --zoo CHECKOUT [--only spleen_ct_segmentation ...]

Each config runs in a process of its own, on a copy of the bundle below ``--work``, with random weights and tiny
made-up data (``zoo_data.py``). A row that is there already is not run again. Without ``--zoo`` the page is written
anew from the CSV file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import nibabel
import torch

import monai_adversarial
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.zoo_cases import CASES, Case
from monai_adversarial.studies.reports.tables import csv_text, read_rows

OVERLAY = """\
adversary:
  _target_: monai_adversarial.engines.PrepareBatchAdversarial
  attack: {{_target_: monai_adversarial.attacks.PGD, epsilon: {epsilon}, units: {units}, steps: 2}}
  engine: "@{engine}"
+initialize: ["@adversary"]
"""
COLUMNS = (
    *("bundle", "config", "outcome", "budget", "iterations", "attacked", "largest_change", "share_of_budget"),
    *("file_change", "reference", "clean_dice", "adversarial_dice", "seconds", "said", "needs"),
)
SECONDS = 600


def _filled(value: Any, root: Path, data: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{data}", str(data)).replace("{root}", str(root))
    return value


def _workflow(case: Case, root: Path, data: Path, output: Path, overlay: Path) -> Any:
    from monai.bundle import ConfigWorkflow

    sys.path.insert(0, str(root))
    os.chdir(root)
    if case.repair is not None:
        case.repair()
    overrides = {"bundle_root": root, "output_dir": output, "dataset_dir": data, **case.overrides, **case.needed}
    given = {key: _filled(v, root, data) for key, v in overrides.items() if v is not None}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    files = [str(root / "configs" / name) for name in case.files]
    options = {
        "workflow_type": "train" if "#" in case.engine or case.config == "evaluate" else "infer",
        "run_id": case.run_id,
        "meta_file": str(root / "configs" / "metadata.json"),
        "logging_file": False,
    }
    plain = ConfigWorkflow(config_file=files, **options, **given)
    plain.parser.parse(True)
    torch.manual_seed(0)
    weights = plain.parser.get_parsed_content("network").state_dict()
    (root / case.checkpoint).parent.mkdir(parents=True, exist_ok=True)
    torch.save({case.checkpoint_key: weights}, root / case.checkpoint)
    return ConfigWorkflow(config_file=[*files, str(overlay)], **options, **given)


def file_change(engine: Any, amount: int, folder: Path, image_channels: int | None) -> float | None:
    """The largest change of the network's image, guidance left out, when a block of the first case's file is raised.

    Args:
        engine: where the dataset is.
        amount: by which the block is raised, in the file's values.
        folder: for the raised file.
        image_channels: number of channels that are image; None for all.

    Returns:
        None for images that are no NIfTI files.
    """
    from monai_adversarial.models.engine_parts import preprocessing_of

    dataset = engine.data_loader.dataset
    item = dict(dataset.data[0])
    raised = dict(item)
    for key, path in item.items():
        if not isinstance(path, str) or not path.endswith(".nii.gz") or key == "label":
            continue
        scan = nibabel.load(path)
        voxels = scan.get_fdata().astype(scan.get_data_dtype())
        low, high = ([int(length * share) for length in voxels.shape] for share in (0.35, 0.65))
        voxels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] += amount
        raised[key] = str(folder / f"raised_{key}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(voxels, scan.affine, scan.header), raised[key])
    if raised == item:
        return None
    transform = preprocessing_of(engine)
    before, after = (torch.as_tensor(transform(dict(one))["image"]).float() for one in (item, raised))
    return float((after - before)[:image_channels].abs().max())


def run(case: Case, zoo: Path, work: Path) -> dict[str, Any]:
    """Run one config with the overlay; what it said, and what was measured on the batches that it attacked."""
    from ignite.engine import Events

    from monai_adversarial.engines import PrepareBatchAdversarial

    root, data, output = (work / kind / case.bundle for kind in ("bundles", "data", "output"))
    if not root.exists():
        shutil.copytree(zoo / "models" / case.bundle, root, ignore=shutil.ignore_patterns("*.pt", "*.ts"))
    if not data.exists():
        data.mkdir(parents=True)
        case.make_data(data)
    output.mkdir(parents=True, exist_ok=True)
    overlay = work / f"{case.name}.yaml"
    overlay.write_text(OVERLAY.format(engine=case.engine, **case.budget))
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"bundle": case.bundle, "config": case.config, "needs": case.needs, "iterations": 0, "attacked": 0}
    unit = case.budget["units"]
    row["budget"] = f"{case.budget['epsilon']:g} HU" if unit == "HU" else f"{case.budget['epsilon']:.0%} of the range"
    attacked: set[int] = set()
    found: list[dict[str, float]] = []
    engine: Any = None
    inner = PrepareBatchAdversarial.attacked

    def measured(self: Any, batchdata: Any, prepared: Any) -> Any:
        adversarial, label = inner(self, batchdata, prepared)
        result = self.last_result
        linf = result.budgets["noise_linf"]
        attacked.add(engine.state.iteration)
        image = prepared[0] if isinstance(prepared, (tuple, list)) else prepared
        found.append(
            {
                "largest_change": float((adversarial - image).abs().max()),
                "share_of_budget": max(float(v) / linf.limit_of(i) for i, v in enumerate(linf.values)),
                "clean_dice": float(result.clean_dice.nanmean()),
                "adversarial_dice": float(result.adversarial_dice.nanmean()),
            }
        )
        row["reference"] = "clean prediction" if result.reference_is_prediction else "label"
        return adversarial, label

    said = io.StringIO()
    start = time.perf_counter()
    PrepareBatchAdversarial.attacked = measured  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            workflow = _workflow(case, root, data, output, overlay)
            workflow.initialize()
            engine = workflow.parser.get_parsed_content(case.engine)
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda _: row.__setitem__("iterations", row["iterations"] + 1)
            )
            workflow.run()
            workflow.finalize()
            row["outcome"] = "attacked"
            row["said"] = next(line for line in said.getvalue().splitlines() if line.startswith("attacks `"))
            if unit == "HU":
                channels = engine.prepare_batch.model.image_channels
                row["file_change"] = file_change(engine, case.budget["epsilon"], work, channels)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raised_in = traceback.extract_tb(cause.__traceback__)[-1].filename
        row["outcome"] = "refused" if Path(monai_adversarial.__file__).parent in Path(raised_in).parents else "failed"
        row["said"] = f"{cause}".splitlines()[0]
    finally:
        PrepareBatchAdversarial.attacked = inner  # type: ignore[method-assign]
    row["seconds"], row["attacked"] = time.perf_counter() - start, len(attacked)
    for name in ("largest_change", "share_of_budget"):
        row[name] = max((one[name] for one in found), default="")
    for name in ("clean_dice", "adversarial_dice"):
        known = [one[name] for one in found if one[name] == one[name]]
        row[name] = sum(known) / len(known) if known else ""
    return row


def _number(value: Any, digits: int) -> str:
    return "" if value in ("", None) else f"{float(value):.{digits}f}"


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of the page, by name."""
    measured = [
        "| bundle | config | budget | batches attacked | largest change, network's values | of the budget |"
        " +8 HU in the file | reference | mean Dice clean → attacked | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    said, refused = ["| bundle | config | said |", "|---|---|---|"], ["| bundle | config | sentence |", "|---|---|---|"]
    needs = ["| bundle | config | needed beside the overlay |", "|---|---|---|"]
    for row in rows:
        first = f"| {row['bundle']} | {row['config']} |"
        if row["outcome"] == "attacked":
            measured.append(
                f"{first} {row['budget']} | {row['attacked']} of {row['iterations']} | "
                f"{_number(row['largest_change'], 5)} | {_number(row['share_of_budget'], 3)} | "
                f"{_number(row['file_change'], 5)} | {row['reference']} | {_number(row['clean_dice'], 3)} → "
                f"{_number(row['adversarial_dice'], 3)} | {_number(row['seconds'], 0)} |"
            )
            said.append(f"{first} {row['said']} |")
        else:
            refused.append(f"{first} {row['said']} |")
        if row["needs"]:
            needs.append(f"{first} {row['needs']} |")
    made = {"measured": measured, "said": said, "refused": refused, "needed": needs}
    return {name: "\n".join(lines) for name, lines in made.items()}


def with_tables(text: str, folder: Path = DOCS) -> str:
    """The page with its tables made anew from the CSV file in ``folder``."""
    for name, table in tables(read_rows(folder / "model_zoo.csv")).items():
        text = replace_table(text, name, table)
    return text


def main() -> int:
    """Run what is missing and write CSV and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_zoo", description=__doc__)
    parser.add_argument("--zoo", type=Path, help="checkout of the Model Zoo (the folder that holds models/)")
    parser.add_argument("--work", type=Path, default=Path("model_zoo_work"), help="folder for copies, data and rows")
    parser.add_argument("--only", nargs="+", help="bundles")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = given.work.resolve()
    if given.one:
        torch.set_num_threads(1)
        (case,) = (one for one in CASES if one.name == given.one)
        row = run(case, given.zoo.resolve(), work)
        (work / "rows" / f"{case.name}.json").write_text(json.dumps(row))
        return 0
    if given.zoo is not None:
        (work / "rows").mkdir(parents=True, exist_ok=True)
        for case in CASES:
            file = work / "rows" / f"{case.name}.json"
            if not file.exists() and (given.only is None or case.bundle in given.only):
                command = [sys.executable, "-m", "benchmarks.zoo_process", "--zoo", given.zoo, "--work", work]
                with open(work / f"{case.name}.log", "w") as log, contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run([*command, "--one", case.name], stdout=log, stderr=log, timeout=SECONDS)
                print(case.name, json.loads(file.read_text())["outcome"] if file.exists() else "no row", flush=True)
        files = [work / "rows" / f"{case.name}.json" for case in CASES]
        missing = [file.stem for file in files if not file.exists()]
        if missing:
            print(f"the page stays as it is: {len(missing)} rows are missing ({', '.join(missing)})", file=sys.stderr)
            return 1
        rows = [json.loads(file.read_text()) for file in files]
        (DOCS / "model_zoo.csv").write_text(csv_text(rows), encoding="utf-8")
    page = DOCS / "model_zoo.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
