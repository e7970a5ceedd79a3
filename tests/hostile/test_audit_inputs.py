# SPDX-License-Identifier: Apache-2.0
"""Broken and hostile inputs of an audit: one sentence, an exit status, nothing half-written, and no patient's name."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.transforms import Activationsd, AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd
from PIL import Image

from monai_adversarial.audit import TargetParts
from monai_adversarial.audit.command_line import main
from tests.audit.pipeline import PLAN, SHAPE, Threshold, parts, write_cases
from tests.audit.targets.bundle_folder import scan, write_bundle
from tests.helpers import tiny_segmentation_network
from tests.hostile.parts import half_written
from tests.hostile.test_names import is_harmless

TARGET = "tests.audit.pipeline:target"
PATIENT = "Doe^Jane"
GRID = np.diag([-2.0, -2.0, 3.0, 1.0])
PGD = PLAN["rows"]["pgd"]
SMALL = {"name": "small", "rows": {"clean": PLAN["rows"]["clean"], "pgd": {**PGD, "over": {"epsilon": {"HU": [40]}}}}}
CLEAN = {"name": "clean", "rows": {"clean": PLAN["rows"]["clean"]}}
WRITTEN = ("audit.json", "report.html", "results.csv", "summary.csv")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    said: str
    shown: str
    out: Path

    @property
    def errors(self) -> list[str]:
        """Lines of stderr without progress bars and warnings of other software."""
        return [line for line in self.said.splitlines() if line.startswith(("error: ", "failed: "))]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "audit.json").read_text(encoding="utf-8"))

    def flags(self) -> set[tuple[str, str]]:
        return {(check["check"], check["verdict"]) for check in self.summary["health"] if check["verdict"] != "pass"}


def run(
    out: Path, data: Path, plan: Any = CLEAN, *options: str, target: tuple[str, str] = ("--python", TARGET)
) -> Ended:
    """One command in this process; an error that is no sentence fails the test."""
    if isinstance(plan, Mapping):
        file = data.parent / f"{out.name}_plan.yaml"
        file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
        plan = file
    command = ["audit", *target, "--data", str(data), "--plan", str(plan), "--out", str(out), "--no-pictures", *options]
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        status = main(command)
    assert "Traceback" not in said.getvalue()
    assert not out.is_dir() or not half_written(out)
    return Ended(status, said.getvalue(), shown.getvalue(), out)


def as_bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def voxels() -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a case."""
    random = np.random.default_rng(0)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[4:14, 3:15, 2:10], label[8:11, 8:11, 3:6] = 1, 2
    return np.rint(np.choose(label, (0, 60, 320)) + random.normal(0, 3, SHAPE)).astype(np.int16), label


IMAGE, LABEL = voxels()


def save(path: Path, values: np.ndarray, affine: np.ndarray = GRID) -> None:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def of(values: np.ndarray, affine: np.ndarray = GRID) -> Callable[[Path], None]:
    return lambda path: save(path, values, affine)


def patched(offset: int, content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(path, IMAGE)
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(content)] = content
        path.write_bytes(raw)

    return write


