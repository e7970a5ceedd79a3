# SPDX-License-Identifier: Apache-2.0
"""Every bundle of MONAI's Model Zoo read as the target of an audit: a table on standard output.

    python -m benchmarks.audit_zoo --zoo CHECKOUT [--only spleen_ct_segmentation ...] [--page]

Each bundle is read in a process of its own, on a copy below ``--work``, with random weights (seeds 0, 1, ... until the
segmentation has more than one class) and tiny made-up data (``zoo_data.py``): first as it is, then with the overrides
of ``zoo_cases.py``, which make windows and networks small and mend what MONAI 1.6.1 no longer takes. The audit's own
segmentation of one image, made of the parts that were read, is compared with that of the bundle's unmodified evaluator.
With ``--page`` the table goes into ``docs/audit_targets.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

__all__: list[str] = []

#: files of one image, where it is not the first NIfTI file below the data folder
FILES = {
    "brats_mri_segmentation": ["p0/p0_t1ce.nii.gz", "p0/p0_t1.nii.gz", "p0/p0_t2.nii.gz", "p0/p0_flair.nii.gz"],
    "endoscopic_tool_segmentation": ["test/seq0/frame0.jpg"],
    "renalStructures_CECT_segmentation": ["case0/12.nii.gz", "case0/22-.nii.gz", "case0/32-.nii.gz"],
    "wholeBrainSeg_Large_UNEST_segmentation": ["images/b_0.nii.gz"],
}
#: keys of ``zoo_cases.py`` that are about data, which an audit brings itself
ABOUT_DATA = ("dataset_dir", "dataset#data", "data_list_file_path", "input_dict", "dataloader#num_workers", "datalist")
SECONDS = 900
SEEDS = 5


def _case(bundle: str) -> Any:
    from benchmarks.zoo_cases import CASES

    return next((one for one in CASES if one.bundle == bundle and one.config == "inference"), None)


def _overrides(case: Any, data: Path) -> dict[str, Any]:
    given = {k: v for k, v in {**case.overrides, **case.needed}.items() if v is not None and k not in ABOUT_DATA}
    return {k: v.replace("{data}", str(data)) if isinstance(v, str) else v for k, v in given.items()}


def _make_weights(root: Path, case: Any, overrides: dict[str, Any], seed: int = 0) -> None:
    """Random weights where the bundle expects its own."""
    import torch

    from monai_adversarial.audit.targets.bundle_config import choose_config_files, plain_parser
    from monai_adversarial.audit.targets.bundle_process import BundleScripts, bundle_process

    scripts = BundleScripts(root)
    target = root / (case.checkpoint if case else "models/model.pt")
    with bundle_process(scripts, trust=True):
        parser = plain_parser(choose_config_files(root), root / "configs" / "metadata.json", overrides)
        torch.manual_seed(seed)
        weights = parser.get_parsed_content("network").state_dict()
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save({case.checkpoint_key if case else "model": weights}, target)
    scripts.remove()


def _own_segmentation(parts: Any, files: Any) -> Any:
    """What the parts that were read make of an image, as an audit runs them."""
    import torch
    from monai.data import decollate_batch, list_data_collate
    from monai.engines.utils import default_prepare_batch, engine_apply_transform

    item = {parts.image_key: files}
    if parts.preprocesses_label:
        item[parts.label_key] = parts.reference_prediction.item(files)[parts.label_key]
    batch = list_data_collate([dict(parts.preprocessing(item))])
    prepared: Any = (parts.prepare_batch or default_prepare_batch)(batch, torch.device("cpu"), False)
    image = prepared[0] if isinstance(prepared, (list, tuple)) else prepared
    with torch.no_grad():
        answer = parts.inferer(image, parts.network)
    items = decollate_batch(batch), decollate_batch({parts.image_key: image, parts.pred_key: answer})
    if parts.postprocessing is None:
        return items[1][0][parts.pred_key]
    return engine_apply_transform(items[0][0], items[1][0], parts.postprocessing)[1][parts.pred_key]


def _compared(parts: Any, files: Any, row: dict[str, Any]) -> None:
    import numpy as np

    from monai_adversarial.audit.targets.bundle_reference import segmentation_values

    deployed = parts.reference_prediction(files)
    if deployed is None:
        row["equal"] = "on another grid"
        return
    answer = _own_segmentation(parts, files)
    own = segmentation_values(answer, parts.reference_prediction.masks)
    row["equal"] = f"{(own == deployed).mean():.4%}" if own.shape == deployed.shape else f"{own.shape}, not equal"
    row["classes"] = len(np.unique(deployed))


def read_one(bundle: str, zoo: Path, work: Path) -> dict[str, Any]:
    """A row: how the bundle is read as it is, and with overrides."""
    import torch

    from monai_adversarial.audit.facts import TargetError
    from monai_adversarial.audit.targets.bundle import read_bundle
    from monai_adversarial.models import AttackedModel

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case, start = _case(bundle), time.perf_counter()
    root, data = work / "bundles" / bundle, work / "data" / bundle
    if not root.exists():
        shutil.copytree(zoo / "models" / bundle, root, ignore=shutil.ignore_patterns("*.pt", "*.ts"))
    row: dict[str, Any] = {"bundle": bundle, "as_it_is": "", "overrides": "", "model": "", "equal": "", "classes": ""}
    try:
        with contextlib.suppress(Exception):  # then reading says why
            _make_weights(root, case, {})
        parts = read_bundle(root, device="cpu")
        row["as_it_is"] = "read"
    except TargetError as error:
        row["as_it_is"] = str(error)
    mendable = any(text in row["as_it_is"] for text in ("itself fails", "no weights"))
    if case is None or (row["as_it_is"] != "read" and not (case.needed and mendable)):
        return {**row, "seconds": time.perf_counter() - start}
    try:
        if row["as_it_is"] == "read":
            parts.resources.close()
        if not data.exists():
            data.mkdir(parents=True)
            case.make_data(data)
        overrides = _overrides(case, data)
        names = FILES.get(bundle)
        files = sorted(p for p in data.rglob("*.nii.gz") if "label" not in str(p.relative_to(data)))
        chosen = [str(data / name) for name in names] if names else [str(files[0])]
        for seed in range(SEEDS):
            _make_weights(root, case, overrides, seed)
            parts = read_bundle(root, device="cpu", overrides=overrides, trust=bool(case.needed))
            row["overrides"] = "read"
            model = AttackedModel.from_evaluator(parts.engine, parts.image_key, **parts.told)
            row["model"] = "; ".join(model.facts)
            row["facts"] = [str(fact) for fact in parts.facts]
            row["missing"] = [str(one) for one in parts.missing]
            _compared(parts, chosen if len(chosen) > 1 else chosen[0], row)
            parts.resources.close()
            if row["classes"] != 1:
                break
    except Exception as error:  # noqa: BLE001
        row["overrides"] = row["overrides"] or f"{error}"
        row["equal"] = row["equal"] or f"{type(error).__name__}: {error}"
    return {**row, "seconds": time.perf_counter() - start}


def _without_paths(value: Any, work: Path) -> Any:
    return value.replace(f"{work / 'bundles'}/", "") if isinstance(value, str) else value


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| bundle | as it is | with overrides | model | equal to the bundle's own evaluator | values |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row[name] for name in ("bundle", "as_it_is", "overrides", "model", "equal", "classes")]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Read what is asked for, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_zoo", description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="checkout of the Model Zoo (it holds models/)")
    parser.add_argument("--work", type=Path, default=Path("audit_zoo_work"), help="folder for copies, data and rows")
    parser.add_argument("--only", nargs="+", help="bundles")
    parser.add_argument("--page", action="store_true", help="write the table into docs/audit_targets.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work, zoo = given.work.resolve(), given.zoo.resolve()
    (work / "rows").mkdir(parents=True, exist_ok=True)
    if given.one:
        from benchmarks.torchvision_stub import stub_torchvision

        stub_torchvision()
        row = read_one(given.one, zoo, work)
        row = {name: _without_paths(value, work) for name, value in row.items()}
        (work / "rows" / f"{given.one}.json").write_text(json.dumps(row))
        return 0
    names = given.only or sorted(path.name for path in (zoo / "models").iterdir() if path.is_dir())
    rows = []
    for name in names:
        file = work / "rows" / f"{name}.json"
        if not file.exists():
            command = [sys.executable, "-m", "benchmarks.audit_zoo", "--zoo", zoo, "--work", work, "--one", name]
            with open(work / f"{name}.log", "w") as log, contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, stdout=log, stderr=log, timeout=SECONDS)
        if file.exists():
            rows.append(json.loads(file.read_text()))
        else:
            print(f"{name}: no row, see {work / f'{name}.log'}", file=sys.stderr)
    print(table(rows))
    if given.page and len(rows) == len(names):
        from benchmarks.doc_tables import DOCS, replace_table

        page = DOCS / "audit_targets.md"
        page.write_text(replace_table(page.read_text(encoding="utf-8"), "bundles", table(rows)), encoding="utf-8")
    return 0 if len(rows) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
