# SPDX-License-Identifier: Apache-2.0
"""``read_series`` as a reader for MONAI's LoadImage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from monai_adversarial.data.dicom.series import GANTRY_TILT, CTSeries, read_series
from monai_adversarial.utils.validation import check_choice

__all__ = ["CTSeriesReader"]


class CTSeriesReader(ImageReader):
    """Read one CT series per item in ``LoadImaged(keys, reader=CTSeriesReader())``: HU (column, row, slice), with the
    affine that its positions say, and an error where MONAI's own DICOM readers would go on.

    >>> import tempfile
    >>> from monai.transforms import LoadImage
    >>> from monai_adversarial.data.dicom import CTSeriesReader
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_example_series(folder)
    ...     image = LoadImage(reader=CTSeriesReader(), ensure_channel_first=True)(folder)
    >>> image.shape, float(image.pixdim[2])
    (torch.Size([1, 128, 128, 2]), 3.0)

    Args:
        gantry_tilt: ``"refuse"`` or ``"shear"``, see :func:`read_series`.
    """

    def __init__(self, gantry_tilt: str = "refuse") -> None:
        super().__init__()
        self.gantry_tilt = check_choice("gantry_tilt", gantry_tilt, GANTRY_TILT)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Any path may be a series."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> CTSeries:
        """Read a folder, or a list of files that are slices of one series (not channels of one image)."""
        if kwargs:
            raise TypeError(f"CTSeriesReader takes no further arguments, got {', '.join(kwargs)}.")
        if isinstance(data, (list, tuple)) and len(data) == 1:
            data = data[0]
        return read_series(data, self.gantry_tilt)  # type: ignore[arg-type]

    def get_data(self, img: CTSeries) -> tuple[np.ndarray, dict]:
        """Voxels (column, row, slice) in HU and MONAI's metadata; nothing of it names a patient."""
        voxels, affine = img.image.as_tensor()[0].numpy(), img.affine.numpy()
        meta = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(voxels.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }
        return voxels, meta