def cut(length: int, values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(path, values)
        path.write_bytes(path.read_bytes()[:length])

    return write


def with_value(value: float) -> np.ndarray:
    values = IMAGE.astype(np.float32)
    values[0, 0, 0] = value
    return values


def moved(millimeters: float) -> np.ndarray:
    affine = GRID.copy()
    affine[0, 3] = millimeters
    return affine


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half the voxels": (cut(2000, IMAGE), "cannot read <image of"),
    "empty": (lambda path: path.write_bytes(b""), "cannot read <image of"),
    "text": (lambda path: path.write_text("no image"), "cannot read <image of"),
    "NaN": (of(with_value(float("nan"))), "must be finite, got 1 NaN"),
    "infinite, which a window would hide": (of(with_value(float("inf"))), "must be finite, got 1 NaN or infinite"),
    "two volumes": (of(np.stack([IMAGE] * 2, axis=-1)), "has 2 channels, other cases have 1"),
    "one plane": (of(IMAGE[..., 0]), "5 dimensions"),
    "complex": (of(IMAGE.astype(np.complex64)), "must hold real numbers, got complex"),
    "color": (lambda path: nibabel.save(nibabel.Nifti1Image(RGB, GRID), path), "must hold real numbers"),
    "all air": (of(np.full(SHAPE, -1000, np.int16)), "has the value -1000 in every voxel"),
    "outside the window": (of((IMAGE + 2000).astype(np.int16)), "0.0% of the voxels can change"),
    "no voxels": (of(np.zeros((0, 7, 6), np.int16)), "holds no voxels"),
    "more voxels than the file": (
        patched(42, struct.pack("<3h", 30000, 30000, 30000)),
        "bytes of voxels, but it holds",
    ),
    "negative size": (patched(42, struct.pack("<h", -5)), "cannot read <image of"),
    "an unknown type": (patched(70, struct.pack("<h", 77)), "data code 77"),
    "a scaling without an end": (patched(112, struct.pack("<2f", 1.0, float("nan"))), "invalid intercept"),
    "an affine of NaN": (patched(280, struct.pack("<12f", *[float("nan")] * 12)), "affine that is no grid"),
    "a singular affine": (patched(280, struct.pack("<12f", 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0)), "is no grid"),
    "voxels of 100 m": (of(IMAGE, np.diag([1e5, 1e5, 1e5, 1.0])), "its voxel size is not in mm"),
    "another affine than its label": (of(IMAGE, np.eye(4)), "does not cover its image"),
}
LABELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of another shape": (of(LABEL[:5, :5, :5]), "does not cover its image"),
    "without its affine": (of(LABEL, np.eye(4)), "does not cover its image"),
    "40 mm away": (of(LABEL, moved(40.0)), "does not cover its image: its grid ends 40 mm before"),
    "fractions": (of(LABEL + np.float32(0.5)), "must hold whole numbers"),
    "NaN": (of(LABEL * np.float32("nan")), "must hold whole numbers"),
    "another class": (of((LABEL > 0).astype(np.uint8) * 7), "must hold class indices 0 to 2"),
    "negative": (of(-LABEL.astype(np.int16)), "must hold class indices 0 to 2"),
    "0 and 255": (of((LABEL > 0).astype(np.uint8) * 255), "must hold class indices 0 to 2"),
    "two volumes": (of(np.stack([LABEL] * 2, axis=-1)), "2 channels, but the network has 3"),
    "cut": (cut(900, LABEL), "cannot read <label of"),
    "the image itself": (of(IMAGE), "must hold class indices 0 to 2"),
    "color": (lambda path: nibabel.save(nibabel.Nifti1Image(RGB, GRID), path), "cannot read <label of"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, dict[str, str]]:
    """One audit of all broken files and a good one, and the case of each input."""
    folder = tmp_path_factory.mktemp("broken")
    data = folder / PATIENT
    data.mkdir()
    names, entries = {}, []
    table = {f"image: {what}": (write, of(LABEL)) for what, (write, _) in IMAGES.items()}
    table |= {f"label: {what}": (of(IMAGE), write) for what, (write, _) in LABELS.items()}
    table |= {"good": (of(IMAGE), of(LABEL))}
    for number, (what, (image, label)) in enumerate(table.items()):
        stem = f"{PATIENT}_{number}"
        image(data / f"{stem}.nii")
        label(data / f"{stem}_seg.nii")
        entries.append({"image": f"{stem}.nii", "label": f"{stem}_seg.nii"})
        names[what] = f"case_{number:03d}"
    (data / "dataset.json").write_text(json.dumps({"testing": entries}), encoding="utf-8")
    return run(folder / "out", data / "dataset.json", SMALL, "--images"), names


