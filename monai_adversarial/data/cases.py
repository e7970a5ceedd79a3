# SPDX-License-Identifier: Apache-2.0
"""Find the cases of a folder, a MONAI datalist or a single file."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.data.file_names import is_label_name, shown
from monai_adversarial.data.folder_layouts import FoundCase, cases_of_folder
from monai_adversarial.data.organ_masks import merged_label
from monai_adversarial.data.saving import VOLUME_ENDINGS, volume_name
from monai_adversarial.utils.validation import check_choice

__all__ = ["find_cases"]

SECTIONS = ("testing", "test", "validation", "training")
DATALISTS = ("datalist.json", "dataset.json")
UNLABELED = ("refuse", "keep", "skip")


def find_cases(
    path: str | os.PathLike[str],
    section: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    limit: int | None = None,
    anonymize: bool = True,
    unlabeled: str = "refuse",
    class_names: Sequence[str] | None = None,
    merge_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """List the cases at ``path``, ordered by name.

    ``path`` may be

    - a folder with ``images`` and ``labels``, ``imagesTs`` and ``labelsTs``, ``imagesTr`` and ``labelsTr`` (Medical
      Segmentation Decathlon, nnU-Net; labeled cases are taken before unlabeled ones), or ``img`` and ``label`` (BTCV).
      A label has its image's name, or its number (``img0001``, ``label0001``). nnU-Net's ``a_0000`` to ``a_0003`` are
      the channels of one image, a list of paths;
    - a folder of NIfTI files with their labels beside them: ``a`` and ``a_seg``, ``a_label``, ``a_mask``; ``volume-0``
      and ``segmentation-0`` (LiTS);
    - a folder of patients' folders with one image and its label each: ``imaging`` and ``segmentation`` (KiTS), ``ct``
      and ``segmentations`` with one mask per organ (TotalSegmentator), or any of the names above;
    - a MONAI datalist (``.json``) with paths relative to it, or a folder with nothing but a ``datalist.json``; an
      image of several files (BraTS) is a list of paths;
    - one NIfTI file.

    Where a folder has no labels at all, its cases are attacked and scored against the network's own clean prediction.
    Hidden files, and files that are named as adversarial, are left out of folders.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.data import find_cases
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/doe_jane.nii.gz", "labels/doe_jane.nii.gz"):
    ...         (Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         (Path(folder) / name).touch()
    ...     (case,) = find_cases(folder)
    >>> case["case_id"], Path(case["label"]).name
    ('case_000', 'doe_jane.nii.gz')

    Args:
        path: see above.
        section: key of the datalist; None takes the first of testing, test, validation, training.
        image_key: key of the image's path in what is returned, and in the datalist.
        label_key: key of the label's path.
        limit: return only so many cases; None or 0 for all.
        anonymize: name the cases case_000, case_001, ... in the order of their names instead of by the stems of their
            files, which often name patients.
        unlabeled: what becomes of images without a label beside images with one: ``"refuse"`` (ValueError that lists
            them), ``"keep"`` (scored against the network's own prediction, apart from the others) or ``"skip"``.
        class_names: names of the classes, background first, where each organ has its own mask.
        merge_dir: folder for the class maps that are merged from such masks.

    Returns:
        ``[{image_key: path, label_key: path, "case_id": name}, ...]``; ``label_key`` is there only where a label
        exists. Reports and output files are named by ``case_id`` and hold no path; set ``anonymize=False`` only where
        the names of files identify nobody.

    Raises:
        FileNotFoundError: where nothing is at ``path``, or a file of the datalist is missing.
        ValueError: for a folder without cases, a datalist that cannot be used, images without their label, labels
            without their image, and two files of one name.
    """
    check_choice("unlabeled", unlabeled, UNLABELED)
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"there is no folder, datalist or image at {root}.")
    if root.is_dir():
        cases = _of_folder(root, section, image_key, label_key, class_names, merge_dir)
    elif root.suffix == ".json":
        cases = _of_datalist(root, section, image_key, label_key)
    elif volume_name(root)[1].lower() in VOLUME_ENDINGS:
        if is_label_name(volume_name(root)[0]):
            raise ValueError(f"{root} is named as a label: a label is never attacked as an image; give its image.")
        cases = [{image_key: str(root)}]
    else:
        raise ValueError(f"{root} is neither a folder, nor a MONAI datalist (.json), nor a NIfTI file (.nii, .nii.gz).")
    if not cases:
        raise ValueError(f"there are no NIfTI images (.nii, .nii.gz) in {root}.")
    cases = _without_unlabeled(root, cases, image_key, label_key, unlabeled)
    for case in cases:
        for file in _paths(case, image_key) + _paths(case, label_key):
            if not Path(file).is_file():
                raise FileNotFoundError(f"there is no image file {file}, which {root} lists.")
    _check_counted_once(root, cases, image_key)
    stems = [case.pop("name", None) or volume_name(_paths(case, image_key)[0])[0] for case in cases]
    names = [f"case_{i:03d}" for i in range(len(cases))] if anonymize else _distinct(stems, cases, image_key)
    for case, name in zip(cases, names, strict=True):
        case["case_id"] = name
    return cases[:limit] if limit else cases


def _paths(case: dict[str, Any], key: str) -> list[str]:
    value = case.get(key, [])
    return [value] if isinstance(value, str) else list(value)


def _check_counted_once(root: Path, cases: list[dict[str, Any]], image_key: str) -> None:
    """An image that is listed twice, also by a link, would be one patient counted as two."""
    owner: dict[str, str] = {}
    for case in cases:
        for file in _paths(case, image_key):
            real = os.path.realpath(file)
            if real in owner:
                raise ValueError(
                    f"{root} lists one image twice, as {owner[real]} and as {file}: its patient would be counted "
                    "twice; keep one."
                )
            owner[real] = file


def _without_unlabeled(
    root: Path, cases: list[dict[str, Any]], image_key: str, label_key: str, unlabeled: str
) -> list[dict[str, Any]]:
    """Labels are there for all cases, for none, or as ``unlabeled`` says."""
    lacking = [case for case in cases if label_key not in case]
    if not lacking or len(lacking) == len(cases) or unlabeled == "keep":
        return cases
    if unlabeled == "skip":
        return [case for case in cases if label_key in case]
    names = shown(Path(_paths(case, image_key)[0]).name for case in lacking)
    raise ValueError(
        f"{len(lacking)} of {len(cases)} images in {root} have no label ({names}): add their labels, or pass "
        "unlabeled='skip', or unlabeled='keep' to score them against the network's own prediction."
    )


def _of_folder(
    root: Path,
    section: str | None,
    image_key: str,
    label_key: str,
    class_names: Sequence[str] | None,
    merge_dir: str | os.PathLike[str] | None,
) -> list[dict[str, Any]]:
    datalist = next((root / name for name in DATALISTS if (root / name).is_file()), None)
    if section is not None and datalist is not None:
        return _of_datalist(datalist, section, image_key, label_key)
    found = cases_of_folder(root)
    if not found and datalist is not None:
        return _of_datalist(datalist, section, image_key, label_key)
    _check_masks(root, found, class_names)
    return [_entry(case, image_key, label_key, class_names, merge_dir) for case in found]


def _check_masks(root: Path, found: Sequence[FoundCase], class_names: Sequence[str] | None) -> None:
    """An organ that lacks its mask in one case would be background there, and finding it an error of the network."""
    having = [(case, {organ for organ, _ in case.masks}) for case in found if case.masks]
    known = set().union(*(organs for _, organs in having)) & set(list(class_names or [])[1:])
    for case, organs in having:
        if lacking := sorted(known - organs):
            raise ValueError(
                f"{root} has no mask of {shown(lacking)} for {case.name}, which other cases have: add it (empty where "
                "there is none of the organ), or leave it out of class_names."
            )


def _entry(
    case: FoundCase,
    image_key: str,
    label_key: str,
    class_names: Sequence[str] | None,
    merge_dir: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    images = [str(file) for file in case.images]
    entry: dict[str, Any] = {"name": case.name, image_key: images[0] if len(images) == 1 else images}
    if case.label is not None:
        entry[label_key] = str(case.label)
    elif case.masks:
        entry[label_key] = str(merged_label(case.name, dict(case.masks), class_names, merge_dir))
    return entry


def _of_datalist(path: Path, section: str | None, image_key: str, label_key: str) -> list[dict[str, Any]]:
    content = _read_datalist(path)
    if isinstance(content, dict):
        lists = [name for name, entries in content.items() if isinstance(entries, list)]
        name = section or next((known for known in SECTIONS if content.get(known)), None)
        if name is None or not isinstance(content.get(name), list):
            raise ValueError(f"the datalist {path} has no section {section or ' / '.join(SECTIONS)}; it has {lists}.")
        content = content[name]
    if not isinstance(content, list) or not content:
        raise ValueError(f"the datalist {path} must hold a list of cases.")
    return [_listed(path, entry, image_key, label_key) for entry in content]


def _read_datalist(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"cannot read {path} as a MONAI datalist: it is not UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise ValueError(f"cannot read {path} as a MONAI datalist: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} as a MONAI datalist: {error}.") from error


def _listed(path: Path, entry: Any, image_key: str, label_key: str) -> dict[str, Any]:
    """One case of a datalist."""
    entry = {image_key: entry} if isinstance(entry, str) else entry
    image = _only(entry.get(image_key)) if isinstance(entry, dict) else None
    # An image of several files, such as the sequences of an MRI, is a list of them.
    files: list[Any] = image if isinstance(image, list) else [image]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise ValueError(
            f"every case of the datalist {path} must give the path of one image under {image_key!r}, or a list of "
            f"the files that it is made of, got {_start(entry)}."
        )
    found = [str(path.parent / file) for file in files]
    case: dict[str, Any] = {image_key: found if isinstance(image, list) else found[0]}
    label = _only(entry.get(label_key))
    if label is not None and (not isinstance(label, str) or not label):
        raise ValueError(
            f"a label of the datalist {path} must be the path of one file under {label_key!r}, got {_start(label)}."
        )
    if label is None:
        # A label that is overlooked turns a score against the truth into one against the network's own prediction.
        other = [key for key in entry if isinstance(key, str) and key != image_key and is_label_name(key)]
        if other:
            raise ValueError(
                f"a case of the datalist {path} has {other[0]!r} and no {label_key!r}: pass label_key={other[0]!r} "
                "if it is its label, or take it out."
            )
        return case
    return case | {label_key: str(path.parent / label)}


def _start(value: Any) -> str:
    """The beginning of what was given, for a sentence."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _only(value: Any) -> Any:
    """The one path of a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _distinct(stems: Sequence[str], cases: Sequence[dict[str, Any]], image_key: str) -> list[str]:
    """The stems, with the parent folder's name in front where stems repeat, and a number where that repeats too.

    Names that a file system takes for one (``A`` and ``a``, or two spellings of ``é``) repeat.
    """
    if len(set(map(_same, stems))) < len(stems):
        parents = [Path(_paths(case, image_key)[0]).parent.name for case in cases]
        stems = [f"{parent}_{stem}" for parent, stem in zip(parents, stems, strict=True)]
    names: list[str] = []
    taken: set[str] = set()
    wanted = set(map(_same, stems))
    for stem in stems:
        name, number = stem, 2
        while _same(name) in taken or (name != stem and _same(name) in wanted):
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
        taken.add(_same(name))
    return names


def _same(name: str) -> str:
    """What a file system that ignores case and spelling makes of a name."""
    return unicodedata.normalize("NFC", name).casefold()
