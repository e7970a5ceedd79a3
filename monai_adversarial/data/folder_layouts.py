# SPDX-License-Identifier: Apache-2.0
"""How public data sets lay out images and labels in folders.

An image without a label beside labels, and a label without an image beside it, are errors that list names: a lost label
would turn a score against the truth into a score against the network's own prediction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_adversarial.data.file_names import (
    case_key,
    channel_case,
    channels_of_one_image,
    is_label_name,
    shown,
    stem_of,
    volumes,
    volumes_below,
)

__all__ = ["FoundCase", "cases_of_folder"]

# A folder of images and the folder of their labels, held-out cases first: plain, as the Medical Segmentation Decathlon
# and nnU-Net, and as BTCV name them.
FOLDER_PAIRS = (
    ("imagesTs", "labelsTs"),
    ("images", "labels"),
    ("imagesVal", "labelsVal"),
    ("imagesTr", "labelsTr"),
    ("img", "label"),
    ("image", "label"),
    ("images", "masks"),
)
MASK_FOLDER = "segmentations"  # one file per organ, as TotalSegmentator writes them


@dataclass(frozen=True)
class FoundCase:
    """One case of a folder.

    Args:
        name: stem of its file, or the name of its folder.
        images: its channels, one file for most.
        label: class map; None where the folder has no labels.
        masks: organ -> file, where each organ has its own.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    masks: tuple[tuple[str, Path], ...] = ()


def cases_of_folder(root: Path) -> list[FoundCase]:
    """The cases below a folder; empty where it holds none.

    Raises:
        ValueError: for labels without images, images that share a label, and folders that hold several images.
    """
    pairs = [(images, labels) for images, labels in FOLDER_PAIRS if volumes(root / images)]
    with_labels = [pair for pair in pairs if volumes(root / pair[1])]
    if pairs:
        return _paired_folders(root, *(with_labels or pairs)[0])
    if (root / MASK_FOLDER).is_dir() and volumes(root):
        return _patient_folder(root)
    flat = _flat(root)
    subfolders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if flat:
        beside = [folder.name for folder in subfolders if volumes_below(folder)]
        if beside:
            raise ValueError(
                f"{root} holds images and folders with images ({shown(beside)}), which would be left out: name one "
                "folder, or move the others away."
            )
        return flat
    nested = [folder for folder in subfolders if any(volumes(folder / images) for images, _ in FOLDER_PAIRS)]
    if len(nested) == 1:
        return cases_of_folder(nested[0])
    if nested:
        raise ValueError(
            f"{root} holds several data sets ({', '.join(folder.name for folder in nested[:5])}): name one of them."
        )
    found = [(folder, _patient_folder(folder)) for folder in subfolders]
    lost = [folder.name for folder, cases in found if not cases and volumes_below(folder)]
    if lost:
        raise ValueError(
            f"{root} holds folders whose images lie deeper ({shown(lost)}): each patient's folder holds one image and "
            "its label."
        )
    return [case for _, cases in found for case in cases]


def _channel_count(root: Path) -> int | None:
    """Number of channels of each image, where an nnU-Net or Decathlon ``dataset.json`` says it."""
    try:
        content: Any = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = content.get("channel_names") or content.get("modality") if isinstance(content, dict) else None
    return len(names) if isinstance(names, (dict, list)) else None


def _paired_folders(root: Path, images: str, labels: str) -> list[FoundCase]:
    files, found = volumes(root / images), volumes(root / labels)
    by_stem = {stem_of(file): file for file in found}
    by_key: dict[str, list[Path]] = {}
    for file in found:
        by_key.setdefault(case_key(stem_of(file)), []).append(file)
    stems = [stem_of(file) for file in files]
    grouped: dict[str, list[Path]] = {}
    if channels_of_one_image(stems, by_stem, _channel_count(root)):
        for file in files:
            grouped.setdefault(channel_case(stem_of(file)), []).append(file)
    else:
        grouped = {stem_of(file): [file] for file in files}
    for part in (images, labels):
        deeper = [str(file.relative_to(root)) for file in volumes_below(root / part) if file.parent != root / part]
        if deeper:
            raise ValueError(
                f"{root} holds files in folders of {part} ({shown(deeper)}), which would be left out: put them beside "
                "the others."
            )
    cases = []
    for name, channels in grouped.items():
        keyed = by_key.get(case_key(name), [])
        label = by_stem.get(name) or by_stem.get(name.removesuffix("_0000")) or (keyed[0] if len(keyed) == 1 else None)
        cases.append(FoundCase(stem_of(channels[0]) if len(channels) == 1 else name, tuple(channels), label))
    _check_shared(root, cases)
    used = {case.label for case in cases}
    lost = [file.name for file in found if file not in used]
    if lost and used != {None}:
        raise ValueError(
            f"{root / labels} holds labels without an image in {images} ({shown(lost)}): a patient is missing; add the "
            "image, or take the label away."
        )
    return cases


def _flat(root: Path) -> list[FoundCase]:
    """Images and labels side by side: ``a`` and ``a_seg``, ``volume-0`` and ``segmentation-0``."""
    files = volumes(root)
    labels = [file for file in files if is_label_name(stem_of(file))]
    images = [file for file in files if file not in labels]
    taken: set[Path] = set()
    cases = []
    for image in images:
        stem = stem_of(image)
        own = [file for file in labels if case_key(stem_of(file)) in (stem, case_key(stem))]
        if len(own) > 1:
            raise ValueError(
                f"{root} holds {len(own)} labels for {image.name} ({', '.join(file.name for file in own)}): keep one."
            )
        taken.update(own)
        cases.append(FoundCase(stem, (image,), own[0] if own else None))
    lost = [file.name for file in labels if file not in taken]
    if lost:
        raise ValueError(
            f"{root} holds labels without an image ({shown(lost)}): a label is never attacked as an image; add its "
            "image, or rename it if it is one."
        )
    _check_shared(root, cases)
    return cases


def _patient_folder(folder: Path) -> list[FoundCase]:
    """One case in a folder of its own, as KiTS and TotalSegmentator have it."""
    cases = _flat(folder)
    if not cases:
        return []
    if len(cases) > 1:
        raise ValueError(
            f"{folder} holds {len(cases)} images ({shown(case.images[0].name for case in cases)}): which one is the "
            "case? Keep one image and its label in each folder."
        )
    (case,) = cases
    masks = () if case.label else tuple((stem_of(file), file) for file in volumes(folder / MASK_FOLDER))
    return [FoundCase(folder.name, case.images, case.label, masks)]


def _check_shared(root: Path, cases: list[FoundCase]) -> None:
    owner: dict[Path, str] = {}
    for case in cases:
        if case.label is None:
            continue
        if case.label in owner:
            raise ValueError(
                f"{root} holds one label, {case.label.name}, for the images {owner[case.label]} and {case.name}: give "
                "each its own."
            )
        owner[case.label] = case.name
