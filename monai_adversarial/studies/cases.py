# SPDX-License-Identifier: Apache-2.0
"""Find the cases of a folder, a MONAI datalist or a single file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.data.saving import VOLUME_ENDINGS, volume_name

__all__ = ["find_cases"]

# A folder of images and the folder of their labels: plain, and as the Medical Segmentation Decathlon and nnU-Net name
# them.
FOLDER_PAIRS = (("images", "labels"), ("imagesTs", "labelsTs"), ("imagesTr", "labelsTr"), ("imagesVal", "labelsVal"))
LABEL_ENDINGS = ("_label", "_labels", "_seg", "_segmentation", "_mask", "-label", "-labels", "-seg")
SECTIONS = ("testing", "test", "validation", "training")


def find_cases(
    path: str | os.PathLike[str],
    section: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    limit: int | None = None,
    anonymize: bool = True,
) -> list[dict[str, Any]]:
    """List the cases at ``path``, ordered by name.

    ``path`` may be

    - a folder with ``images`` and ``labels`` (or ``imagesTs`` / ``labelsTs``, ``imagesTr`` / ``labelsTr``): a label
      has its image's name, nnU-Net's ``_0000`` apart;
    - a folder of NIfTI files; ``<name>_label``, ``<name>_seg``, ``<name>_mask`` beside an image are its label;
    - a MONAI datalist (``.json``) with paths relative to it, or a folder with nothing but a ``datalist.json``;
    - one NIfTI file.

    A case without a label is attacked and scored against the network's own clean prediction.
    Files that are named as adversarial are left out of folders, so that an output folder below the input does no harm.

    Args:
        path: see above.
        section: key of the datalist; None takes the first of testing, test, validation, training.
        image_key: key of the image's path in what is returned, and in the datalist.
        label_key: key of the label's path.
        limit: return only so many cases; None or 0 for all.
        anonymize: name the cases case_000, case_001, ... in the order of their names instead of by the stems of their
            files, which often name patients.

    Returns:
        ``[{image_key: path, label_key: path, "case_id": name}, ...]``; ``label_key`` is there only where a label
        exists. Reports and output files are named by ``case_id`` and hold no path; set ``anonymize=False`` only where
        the names of files identify nobody.

    Raises:
        FileNotFoundError: where nothing is at ``path``, or a file of the datalist is missing.
        ValueError: for a folder without cases, or a datalist that cannot be used.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"there is no folder, datalist or image at {root}.")
    if root.is_dir():
        cases = _from_folder(root, section, image_key, label_key)
    elif root.suffix == ".json":
        cases = _from_datalist(root, section, image_key, label_key)
    elif volume_name(root)[1].lower() in VOLUME_ENDINGS:
        cases = [{image_key: str(root)}]
    else:
        raise ValueError(f"{root} is neither a folder, nor a MONAI datalist (.json), nor a NIfTI file (.nii, .nii.gz).")
    if not cases:
        raise ValueError(f"there are no NIfTI images (.nii, .nii.gz) in {root}.")
    for case in cases:
        for key in (image_key, label_key):
            if key in case and not Path(case[key]).is_file():
                raise FileNotFoundError(f"there is no image file {case[key]}, which {root} lists.")
    names = (
        [f"case_{i:03d}" for i in range(len(cases))] if anonymize else _distinct_names([c[image_key] for c in cases])
    )
    for case, name in zip(cases, names, strict=True):
        case["case_id"] = name
    return cases[:limit] if limit else cases


def _volumes(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and volume_name(file)[1].lower() in VOLUME_ENDINGS
        and "adversarial" not in file.name.lower()
    )


def _from_folder(root: Path, section: str | None, image_key: str, label_key: str) -> list[dict[str, Any]]:
    if section is not None or not any((root / images).is_dir() for images, _ in FOLDER_PAIRS) and not _volumes(root):
        datalist = root / "datalist.json"
        if datalist.is_file():
            return _from_datalist(datalist, section, image_key, label_key)
    for images, labels in FOLDER_PAIRS:
        if (root / images).is_dir():
            by_stem = {volume_name(f)[0]: f for f in _volumes(root / labels)} if (root / labels).is_dir() else {}
            cases = []
            for image in _volumes(root / images):
                stem = volume_name(image)[0]
                label = by_stem.get(stem) or by_stem.get(stem.removesuffix("_0000"))
                cases.append({image_key: str(image)} | ({} if label is None else {label_key: str(label)}))
            return cases
    files = {volume_name(f)[0]: f for f in _volumes(root)}
    labels_of: dict[str, Path] = {}
    for stem, file in files.items():
        for ending in LABEL_ENDINGS:
            if stem.endswith(ending) and stem.removesuffix(ending) in files:
                labels_of.setdefault(stem.removesuffix(ending), file)
    taken = set(labels_of.values())
    return [
        {image_key: str(file)} | ({label_key: str(labels_of[stem])} if stem in labels_of else {})
        for stem, file in files.items()
        if file not in taken
    ]


def _from_datalist(path: Path, section: str | None, image_key: str, label_key: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} as a MONAI datalist: {error}.") from error
    if isinstance(content, dict):
        lists = [name for name, entries in content.items() if isinstance(entries, list)]
        name = section or next((known for known in SECTIONS if content.get(known)), None)
        if name is None or not isinstance(content.get(name), list):
            raise ValueError(f"the datalist {path} has no section {section or ' / '.join(SECTIONS)}; it has {lists}.")
        content = content[name]
    if not isinstance(content, list) or not content:
        raise ValueError(f"the datalist {path} must hold a list of cases.")
    cases = []
    for entry in content:
        entry = {image_key: entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get(image_key), str):
            raise ValueError(
                f"every case of the datalist {path} must give the path of one image under {image_key!r}, got {entry!r}."
            )
        case = {image_key: str(path.parent / entry[image_key])}
        if isinstance(entry.get(label_key), str):
            case[label_key] = str(path.parent / entry[label_key])
        cases.append(case)
    return cases


def _distinct_names(paths: Sequence[str]) -> list[str]:
    """File stems, with the parent folder's name in front where stems repeat, and a number where that repeats too."""
    stems = [volume_name(path)[0] for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{Path(path).parent.name}_{stem}" for path, stem in zip(paths, stems, strict=True)]
    seen: dict[str, int] = {}
    names = []
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}_{seen[stem]}")
    return names
