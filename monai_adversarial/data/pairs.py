# SPDX-License-Identifier: Apache-2.0
"""Images and labels of the same name in two folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["image_label_pairs", "split_cases"]


def image_label_pairs(
    folder: str | os.PathLike[str], images: str = "images", labels: str = "labels", suffix: str = ".nii.gz"
) -> list[dict[str, str]]:
    """``[{"image": path, "label": path}]`` of the files that both folders have, sorted by name.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.data import image_label_pairs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/a.nii.gz", "labels/a.nii.gz", "images/without_label.nii.gz"):
    ...         (Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         (Path(folder) / name).touch()
    ...     pairs = image_label_pairs(folder)
    >>> [Path(pair["label"]).name for pair in pairs]
    ['a.nii.gz']

    Args:
        folder: holds both.
        images: folder of the images.
        labels: folder of the labels.
        suffix: of the files' names.

    Raises:
        FileNotFoundError: for a missing folder, or when no file occurs in both.
    """
    root = Path(folder)
    for part in (images, labels):
        if not (root / part).is_dir():
            raise FileNotFoundError(f"folder must hold {images!r} and {labels!r}, but there is no {root / part}.")
    names = sorted(path.name for path in (root / images).iterdir() if path.name.endswith(suffix))
    pairs = [
        {"image": str(root / images / name), "label": str(root / labels / name)}
        for name in names
        if (root / labels / name).is_file()
    ]
    if not pairs:
        raise FileNotFoundError(f"no file *{suffix} occurs in both {images!r} and {labels!r} of {root}.")
    return pairs


def split_cases(
    cases: list[dict[str, str]], sizes: Mapping[str, int | None], seed: int = 0
) -> dict[str, list[dict[str, str]]]:
    """Shuffle the cases and deal them out.

    >>> from monai_adversarial.data import split_cases
    >>> cases = [{"image": f"case_{number}.nii.gz"} for number in range(10)]
    >>> parts = split_cases(cases, {"test": 2, "validation": 3, "training": None}, seed=1)
    >>> {name: len(part) for name, part in parts.items()}
    {'test': 2, 'validation': 3, 'training': 5}

    Args:
        cases: one per patient.
        sizes: name of a part -> number of its cases, in this order; None for all that are left (last part only).
        seed: of the shuffling.

    Raises:
        ValueError: for fewer cases than are asked for.
    """
    order = np.random.RandomState(seed).permutation(len(cases))
    wanted = sum(size for size in sizes.values() if size is not None)
    if wanted > len(cases):
        raise ValueError(f"sizes ask for {wanted} cases but there are {len(cases)}.")
    parts: dict[str, list[dict[str, str]]] = {}
    start = 0
    for name, size in sizes.items():
        end = len(cases) if size is None else start + size
        parts[name] = [cases[i] for i in order[start:end]]
        start = end
    return parts
