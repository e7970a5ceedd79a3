# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed, interrupted or run out of disk: nothing half-written, and the next run ends alike."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.data.saving import save_adversarial_nifti, save_label_nifti
from monai_adversarial.studies.records import write_json, write_record
from monai_adversarial.utils.files import remove_abandoned, replace_when_complete
from monai_adversarial.utils.weights import save_weights
from tests.hostile.parts import ended, study, voxels, write_image

ROOT = Path(__file__).resolve().parents[2]


def test_a_study_that_is_ended_goes_on_to_the_same_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kill_points", "--points", "1", "--kinds", "campaign"]
    command += ["--signals", "KILL", "TERM", "INT", "--quota", "3000", "--save", str(tmp_path / "found.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    runs = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["runs"]
    assert [run["signal"] for run in runs] == ["KILL", "TERM", "INT", "full disk"]
    for run in runs:
        assert run["different"] == run["half_written"] == 0
    assert runs[-1]["status"] == 1 and runs[-1]["sentence"].startswith("error: cannot write case_000_adversarial.nii")


def mounted(folder: Path) -> bool:
    """A file system of 64 KiB, where mounting is permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk):
        pytest.skip("mounting a small file system is not permitted")
    try:
        source = tmp_path / "scan.nii"
        values = np.random.default_rng(0).integers(0, 999, (40, 40, 40)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source)
        earlier = disk / "earlier.json"
        write_json(earlier, {"kept": 1})
        for write in (
            lambda: save_weights(nn.Linear(400, 400), disk / "weights.pt"),
            lambda: write_json(disk / "list.json", list(range(50_000))),
            lambda: write_record(disk / "record.json", {"a": "b" * 99_000}),
            lambda: write_json(earlier, list(range(50_000))),
            lambda: save_adversarial_nifti(values, source, disk / "a_adversarial.nii"),
            lambda: save_adversarial_nifti(values, source, disk / "a_adversarial.nii.gz"),
            lambda: save_label_nifti(values, source, disk / "a_adversarial_label.nii"),
        ):
            status, sentence = ended(write)
            assert status == 1 and sentence.startswith("cannot write") and str(disk) in sentence
            assert [path.name for path in disk.iterdir()] == ["earlier.json"]
        assert json.loads(earlier.read_text()) == {"kept": 1}
    finally:
        subprocess.run(["umount", str(disk)], check=True, timeout=20)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = write_image(tmp_path / "scan.nii")
    for write in (
        lambda: write_json(tmp_path / "file" / "a.json", {}),
        lambda: save_weights(nn.Linear(2, 2), tmp_path / "file" / "a.pt"),
        lambda: save_adversarial_nifti(voxels(), source, tmp_path / "file" / "a_adversarial.nii"),
        lambda: write_json(tmp_path / ("long" * 100) / "a.json", {}),
    ):
        status, sentence = ended(write)
        assert status == 1 and sentence.startswith("cannot write")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "scan.nii"]


def test_temporary_names_are_unique_and_abandoned_ones_go_after_a_day(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 240 + ".nii.gz")
    names = set()
    for _ in range(3):
        with replace_when_complete(target) as temporary:
            names.add(temporary.name)
            assert temporary.name.endswith(".nii.gz") and temporary.name.startswith(".")
            temporary.write_bytes(b"whole")
    assert len(names) == 3 and [path.name for path in tmp_path.iterdir()] == [target.name]
    old, new, other = tmp_path / "deep" / min(names), tmp_path / "deep" / max(names), tmp_path / "deep" / ".mine.tmp.x"
    old.parent.mkdir()
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1e9, 1e9))
    assert remove_abandoned(tmp_path) == 1
    assert sorted(path.name for path in old.parent.iterdir()) == sorted([new.name, other.name])


def test_names_and_tables_survive_a_terminal_that_knows_ascii_alone(tmp_path: Path) -> None:
    cases = [{"image": str(write_image(tmp_path / "caf\u00e9" / "b\u00fcrger.nii")), "case_id": "caf\u00e9"}]
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    with contextlib.redirect_stdout(terminal):
        study(cases, tmp_path / "out", {"\u03b5 8": PGD(8, "HU", steps=1)}, class_names=["no", "\u9aa8"]).run()
        terminal.flush()
    assert b"\\u03b5 8" in terminal.buffer.getvalue()  # type: ignore[attr-defined]
    assert "caf\u00e9" in (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
