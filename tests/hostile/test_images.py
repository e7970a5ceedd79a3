# SPDX-License-Identifier: Apache-2.0
"""Broken images and labels in a study: their cells fail with a reason, the others go on, the exit status tells."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_adversarial.studies.records import read_record
from tests.hostile.parts import SHAPE, ended, half_written, study, voxels, write_image


def saved(values: np.ndarray, affine: np.ndarray | None = None) -> Callable[[Path], Any]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)


def patched(offset: int, content: bytes) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        write_image(path)
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(content)] = content
        path.write_bytes(raw)

    return write


def cut(length: int) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(write_image(path).read_bytes()[:length])


def with_value(value: float) -> Callable[[Path], Any]:
    values = voxels().astype(np.float32)
    values[0, 0, 0] = value
    return saved(values)


GRID = np.diag([2.0, 2.0, 3.0, 1.0])  # of ``write_image``

IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "no image file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot read"),
    "text": (lambda path: path.write_text("no image"), "cannot read"),
    "a folder": (lambda path: path.mkdir(), "no image file"),
    "half a header": (cut(100), "cannot read"),
    "half the voxels": (cut(500), "cannot read"),
    "NaN": (with_value(float("nan")), "NaN"),
    "infinite": (with_value(float("inf")), "infinite"),
    "four dimensions": (saved(np.stack([voxels()] * 2, axis=-1)), "shape"),
    "complex": (saved(voxels().astype(np.complex64)), "complex"),
    "no voxels": (saved(np.zeros((0, 7, 6), np.int16)), ""),
    "more voxels than the file": (patched(42, struct.pack("<3h", 30000, 30000, 30000)), "cannot read"),
    "negative size": (patched(42, struct.pack("<h", -5)), ""),
    "an unknown type": (patched(70, struct.pack("<h", 77)), "cannot read"),
    "a scaling without an end": (patched(112, struct.pack("<2f", 1.0, float("nan"))), "cannot read"),
    "another magic": (patched(344, b"xyz\0"), "cannot read"),
    "an affine of NaN": (patched(280, struct.pack("<12f", *[float("nan")] * 12)), ""),
}


@pytest.mark.parametrize("what", IMAGES)
def test_a_broken_image_fails_alone_and_with_its_reason(what: str, tmp_path: Path) -> None:
    write, says = IMAGES[what]
    bad = tmp_path / "bad.nii"
    write(bad)
    good = write_image(tmp_path / "good.nii", seed=1)
    cases = [{"image": str(bad), "case_id": "bad"}, {"image": str(good), "case_id": "good"}]
    out = tmp_path / "out"
    status, sentence = ended(study(cases, out).run)
    assert status == 1 and "1 of 2 cells failed, the tables cover what is done" in sentence
    assert says in sentence, sentence
    record, foreign = read_record(out / "pgd" / "bad.json")
    assert not foreign and record is not None and record["failed"] in sentence
    assert (out / "pgd" / "good_adversarial.nii").is_file() and not list(out.glob("pgd/bad*.nii"))
    assert not half_written(out)
    assert "good" in (out / "results.csv").read_text(encoding="utf-8")
    assert "bad.nii" not in (out / "summary.json").read_text(encoding="utf-8")


LABELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of another shape": (saved(np.ones((3, 3, 3), np.uint8)), "same shape"),
    "not whole": (saved(np.full(SHAPE, 0.5, np.float32), GRID), "whole"),
    "of more classes": (saved(np.full(SHAPE, 7, np.uint8), GRID), ""),
    "negative": (saved(np.full(SHAPE, -1, np.int16), GRID), ""),
    "cut": (cut(400), "cannot read"),
    "missing": (lambda path: None, "no image file"),
}


@pytest.mark.parametrize("what", LABELS)
def test_a_broken_label_never_becomes_a_score_against_the_prediction(what: str, tmp_path: Path) -> None:
    write, says = LABELS[what]
    label = tmp_path / "label.nii"
    write(label)
    good = tmp_path / "good_label.nii"
    saved((voxels(1) > 60).astype(np.uint8), GRID)(good)
    cases = [
        {"image": str(write_image(tmp_path / "a.nii")), "label": str(label), "case_id": "bad"},
        {"image": str(write_image(tmp_path / "b.nii", seed=1)), "label": str(good), "case_id": "good"},
    ]
    out = tmp_path / "out"
    status, sentence = ended(study(cases, out).run)
    assert status == 1 and "1 of 2 cells failed" in sentence and says in sentence, sentence
    assert not half_written(out) and not list(out.glob("pgd/bad*.nii"))
    assert "clean prediction" not in (out / "results.csv").read_text(encoding="utf-8")