@pytest.mark.parametrize("what", [*(f"image: {one}" for one in IMAGES), *(f"label: {one}" for one in LABELS)])
def test_a_broken_file_fails_alone_and_with_its_reason(what: str, broken: tuple[Ended, dict[str, str]]) -> None:
    ended, names = broken
    kind, _, key = what.partition(": ")
    says = (IMAGES if kind == "image" else LABELS)[key][1]
    failed = {one["row"]: one["reason"] for one in ended.summary["failures"] if one["case"] == names[what]}
    assert "pgd_40" in failed and all(says in reason and "\n" not in reason for reason in failed.values()), failed
    assert not [case for case in ended.summary["cases"] if (case["case"], case["row"]) == (names[what], "pgd_40")]
    assert any(line.startswith(f"failed: {names[what]} ") for line in ended.errors)
    assert not list(ended.out.glob(f"rows/pgd_40/{names[what]}*.nii.gz"))


def test_the_others_go_on_and_the_report_says_what_is_missing(broken: tuple[Ended, dict[str, str]]) -> None:
    ended, names = broken
    assert ended.status == 1
    (attacked,) = [one for one in ended.summary["results"] if one["row"] == "pgd_40"]
    assert attacked["n"] == 1 and ended.summary["data"]["cases"] == len(names)
    assert [case["case"] for case in ended.summary["cases"] if case["row"] == "pgd_40"] == [names["good"]]
    (missing,) = [c for c in ended.summary["health"] if (c["check"], c["row"]) == ("all cases", "pgd_40")]
    assert missing["verdict"] == "fail" and f"{len(names) - 1} of {len(names)} cases" in missing["text"]
    assert "fail: all cases" in ended.shown


def test_no_file_of_the_report_names_the_patient(broken: tuple[Ended, dict[str, str]]) -> None:
    for name in WRITTEN:
        text = (broken[0].out / name).read_text(encoding="utf-8")
        assert PATIENT not in text and "Doe^" not in text and "^Jane" not in text, name


def _plan(**changes: Any) -> dict[str, Any]:
    return {"name": "own", "rows": {"a": {**PGD, **changes}}}


