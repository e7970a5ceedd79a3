# SPDX-License-Identifier: Apache-2.0
"""What the names of image files say: which are labels, which belong to one case, which are channels of one image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from monai_adversarial.data.saving import VOLUME_ENDINGS, volume_name

__all__ = [
    "case_key",
    "channel_case",
    "channels_of_one_image",
    "is_label_name",
    "shown",
    "stem_of",
    "volumes",
    "volumes_below",
]

#: endings of images that MONAI reads and this list does not
OTHER_VOLUMES = (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".dcm")
_IMAGE_WORDS = r"(?:img|image|images|imaging|volume|vol|ct|scan)"
_LABEL_WORDS = r"(?:labels?|segmentations?|seg|masks?)"
# "segmentation-0", "label0001", "label", "a_seg", "b-labels"
_LABEL_FIRST = re.compile(rf"^{_LABEL_WORDS}(?=$|[-_. ]?\d)", re.IGNORECASE)
_LABEL_LAST = re.compile(rf"(?<=.)[-_. ]{_LABEL_WORDS}$", re.IGNORECASE)
_IMAGE_FIRST = re.compile(rf"^{_IMAGE_WORDS}(?=$|[-_. ]?\d)", re.IGNORECASE)
_IMAGE_LAST = re.compile(rf"(?<=.)[-_. ]{_IMAGE_WORDS}$", re.IGNORECASE)
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def shown(names: Iterable[str], most: int = 5) -> str:
    """A list of names for a sentence."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def stem_of(file: Path) -> str:
    """Name without its ending, ``.nii.gz`` counted as one."""
    return volume_name(file)[0]


def volumes(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name, without hidden ones and those that are named as adversarial.

    Raises:
        ValueError: for two files of the same stem, of which one would be lost, and for images of other formats beside
            NIfTI files, which would be left out.
    """
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if not _is_hidden(file) and file.is_file())
    found = [file for file in files if _is_volume(file)]
    others = [file.name for file in files if file.name.lower().endswith(OTHER_VOLUMES)]
    if found and others:
        raise ValueError(
            f"{folder} holds NIfTI files and images of other formats ({shown(others)}), which would be left out: "
            "convert them to NIfTI, or move them away."
        )
    stems: dict[str, Path] = {}
    for file in found:
        if stem_of(file) in stems:
            raise ValueError(
                f"{folder} holds {stems[stem_of(file)].name} and {file.name}: two files of one name are two images or "
                "a copy; keep one."
            )
        stems[stem_of(file)] = file
    return found


def volumes_below(folder: Path) -> list[Path]:
    """The NIfTI files anywhere below a folder; those of hidden folders and folders named as adversarial left out."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and "adversarial" not in name.lower())
        found += [Path(path, name) for name in sorted(files) if not name.startswith(".") and _is_volume(Path(name))]
    return found


def _is_hidden(file: Path) -> bool:
    return file.name.startswith(".")


def _is_volume(file: Path) -> bool:
    return volume_name(file)[1].lower() in VOLUME_ENDINGS and "adversarial" not in file.name.lower()


def is_label_name(stem: str) -> bool:
    """Whether a file is called a label: ``a_seg``, ``segmentation-0``, ``label0001``."""
    return bool(_LABEL_FIRST.search(stem) or _LABEL_LAST.search(stem))


def case_key(stem: str) -> str:
    """What image and label of one case have in common: ``volume-0`` and ``segmentation-0`` give ``0``."""
    for pattern in (_LABEL_LAST, _LABEL_FIRST, _IMAGE_LAST, _IMAGE_FIRST):
        shorter = pattern.sub("", stem)
        if shorter != stem:
            return shorter.strip("-_. ")
    return stem


def channels_of_one_image(stems: Iterable[str], labels: Iterable[str], channels: int | None = None) -> bool:
    """Whether ``_0000``, ``_0001``, ... number the channels of an image, as nnU-Net does, and not cases.

    Args:
        stems: of the images.
        labels: stems of the labels.
        channels: number of channels where the data set says it.
    """
    numbers: dict[str, list[int]] = {}
    for stem in stems:
        match = _CHANNEL.match(stem)
        if match is None:
            return False
        numbers.setdefault(match["case"], []).append(int(match["channel"]))
    counted = {tuple(sorted(found)) for found in numbers.values()}
    complete = len(counted) == 1 and (only := next(iter(counted))) == tuple(range(len(only)))
    if not complete:
        return False
    if channels is not None:
        return len(next(iter(counted))) == channels
    known = set(labels)
    if known:
        return any(case in known for case in numbers)
    return len(numbers) > 1 or next(iter(counted)) == (0,)


def channel_case(stem: str) -> str:
    """The case of a channel's file: ``case_0001`` is channel 1 of ``case``."""
    match = _CHANNEL.match(stem)
    return stem if match is None else match["case"]
