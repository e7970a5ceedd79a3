# SPDX-License-Identifier: Apache-2.0
"""The Model Zoo's ``spleen_ct_segmentation`` with weights that fit it, and real scans for it.

    python -m benchmarks.zoo_spleen --zoo CHECKOUT --data ../shared/data --work DIR

The Zoo's own weights are a link, which not every machine can follow. MONAI's Triton tutorial ships a spleen network as
TorchScript: the same ``UNet``, layer for layer, half as wide. Its weights go into ``models/model.pt`` of a copy of the
unmodified folder, and one override makes the network of the config as wide. What is measured with them is the bundle's
pipeline with a network of its kind, not the published weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

__all__ = ["OVERRIDES", "SPLEEN", "make_bundle", "make_labeled_scan", "make_scan"]

NAME = "spleen_ct_segmentation"
#: what makes the network of the config as wide as the weights
OVERRIDES = {"network_def#channels": [8, 16, 32, 32, 64]}
#: voxels of the unlabeled scan that hold the spleen, with a margin: one window in the plane, all slices
SPLEEN = (slice(288, 464), slice(190, 366), slice(None))


def make_bundle(zoo: Path, data: Path, folder: Path) -> Path:
    """A copy of the Zoo's folder with the weights of the TorchScript network; returns it.

    Args:
        zoo: a checkout of the Model Zoo (it holds ``models``).
        data: folder of the real data (it holds ``spleen_torchscript``).
        folder: where the copy goes.
    """
    import torch

    root = folder / NAME
    if not (root / "models" / "model.pt").is_file():
        shutil.copytree(zoo / "models" / NAME, root, dirs_exist_ok=True)
        weights = torch.jit.load(data / "spleen_torchscript" / "model.pt", map_location="cpu").state_dict()
        (root / "models").mkdir(exist_ok=True)
        torch.save({"model": weights}, root / "models" / "model.pt")
    return root


def make_scan(data: Path, folder: Path) -> Path:
    """The part of the unlabeled contrast CT that holds the spleen, in a folder of its own; returns that."""
    import nibabel

    file = folder / "images" / "portal_venous_ct.nii.gz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        scan: Any = nibabel.load(data / "abdomen_ct" / "portal_venous_ct_unlabelled.nii.gz")
        nibabel.save(scan.slicer[SPLEEN], file)
    return folder


def make_labeled_scan(data: Path, folder: Path, margin: int) -> Path:
    """The part of the labeled CT that holds the spleen, with the spleen's label, in a folder of its own; returns that.

    The label is that of another program, not of a person.

    Args:
        data: folder of the real data.
        folder: where images and labels go.
        margin: voxels of 3 mm that are left around the label.
    """
    import nibabel
    import numpy as np

    if not (folder / "labels" / "thorax_abdomen_ct.nii.gz").is_file():
        scan, label = (nibabel.load(data / "abdomen_ct" / f"thorax_abdomen_{kind}.nii.gz") for kind in ("ct", "labels"))
        spleen: Any = np.asarray(label.dataobj) == 1
        found = np.argwhere(spleen)
        box = tuple(
            slice(max(int(low) - margin, 0), int(high) + margin + 1)
            for low, high in zip(found.min(0), found.max(0), strict=True)
        )
        label = nibabel.Nifti1Image(spleen.astype(np.uint8), label.affine)
        for kind, volume in (("images", scan), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(volume.slicer[box], folder / kind / "thorax_abdomen_ct.nii.gz")
    return folder


def main() -> int:
    """Make bundle and scan, and print what tutorial 5 asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo_spleen", description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="checkout of the Model Zoo (it holds models/)")
    parser.add_argument("--data", type=Path, required=True, help="folder of real data")
    parser.add_argument("--work", type=Path, default=Path("zoo_spleen_work"), help="folder for both")
    given = parser.parse_args()
    work = given.work.resolve()
    print(f"export MONAI_ADVERSARIAL_TUTORIAL_BUNDLE={make_bundle(given.zoo, given.data, work)}")
    print(f"export MONAI_ADVERSARIAL_TUTORIAL_SCANS={make_scan(given.data, work / 'scan')}")
    print(f"export MONAI_ADVERSARIAL_TUTORIAL_OVERRIDES='{json.dumps(OVERRIDES)}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