PLANS: dict[str, tuple[Any, str]] = {
    "no rows": ({"name": "own", "rows": {}}, "rows of the plan must map names to rows"),
    "without the key rows": ({"name": "own"}, "lacks the key 'rows'"),
    "without a name": ({"rows": SMALL["rows"]}, "lacks the key 'name'"),
    "a mistyped key": ({**SMALL, "sed": 1}, "has no key 'sed' (did you mean 'seed'?)"),
    "a row that is text": ({"name": "own", "rows": {"a": "PGD"}}, "row 'a' of the plan must be a mapping, got str"),
    "a row that is a list": ({"name": "own", "rows": {"a": [1]}}, "row 'a' of the plan must be a mapping, got list"),
    "a row without its family": ({"name": "own", "rows": {"a": {"title": "A"}}}, "lacks the key 'family'"),
    "an attack that is text": (_plan(attack="PGD"), "attack of row 'a' must be a component"),
    "an attack that is none": (_plan(attack={"_target_": "builtins.dict"}), "must be a monai_adversarial.attacks"),
    "budgets that are text": (_plan(over={"epsilon": {"HU": ["x"]}}), "must give numbers for 'epsilon', got 'x'"),
    "a negative budget": (_plan(over={"epsilon": {"HU": [-1]}}), "epsilon must be a finite number >= 0"),
    "one budget twice": (_plan(over={"epsilon": {"HU": [5, 5]}}), "a_5 come twice"),
    "a seed that is text": ({**SMALL, "seed": "abc"}, "seed of the plan must be a whole number >= 0, got 'abc'"),
    "a tolerance that is text": ({**SMALL, "surface_tolerance_mm": "x"}, "surface_tolerance_mm must be > 0 mm"),
    "ids that are a number": (_plan(ids=5), "ids of row 'a' must be a list"),
    "another modality": (_plan(modality="PET"), "modality of row 'a' must be one of CT, MRI"),
    "no YAML": ("rows: [", "as YAML"),
    "a list": ("- rows", "must be a mapping"),
    "not UTF-8": ("name: é".encode("latin-1"), "is not UTF-8 (byte 6)"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good cases."""
    folder = tmp_path_factory.mktemp("good")
    write_cases(folder / "data")
    return folder / "data"


def refused(ended: Ended, sentence: str) -> None:
    """One sentence, status 2, and no work done."""
    assert ended.status == 2
    assert len(ended.errors) == 1 and ended.errors[0].startswith("error: ") and sentence in ended.errors[0], ended.said
    assert not (ended.out / "rows").exists() and not (ended.out / "audit.json").exists()


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_cannot_be_read_is_refused(what: str, good: Path, tmp_path: Path) -> None:
    content, sentence = PLANS[what]
    if not isinstance(content, Mapping):
        file = tmp_path / "plan.yaml"
        file.write_bytes(as_bytes(content))
        content = file
    refused(run(tmp_path / "out", good, content), sentence)


CSVS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "must have a header"),
    "a case that is lacking": ("case,s\npatient_0,a\n", "do not name 1 of 2 cases"),
    "a case twice": ("case,s\npatient_0,a\npatient_0,b\n", "name the case 'patient_0' twice"),
    "a case under two names": ("case,s\npatient_0,a\ncase_000,b\npatient_1,c\n", "name one case twice"),
    "a column twice": ("case,s,s\npatient_0,a,b\npatient_1,b,a\n", "have the column 's' twice"),
    "more cells than columns": ("case,s\npatient_0,a,b\npatient_1,b\n", "more cells than columns"),
    "not UTF-8": ("case,s\npatient_0,é\n".encode("latin-1"), "are not UTF-8"),
}


@pytest.mark.parametrize("what", CSVS)
def test_subgroups_that_cannot_be_read_are_refused(what: str, good: Path, tmp_path: Path) -> None:
    content, sentence = CSVS[what]
    file = tmp_path / "groups.csv"
    file.write_bytes(as_bytes(content))
    refused(run(tmp_path / "out", good, CLEAN, "--subgroups", str(file)), sentence)


COMPARED: dict[str, tuple[str | bytes, str]] = {
    "text": ("no audit", "cannot be read as JSON"),
    "a list": ("[]", "is of schema 'list'"),
    "another schema": ('{"schema": 9}', "is of schema 9"),
    "nothing but a schema": ('{"schema": 1}', "['title'] is NoneType"),
    "bytes": (b"\xff", "cannot be read as JSON"),
}


@pytest.mark.parametrize("what", COMPARED)
def test_another_audit_that_is_none_is_refused_before_the_work(what: str, good: Path, tmp_path: Path) -> None:
    content, sentence = COMPARED[what]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "audit.json").write_bytes(as_bytes(content))
    refused(run(tmp_path / "out", good, CLEAN, "--compare", str(tmp_path / "other")), sentence)


OPTIONS: dict[str, tuple[list[str], str]] = {
    "a negative limit": (["--limit", "-1"], "limit must be a number of cases >= 0, got -1"),
    "a negative seed": (["--seed", "-5"], "seed of the plan must be a whole number >= 0, got -5"),
    "a device that is not used": (["--device", "cuda:7"], "--device means nothing for --python"),
    "names that are not used": (["--class-names", "a,b"], "--class-names means nothing for --python"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_an_option_that_would_do_nothing_is_refused(what: str, good: Path, tmp_path: Path) -> None:
    options, sentence = OPTIONS[what]
    refused(run(tmp_path / "out", good, CLEAN, *options), sentence)


@pytest.mark.parametrize("below", ["", "further"])
def test_a_folder_that_cannot_be_written_is_refused(below: str, good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    ended = run(tmp_path / "file" / below if below else tmp_path / "file", good)
    assert ended.status == 2 and "cannot create the output folder" in ended.errors[0]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


TARGETS = {
    "no module": ("no_such_module:target", "No module named 'no_such_module'"),
    "no such name": ("hostile_target:nothing", "has no 'nothing'"),
    "fails by itself": ("hostile_target:fails", "fails by itself: ZeroDivisionError"),
    "ends the process": ("hostile_target:ends", "fails by itself: SystemExit"),
    "no target": ("hostile_target:none", "model must be an AuditTarget"),
}


@pytest.mark.parametrize("what", TARGETS)
def test_a_target_that_is_none_is_refused(
    what: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "def fails():\n    return 1 / 0\n\n\ndef ends():\n    raise SystemExit(3)\n\n\ndef none():\n    return None\n"
    )
    (tmp_path / "hostile_target.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hostile_target", raising=False)
    name, sentence = TARGETS[what]
    refused(run(tmp_path / "out", good, target=("--python", name)), sentence)


BUNDLES: dict[str, tuple[dict[str, Any], str]] = {
    "absent weights": ({"weights": None}, "there are no weights at"),
    "weights of another network": ({"weights": {"model": tiny_segmentation_network(1, 5).state_dict()}}, "do not fit"),
    "pickled weights": ({"weights": {"model": tiny_segmentation_network(1, 3)}}, "pass --trust"),
    "fails by itself": ({"changes": {"network_def#img_size": 96}}, "itself fails on MONAI"),
    "classifies": (
        {
            "metadata": {
                "network_data_format#outputs#pred#type": "probabilities",
                "network_data_format#outputs#pred#format": "classes",
            }
        },  # fmt: skip
        "does not segment",
    ),
    "training mode": ({"changes": {"evaluator#mode": "train"}}, "in training mode"),
}


@pytest.mark.parametrize("what", BUNDLES)
def test_a_bundle_that_cannot_be_audited_is_refused(what: str, tmp_path: Path) -> None:
    options, sentence = BUNDLES[what]
    root = write_bundle(tmp_path / "bundle", **options)
    (tmp_path / "data").mkdir()
    scan(tmp_path / "data")
    refused(run(tmp_path / "out", tmp_path / "data", target=("--bundle", str(root))), sentence)


def test_a_wrong_number_of_class_names_is_said(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.audit.pipeline.target", lambda: parts(told={"class_names": ["background", "liver"]}))
    ended = run(tmp_path / "out", good)
    assert ended.status == 1 and "class_names holds 2 names, but the network has 3 output channels" in ended.errors[0]
    assert not (ended.out / "audit.json").exists()


def test_names_of_files_and_classes_are_text_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ["<script>alert(1)</script>", "$x_{1}$ =1+1", "\x1b[31mred\nline", "..", "=1+1"]
    (tmp_path / "data").mkdir()
    for stem in (name.replace("/", "_") for name in bad):
        save(tmp_path / "data" / f"{stem}.nii", IMAGE + len(stem))
        save(tmp_path / "data" / f"{stem}_seg.nii", LABEL)
    classes = ["background", "<img src=x>$", "=cmd()\x1b[31m\n"]
    monkeypatch.setattr("tests.audit.pipeline.target", lambda: parts(told={"class_names": classes}))
    groups = "".join(f'"{name}.nii",=2+2<b>\n' for name in (n.replace("/", "_") for n in bad))
    (tmp_path / "groups.csv").write_text(f"case,=col<i>\n{groups}", encoding="utf-8", newline="")
    ended = run(tmp_path / "out", tmp_path / "data", CLEAN, "--names", "--subgroups", str(tmp_path / "groups.csv"))
    assert ended.status == 0, ended.said
    assert is_harmless(ended.shown.replace("\r", "")) and is_harmless(ended.said.replace("\r", ""))
    page = (ended.out / "report.html").read_text(encoding="utf-8")
    for tag in ("<script>alert", "<img src=x>", "<b>", "<i>", "\x1b"):
        assert tag not in page.replace("<b>\n", "")
    for name in ("results.csv", "summary.csv"):
        with open(ended.out / name, newline="", encoding="utf-8") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t")) or "\x1b" in cell]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "groups.csv", "out", "out_plan.yaml"]


def _edited(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["mean"]["adversarial"]["dice"] = 1.0
    path.write_text(json.dumps(content), encoding="utf-8")


#: records and volumes that are changed between two runs, one of each for every case
RECORDS: dict[str, Callable[[Path], Any]] = {
    "edited": _edited,
    "foreign": lambda path: path.write_text('{"mean": 1}', encoding="utf-8"),
    "nested": lambda path: path.write_text("[" * 3000, encoding="utf-8"),
}
VOLUMES: dict[str, Callable[[Path], Any]] = {
    "swapped": lambda path: save(path, IMAGE),
    "empty": lambda path: path.write_bytes(b""),
    "absent": lambda path: path.unlink(),
}


def test_records_and_volumes_that_somebody_changed_run_again(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    write_cases(data, 3)
    first = run(out, data, SMALL, "--images")
    assert first.status == 0
    for number, (record, volume) in enumerate(zip(RECORDS.values(), VOLUMES.values(), strict=True)):
        record(out / "rows" / "pgd_40" / f"case_{number:03d}.json")
        volume(out / "rows" / "clean" / f"case_{number:03d}_clean.nii.gz")
    again = run(out, data, SMALL, "--images")
    assert again.status == 0 and "0 of 6 cells are done already" not in again.shown
    for number in range(3):
        assert f"pgd_40/case_{number:03d}.json is no record of this study or was changed" in again.said
        assert f"clean/case_{number:03d}.json vouches for files that are missing or were changed" in again.said
    assert [one["mean"] for one in again.summary["results"]] == [one["mean"] for one in first.summary["results"]]


def test_two_files_of_one_name_and_one_file_twice_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    save(data / "a.nii", IMAGE)
    (data / "dataset.json").write_text(json.dumps({"testing": [{"image": "a.nii"}] * 2}), encoding="utf-8")
    refused(run(tmp_path / "one", data / "dataset.json"), "lists one image twice")
    save(data / "a.nii.gz", IMAGE)
    refused(run(tmp_path / "two", data), "two files of one name")


def test_patients_of_one_name_stay_two(tmp_path: Path) -> None:
    entries = []
    for number, folder in enumerate(("x", "y")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        save(tmp_path / "data" / folder / "scan.nii", IMAGE + number)
        entries.append({"image": f"{folder}/scan.nii"})
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"testing": entries}), encoding="utf-8")
    ended = run(tmp_path / "out", tmp_path / "data" / "dataset.json", CLEAN, "--names")
    assert ended.status == 0 and len({case["case"] for case in ended.summary["cases"]}) == 2


class Constant(torch.nn.Module):
    """Liver everywhere, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        zero = image * 0
        return torch.cat([zero, zero + self.level, zero], dim=1)


class Atlas(torch.nn.Module):
    """The average anatomy, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        zero = image * 0
        organ = zero.detach().clone()
        organ[..., 3:7, 3:7, 2:6] = 1.0
        return torch.cat([zero, organ * self.level, zero - 1], dim=1)


class Random(Threshold):
    """Answers with noise, as dropout that was left on."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image + 0.05 * torch.randn_like(image))


class NotANumber(Threshold):
    """Answers NaN."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * float("nan")


def hides_changes(network: torch.nn.Module) -> TargetParts:
    """Postprocessing that gives what was deployed first, whatever the network says."""
    made = parts(network)
    plain, kept = made.postprocessing, []

    def first_answer(item: Any) -> Any:
        found = plain(item)  # type: ignore[misc]
        kept.append(found["pred"].clone())
        return {**found, "pred": kept[0].clone()}

    made.postprocessing = first_answer
    return made


FLATTERING: dict[str, tuple[Callable[[], Any], tuple[str, str]]] = {
    "a constant": (lambda: parts(Constant()), ("constant answer", "fail")),
    "the average anatomy": (lambda: parts(Atlas()), ("follows the image", "fail")),
    "chance": (lambda: parts(Random()), ("same answer twice", "warn")),
    "postprocessing that hides the change": (lambda: hides_changes(Threshold()), ("deployed as attacked", "warn")),
    "nothing": (lambda: parts(Threshold(0.0)), ("empty prediction", "fail")),
}


@pytest.mark.parametrize("what", FLATTERING)
def test_what_looks_robust_and_is_not_is_flagged(
    what: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, flag = FLATTERING[what]
    monkeypatch.setattr("tests.audit.pipeline.target", made)
    ended = run(tmp_path / "out", good, SMALL, "--no-labels")
    assert ended.status == 0, ended.said
    assert flag in ended.flags(), ended.shown
    assert f"{flag[1]}: {flag[0]}" in ended.shown and flag[0] in (ended.out / "report.html").read_text(encoding="utf-8")


def test_a_network_that_answers_nan_is_no_result(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.audit.pipeline.target", lambda: parts(NotANumber()))
    ended = run(tmp_path / "out", good, SMALL, "--no-labels")
    assert ended.status == 1 and "NaN" in ended.errors[0] and not (ended.out / "audit.json").exists()


def test_an_attack_that_does_nothing_is_no_robustness(good: Path, tmp_path: Path) -> None:
    ended = run(tmp_path / "out", good, _plan(over={"epsilon": {"HU": [0]}}))
    assert {("images change", "fail"), ("stronger than chance", "warn")} <= ended.flags()


def test_a_plan_without_attacks_and_a_copied_scan_are_flagged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a", "b", "c"):
        save(data / f"{name}.nii", IMAGE if name != "c" else IMAGE + 1)
        save(data / f"{name}_seg.nii", LABEL if name != "c" else LABEL * 0)
    ended = run(tmp_path / "out", data, CLEAN)
    flags = {("something was attacked", "warn"), ("different cases", "fail"), ("empty label", "warn")}
    assert flags <= ended.flags() and "case_000 = case_001" in ended.shown


def test_a_shard_alone_says_which_cases_it_lacks(good: Path, tmp_path: Path) -> None:
    ended = run(tmp_path / "out", good, CLEAN, "--shard", "0/2")
    assert ("all cases", "fail") in ended.flags()
    assert ("all cases", "fail") not in run(tmp_path / "out", good, CLEAN).flags()


def test_a_color_picture_and_a_file_without_voxel_size(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data / f"{PATIENT}.png")
    nibabel.save(nibabel.Nifti1Image(IMAGE, None), data / "plain.nii")
    entries = [{"image": f"{PATIENT}.png"}, {"image": "plain.nii"}]
    (data / "dataset.json").write_text(json.dumps({"testing": entries}), encoding="utf-8")
    ended = run(tmp_path / "out", data / "dataset.json")
    assert ended.status == 1 and "has 3 channels, other cases have 1" in ended.errors[0]
    assert ("voxel size", "warn") in ended.flags() and PATIENT not in json.dumps(ended.summary)


def test_budgets_of_the_images_range_on_an_image_that_is_nearly_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), NormalizeIntensityd("image")])
    deployed = Compose([Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)])
    monkeypatch.setattr("tests.audit.pipeline.target", lambda: parts(preprocessing=read, postprocessing=deployed))
    values = np.full(SHAPE, 60, np.int16)
    values[10, 9, 6] = 61
    save(tmp_path / "flat.nii", values)
    ended = run(tmp_path / "out", tmp_path / "flat.nii", _plan(over={"epsilon": {"percentile": [0.05]}}))
    assert ("images change", "fail") in ended.flags()


def test_labels_that_are_empty_in_every_case_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    save(tmp_path / "data" / "a.nii", IMAGE)
    save(tmp_path / "data" / "a_seg.nii", LABEL * 0)
    refused(run(tmp_path / "out", tmp_path / "data"), "none of the network's organs")


def test_one_case_has_no_interval(tmp_path: Path, good: Path) -> None:
    ended = run(tmp_path / "out", good, CLEAN, "--limit", "1")
    mean = ended.summary["results"][0]["mean"]["clean"]["dice"]
    assert ended.summary["results"][0]["n"] == 1 and mean["low"] is None and mean["high"] is None


def test_an_image_of_inverted_brightness_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    save(data / "a.nii", 320 - IMAGE)
    save(data / "a_seg.nii", LABEL)
    ended = run(tmp_path / "out", data, CLEAN)
    (found,) = [one for one in ended.summary["health"] if one["check"] == "input as the network was built for"]
    assert found["verdict"] == "fail" and "when the image is inverted (dark for bright)" in found["text"]
    assert found["text"] in ended.shown
