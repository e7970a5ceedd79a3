# SPDX-License-Identifier: Apache-2.0
"""Studies that are killed at random moments and started again: ``python -m benchmarks.kill_points``.

A study runs once in peace. Then, for each point, a process that runs it in a folder of its own gets a signal at a
random moment, and a second one finishes. Records without their seconds, volumes and tables must equal those of the
first. With
``--quota`` the size of files is limited as well: the study must end with one sentence and leave nothing half-written.

The processes are forks of this one, which has imported everything and computed nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before MONAI looks for it

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from monai.data import Dataset, MetaTensor  # noqa: E402
from monai.transforms import Compose, DivisiblePadd, EnsureChannelFirstd, LoadImaged, ScaleIntensityd  # noqa: E402

from monai_adversarial.attacks import FGSM, PGD, AdditiveNoise, Attack, BiasFieldAttack, Chain, ElasticDeformation  # noqa: E402
from monai_adversarial.audit import audit as run_audit  # noqa: E402
from monai_adversarial.data import image_label_pairs  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402
from monai_adversarial.studies import AttackStudy, PurificationStudy, TrainingStudy, place_purifiers  # noqa: E402
from monai_adversarial.studies.command_line import show_errors_as_sentences  # noqa: E402
from monai_adversarial.studies.records import read_record  # noqa: E402
from monai_adversarial.transforms import GaussianDenoise, MedianDenoise  # noqa: E402
from monai_adversarial.utils.files import replace_when_complete  # noqa: E402
from tests.audit.pipeline import PLAN, target, write_cases  # noqa: E402
from tests.hippocampus import BUNDLE, CASES, write_invented_scans  # noqa: E402

__all__ = ["KINDS", "figures", "main"]

SHAPE = (16, 14, 12)
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp\.")
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}


class Threshold(torch.nn.Module):
    """Organ where the image is bright, after a little smoothing."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([-0.05, 0.05]))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        smooth = torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)
        return (smooth - 60) * self.slope.view(1, 2, 1, 1, 1)


def volume(seed: int) -> np.ndarray:
    """Whole HU of soft tissue with a bright half."""
    found = np.random.default_rng(seed).normal(40, 20, SHAPE)
    found[: SHAPE[0] // 2] += 60
    return np.rint(found).astype(np.int16)


def campaign(data: Path, out: Path) -> None:
    """An ``AttackStudy`` with files and pictures."""
    attacks = {
        "pgd": PGD(8, "HU", steps=2),
        "bias": BiasFieldAttack(0.2, domain="attenuation", steps=2),
        "chain": Attack(Chain([ElasticDeformation(3.0, 12.0), AdditiveNoise(6.0, units="HU")]), steps=2),
    }
    load = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])
    cases = [{"image": str(data / f"{i}.nii"), "label": str(data / f"{i}_label.nii.gz")} for i in range(2)]
    model = AttackedModel(Threshold(), image_units="HU")
    AttackStudy(model, Dataset(cases, load), attacks, out, ["background", "organ"], progress=False).run()


def study(data: Path, out: Path) -> None:
    """A ``PurificationStudy``."""
    items = [{"image": MetaTensor(torch.from_numpy(volume(i)).float()[None])} for i in range(2)]
    for item in items:
        item["label"] = MetaTensor((item["image"] > 60).to(torch.uint8))
    defenses = place_purifiers(None, {"gaussian": GaussianDenoise(1.0), "median": MedianDenoise(1)})
    attacks = {"pgd": PGD(8, "HU", steps=2), "more": PGD(16, "HU", steps=2)}
    model = AttackedModel(Threshold(), image_units="HU")
    names = ["background", "organ"]
    PurificationStudy(model, items, defenses, attacks, out, names, samples=2, draws=2, progress=False).run()


def training(data: Path, out: Path) -> None:
    """A ``TrainingStudy`` of one short training through the command line."""
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), ScaleIntensityd("image"), DivisiblePadd(keys, 4)])
    scans = data / "scans"
    overrides = {
        "dataset_dir": str(scans),
        "cases": CASES,
        "max_epochs": 1,
        "epoch_length": 1,
        "batch_size": 1,
        "roi_size": [16, 16, 16],
    }
    TrainingStudy(
        {"clean": ["configs/train.yaml"]},
        Dataset(image_label_pairs(scans)[:2], load),
        {"FGSM": FGSM(0.05), "PGD": PGD(0.05, steps=2)},
        BUNDLE,
        out,
        ["background", "one", "two"],
        seeds=[0],
        overrides=overrides,
        progress=False,
    ).run()


def audit(data: Path, out: Path) -> None:
    """An audit with files, pictures and report."""
    files = sorted((data / "audit").glob("patient_?.nii.gz"))
    cases = [
        {"image": str(file), "label": str(file).replace(".nii.gz", "_seg.nii.gz"), "case_id": f"case_{number:03d}"}
        for number, file in enumerate(files)
    ]
    run_audit(target(), cases, PLAN, out, images=True, progress=False)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "campaign": campaign,
    "study": study,
    "training": training,
    "audit": audit,
}


