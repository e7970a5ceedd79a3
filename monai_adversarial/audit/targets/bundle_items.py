# SPDX-License-Identifier: Apache-2.0
"""From the files of a case to the item that a bundle's preprocessing takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.apps.deepgrow.transforms import AddGuidanceSignald
from monai.apps.nuclick.transforms import AddClickSignalsd, AddLabelAsGuidanced, AddPointGuidanceSignald
from monai.transforms import LoadImage, LoadImaged

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.models.engine_parts import steps_of

__all__ = ["SeveralFiles", "blank_label", "loaded_keys", "refuse_clicks", "takes_label"]

NEEDS_CLICKS = (AddGuidanceSignald, AddClickSignalsd, AddPointGuidanceSignald, AddLabelAsGuidanced)


def loaded_keys(preprocessing: Any) -> list[str]:
    """The keys whose files a preprocessing loads, in order."""
    loaders = [step for step in steps_of(preprocessing) if isinstance(step, LoadImaged)]
    keys = [str(key) for step in loaders if not step.allow_missing_keys for key in step.keys]
    return list(dict.fromkeys(keys))


def takes_label(preprocessing: Any, label_key: str) -> bool:
    """Whether a preprocessing cannot run without a label."""
    return any(
        label_key in getattr(step, "keys", ()) and not getattr(step, "allow_missing_keys", False)
        for step in steps_of(preprocessing)
    )


def refuse_clicks(preprocessing: Any) -> None:
    """Refuse interactive bundles that cannot run without clicks; those of DeepEdit can.

    Raises:
        TargetError: one sentence that names the transform.
    """
    for step in steps_of(preprocessing):
        if isinstance(step, NEEDS_CLICKS):
            raise TargetError(
                f"the bundle is interactive: its {type(step).__name__} needs clicks or a prior mask of each case, "
                "which an audit does not have; only interactive bundles that run without them are audited."
            )


class SeveralFiles:
    """A preprocessing of images that are made from several files, such as contrast phases under keys of their own.

    Args:
        preprocessing: of the bundle.
        image_key: where the audit gives the files, in the order of ``keys``.
        keys: where the bundle expects them.
    """

    def __init__(self, preprocessing: Callable[[Any], Any], image_key: str, keys: Sequence[str]) -> None:
        self.preprocessing, self.image_key, self.keys = preprocessing, image_key, tuple(keys)

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with a file under each key.

        Raises:
            TargetError: for another number of files.
        """
        files = item[self.image_key]
        if isinstance(files, (str, Path)) or len(files) != len(self.keys):
            count = 1 if isinstance(files, (str, Path)) else len(files)
            raise TargetError(
                f"an image of this bundle is {len(self.keys)} files, {', '.join(self.keys)} in this order, got {count}."
            )
        others = {key: value for key, value in item.items() if key != self.image_key}
        return {**others, **dict(zip(self.keys, map(str, files), strict=True))}

    def __call__(self, item: dict[str, Any]) -> Any:
        return self.preprocessing(self.item(item))


def blank_label(image: Any, folder: Path) -> str:
    """Write a label without foreground on the grid of an image, for a pipeline that cannot run without one.

    Args:
        image: path, or paths, of which the first counts.
        folder: where it is written.
    """
    first = image if isinstance(image, (str, Path)) else image[0]
    scan = LoadImage(image_only=True)(str(first))
    shape = tuple(int(n) for n in np.asarray(scan.meta["spatial_shape"]).ravel())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "blank_label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.asarray(scan.affine, np.float64)), str(file))
    return str(file)
