# SPDX-License-Identifier: Apache-2.0
"""Volumes of cases for the viewer on the page: coarse, eight bits, under a blank header."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from monai_adversarial.audit.report.names import shown
from monai_adversarial.audit.report.pictures import inside
from monai_adversarial.studies.reports.panel import COLORS

__all__ = ["BUDGET", "colors_of", "viewer_volumes"]

# Bytes of all volumes together, as text on the page, and voxels along an axis: fewer where the first does not fit.
BUDGET = 1_600_000
SIDES = (96, 64, 48, 32)
# Display window of CT, and the value below which a voxel says that an image is CT.
CT_WINDOW, AIR = (-160.0, 240.0), -500.0
IMAGES = ("clean", "adversarial")
MAPS = ("clean_prediction", "prediction")


def colors_of(classes: Sequence[str], largest: int) -> dict[str, list[Any]]:
    """Colors of class maps as NiiVue takes them: background clear, organs as in the pictures of cases.

    Args:
        classes: names by index. Where they do not begin with the background, they are not the names of all classes,
            and classes are shown by number: a wrong name would be worse.
        largest: index in the maps.
    """
    whole = [shown(name) for name in classes] if classes and str(classes[0]).lower() == "background" else []
    names = [whole[index] if index < len(whole) else f"class {index}" for index in range(max(len(whole), largest + 1))]
    organs = [COLORS[index % len(COLORS)] for index in range(len(names) - 1)]
    channels = zip("RGB", (1, 3, 5), strict=True)
    parts = {name: [0, *(int(color[at : at + 2], 16) for color in organs)] for name, at in channels}
    return {**parts, "A": [0, *[255] * len(organs)], "labels": names}


def viewer_volumes(summary: Mapping[str, Any], folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Volumes as the viewer's script reads them, in order, until the page would become too large.

    Args:
        summary: of an audit; its ``volumes`` name NIfTI files below ``folder`` and may hold the ``window`` in which
            they are shown, ``[low, high]``: otherwise that of abdominal CT, or the 1st to 99th percentile.
        folder: of the report.

    Returns:
        one entry per case and row that can be shown, and sentences that say what was reduced or left out.
    """
    entries: list[dict[str, Any]] = []
    notes: list[str] = []
    left, spent = 0, 0
    for volume in summary.get("volumes") or ():
        name = f"{shown(volume.get('case'))}, {shown(volume.get('row'))}"
        if left:
            left += 1
            continue
        files = {key: inside(folder, (volume.get(key) or {}).get("file")) for key in (*IMAGES, *MAPS)}
        found = {key: path for key, path in files.items() if path is not None}
        if "adversarial" not in found:
            notes.append(f"{name}: the file of its image is missing.")
            continue
        try:
            for side in SIDES[:1] if entries else SIDES:
                entry = _entry(found, volume.get("window"), side)
                size = sum(len(text) for text in entry["files"].values())
                if spent + size <= BUDGET:
                    break
        except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
            notes.append(f"{name}: {shown(error)}.")
            continue
        if spent + size > BUDGET:
            left += 1
            continue
        spent += size
        entries.append({"title": name, **entry})
    if entries:
        steps = sorted({entry["step"] for entry in entries})
        coarse = " or ".join("all voxels" if step == 1 else f"one of {step} voxels along each axis" for step in steps)
        notes.insert(0, f"The viewer holds {coarse}, in 256 gray levels; scores are of the whole volumes.")
    if left:
        what = "more volume is" if left == 1 else "more volumes are"
        notes.append(f"{left} {what} in the files beside this page and not in the viewer.")
    return entries, notes


def _entry(files: Mapping[str, Path], window: Sequence[float] | None, side: int) -> dict[str, Any]:
    # The type of a loaded image is not known to be spatial.
    images: dict[str, Any] = {key: nibabel.load(path) for key, path in files.items()}
    first = images["adversarial"]
    for key, image in images.items():
        if len(image.shape) != 3 or image.shape != first.shape:
            raise ValueError(f"{key} has shape {image.shape}, expected three dimensions, {first.shape}")
    step = -(-max(first.shape) // side)
    affine = np.asarray(first.affine, dtype=float).copy()
    affine[:3, :3] *= step
    # Voxels are picked, not averaged: an average would hide the change that is to be seen.
    picked = {key: np.asarray(image.dataobj[::step, ::step, ::step]) for key, image in images.items()}
    grays = {key: np.nan_to_num(picked[key].astype(np.float32)) for key in IMAGES if key in picked}
    one = grays["adversarial"]
    if window is None:
        window = CT_WINDOW if one.min() < AIR else np.percentile(one, (1, 99)).tolist()
    low, high = (float(value) for value in window)
    high = high if high > low else low + 1
    arrays = {key: _gray(image, low, high) for key, image in grays.items()}
    largest = 0.0
    if "clean" in grays:
        change = one - grays["clean"]
        largest = float(np.abs(change).max())
        arrays["difference"] = np.round(change / (largest or 1.0) * 127).astype(np.int16)
    for key in MAPS:
        if key in picked:
            arrays[key] = np.clip(picked[key], 0, 255).astype(np.uint8)
    return {
        "files": {key: _file(array, affine) for key, array in arrays.items()},
        "step": step,
        "largest": largest,
        "classes": max((int(arrays[key].max()) for key in MAPS if key in arrays), default=0),
        "window": [low, high],
    }


def _gray(image: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _file(array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any]) -> str:
    """A compressed NIfTI file as text. Its header is new: that of a scan may name a patient."""
    content = nibabel.Nifti1Image(array, affine).to_bytes()
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