def started(kind: str, data: Path, out: Path, quota: int | None = None) -> int:
    """A process that runs a study; its output goes to ``out.log``."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()  # a training's own process ends with it
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if quota is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
        show_errors_as_sentences()
        try:
            KINDS[kind](data, out)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Exit status of a process; minus the signal that ended it."""
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def figures(out: Path) -> dict[str, Any]:
    """What a study says, without seconds: records, hashes of volumes and pictures. Hashes and fingerprints in records
    change with the name of a file of weights, which torch writes into it."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if TEMPORARY.match(path.name):  # of a process that was killed; a later run removes them after a day
            continue
        if "weights" in path.parts:
            continue
        if path.name == "audit.json":
            report = json.loads(path.read_text(encoding="utf-8"))
            entries = [*report["results"], *report["cases"]]
            found[name] = [{key: value for key, value in entry.items() if key != "cost"} for entry in entries]
            found[name] += [report["health"], report["failures"], report["volumes"]]
        elif path.suffix == ".json" and path.name != "summary.json":
            record, _ = read_record(path)
            assert record is not None, name
            found[name] = {key: value for key, value in record.items() if key not in ("cost", "hashes", "fingerprint")}
        elif path.suffix in (".nii", ".gz", ".png"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def half_written(out: Path, killed: bool) -> list[str]:
    """Volumes without a record, and temporary files where the process could have removed them."""
    left = [] if killed else [str(path) for path in out.rglob("*") if TEMPORARY.match(path.name)]
    vouched: set[str] = set()
    for path in out.rglob("*.json"):
        record, _ = read_record(path)
        vouched |= set((record or {}).get("files", {}).values())
    volumes = [str(path.relative_to(out)) for path in out.rglob("*adversarial*.nii*") if not TEMPORARY.match(path.name)]
    return left + [name for name in volumes if name not in vouched and not killed]


def main() -> int:
    """Kill, start again, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_points", description=__doc__.split("\n\n")[0])
    parser.add_argument("--points", type=int, default=30, help="moments for each kind of study and signal")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["campaign", "study"])
    parser.add_argument("--signals", nargs="+", choices=list(SIGNALS), default=["KILL"])
    parser.add_argument("--quota", type=int, default=0, help="bytes of the largest file in further runs; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="JSON file for the counts; other kinds in it stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw, counts, began = random.Random(arguments.seed), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root, data = Path(folder), Path(folder) / "data"
        data.mkdir()
        for index in range(2):
            nibabel.save(nibabel.Nifti1Image(volume(index), np.diag([2.0, 2.0, 3.0, 1.0])), data / f"{index}.nii")
            label = (volume(index) > 60).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(label, np.diag([2.0, 2.0, 3.0, 1.0])), data / f"{index}_label.nii.gz")
        if "training" in arguments.kinds:
            write_invented_scans(data / "scans")
        if "audit" in arguments.kinds:
            write_cases(data / "audit")
        for kind in arguments.kinds:
            whole, start = root / f"{kind}_whole", time.perf_counter()
            status = ended(started(kind, data, whole))
            seconds = time.perf_counter() - start
            assert status == 0, Path(f"{whole}.log").read_text(encoding="utf-8")[-2000:]
            expected = figures(whole)
            for name in arguments.signals:
                counts.append(_points(kind, name, arguments.points, seconds, expected, data, root, draw))
                print(counts[-1], flush=True)
            if arguments.quota:
                counts.append(_full(kind, arguments.quota, expected, data, root))
                print(counts[-1], flush=True)
    found = {"runs": counts, "seconds": round(time.perf_counter() - began, 1)}
    if arguments.save is not None:
        if arguments.save.is_file():  # kinds and signals that were not run now stay
            earlier = json.loads(arguments.save.read_text(encoding="utf-8"))
            now = {(run["kind"], run["signal"]) for run in counts}
            kept = [run for run in earlier["runs"] if (run["kind"], run["signal"]) not in now]
            found = {"runs": kept + counts, "seconds": round(earlier["seconds"] + found["seconds"], 1)}
        with replace_when_complete(arguments.save) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if any(one["different"] or one["half_written"] for one in counts) else 0


def _points(
    kind: str, name: str, points: int, seconds: float, expected: Any, data: Path, root: Path, draw: random.Random
) -> dict[str, Any]:
    different, half, interrupted = 0, 0, 0
    for point in range(points):
        out = root / f"{kind}_{name}_{point}"
        child = started(kind, data, out)
        time.sleep(draw.uniform(0.05, 0.95) * seconds)
        os.killpg(child, SIGNALS[name])
        status = ended(child)
        interrupted += status != 0
        half += bool(half_written(out, killed=name == "KILL"))
        final = ended(started(kind, data, out))
        different += final != 0 or figures(out) != expected
    return {
        "kind": kind,
        "signal": name,
        "points": points,
        "interrupted": interrupted,
        "different": different,
        "half_written": half,
    }


def _full(kind: str, quota: int, expected: Any, data: Path, root: Path) -> dict[str, Any]:
    out = root / f"{kind}_full"
    status = ended(started(kind, data, out, quota))
    log = Path(f"{out}.log").read_text(encoding="utf-8")
    sentences = [line for line in log.splitlines() if line.startswith("error: ")]
    half = half_written(out, killed=False)
    final = ended(started(kind, data, out))
    return {
        "kind": kind,
        "signal": "full disk",
        "points": 1,
        "interrupted": int(status != 0),
        "status": status,
        "sentence": re.sub(r"/\S*/", "", sentences[0]) if len(sentences) == 1 else log[-500:],
        "different": int(final != 0 or figures(out) != expected),
        "half_written": len(half),
    }


if __name__ == "__main__":
    sys.exit(main())
