# SPDX-License-Identifier: Apache-2.0
"""CT phantoms as a MONAI dataset, without files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import apply_transform

from monai_adversarial.data.phantom import generate_ct_phantom

__all__ = ["CTPhantomDataset"]


class CTPhantomDataset(Dataset):
    """Phantoms generated on access: item i is the patient with seed ``seed + i``.

    >>> from monai.transforms import ScaleIntensityRanged
    >>> from monai_adversarial.data import CTPhantomDataset
    >>> window = ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True)
    >>> dataset = CTPhantomDataset(2, seed=10, size=(16, 16, 16), transform=window)
    >>> item = dataset[1]
    >>> len(dataset), item["image"].shape, float(item["image"].max()) <= 1
    (2, torch.Size([1, 16, 16, 16]), True)

    Args:
        count: number of patients.
        seed: seed of the first patient.
        transform: MONAI transform applied to the dictionary.
        size: see `generate_ct_phantom`.
        spacing: see `generate_ct_phantom`.
        options: further keyword arguments of `generate_ct_phantom`.

    Items are dictionaries of two channel-first MetaTensors with their affine: ``image`` (1, size...), float32 HU, and
    ``label`` (1, size...), uint8 classes.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        transform: Sequence[Callable] | Callable | None = None,
        size: Sequence[int] = (104, 104, 56),
        spacing: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        super().__init__(data=[{"seed": seed + index} for index in range(count)], transform=transform)
        self.size, self.spacing, self.options = tuple(size), spacing, options

    def _transform(self, index: int) -> Any:
        seed = self.data[index]["seed"]
        image, label, affine = generate_ct_phantom(seed, self.size, self.spacing, **self.options)
        meta = {"filename_or_obj": f"ct_phantom_{seed:06d}.nii.gz", "original_channel_dim": 0, "space": "RAS"}
        item = {
            key: MetaTensor(torch.as_tensor(array[None]), affine=torch.as_tensor(affine), meta=dict(meta))
            for key, array in (("image", image.astype(np.float32)), ("label", label))
        }
        return item if self.transform is None else apply_transform(self.transform, item)
