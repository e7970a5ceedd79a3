# SPDX-License-Identifier: Apache-2.0
"""Synthetic abdominal CT in HU with organ labels: as arrays, and as NIfTI files from one command.

Write eight cases::

    python -m monai_adversarial.data.phantom --output_dir data --count 8 --seed 0

The anatomy is a reconstruction from textbook proportions, not from any patient's scan.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from monai_adversarial.data.phantom_anatomy import CLASS_NAMES, Anatomy
from monai_adversarial.data.phantom_grid import draw_affine

__all__ = ["CLASS_NAMES", "ensure_ct_phantoms", "generate_ct_phantom", "write_ct_phantoms"]

# Raised when the same arguments give other voxels, so that files written before are not mistaken for today's.
PHANTOM_VERSION = 2
_MINIMUM_SIZE = 16
_POINT_SPREAD_MM = (1.3, 1.3, 1.6)
_NOISE_CORRELATION_VOXELS = (0.55, 0.55, 0.35)


def generate_ct_phantom(
    seed: int,
    size: Sequence[int] = (104, 104, 56),
    spacing: Sequence[float] | None = None,
    *,
    oblique: bool | None = None,
    noise: float | None = None,
    deformation: float = 4.0,
    variation: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generate one abdominal CT with organ labels. The same arguments give the same voxels, bit for bit.

    The anatomy depends on `seed` only, so the same patient can be drawn on different grids.

    >>> from monai_adversarial.data import CLASS_NAMES, generate_ct_phantom
    >>> hu, classes, affine = generate_ct_phantom(seed=3, size=(24, 24, 16))
    >>> hu.shape, hu.dtype.name, affine.shape, len(CLASS_NAMES)
    ((24, 24, 16), 'int16', (4, 4), 8)
    >>> bool(hu[classes == CLASS_NAMES.index("liver")].mean() > hu[classes == 0].mean())
    True

    Args:
        seed: the patient; a non-negative integer.
        size: voxels along each axis, at least 16.
        spacing: voxel size in mm. None draws a field of view of 318-360 mm in plane and 215-260 mm along z, which at
            the default size is 3.1-3.5 mm and 3.8-4.6 mm. A smaller field of view cuts the body, as on a scanner.
        oblique: tilt the grid by up to 7 degrees about each axis (True), never (False), or in 3 of 10 cases (None).
        noise: standard deviation of the scanner's noise in HU; None draws 8-12.
        deformation: root-mean-square size of the smooth random deformation in mm, 0-8.
        variation: factor on the random sizes, positions and HU of the organs, 0-1.

    Returns:
        HU (int16, `size`), classes (uint8, `size`; `CLASS_NAMES`) and the voxel-to-world matrix (4, 4; RAS+, mm).

    Raises:
        ValueError: an argument is out of range.
    """
    _check(seed, size, spacing, noise, deformation, variation)
    grid_rng, anatomy_rng, scanner_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(int(seed)).spawn(3))
    size = tuple(int(n) for n in size)
    affine = draw_affine(grid_rng, size, spacing, oblique)
    canvas = Anatomy(anatomy_rng, variation).paint(affine, size, deformation)

    drawn_noise = scanner_rng.uniform(8.0, 12.0)
    table_offset = np.round(scanner_rng.uniform(-40.0, 40.0, size=3), 2)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    hu = _gaussian(canvas.hu, np.asarray(_POINT_SPREAD_MM) / voxel)
    grain = _gaussian(scanner_rng.standard_normal(size, dtype=np.float32), _NOISE_CORRELATION_VOXELS)
    grain *= np.float32((drawn_noise if noise is None else noise) / grain.std())
    hu += grain
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    affine[:3, 3] += table_offset
    # NIfTI stores the matrix in float32: round now, so that what is written is what is returned.
    return image, canvas.label, affine.astype(np.float32).astype(np.float64)


def _gaussian(volume: np.ndarray, sigma: Sequence[float] | np.ndarray) -> np.ndarray:
    for axis, value in enumerate(sigma):
        volume = gaussian_filter1d(volume, float(value), axis=axis, truncate=3.0)
    return volume


def _check(
    seed: int,
    size: Sequence[int],
    spacing: Sequence[float] | None,
    noise: float | None,
    deformation: float,
    variation: float,
) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
    if len(size) != 3 or any(int(n) != n or n < _MINIMUM_SIZE for n in size):
        raise ValueError(f"size must be three integers of at least {_MINIMUM_SIZE}, got {tuple(size)}.")
    if spacing is not None and (len(spacing) != 3 or not all(0 < s < np.inf for s in spacing)):
        raise ValueError(f"spacing must be three positive lengths in mm, got {tuple(spacing)}.")
    if noise is not None and not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a non-negative standard deviation in HU, got {noise}.")
    if not 0 <= deformation <= 8:
        raise ValueError(f"deformation must be between 0 and 8 mm, got {deformation}.")
    if not 0 <= variation <= 1:
        raise ValueError(f"variation must be between 0 and 1, got {variation}.")


def write_ct_phantoms(
    output_dir: str | os.PathLike,
    count: int,
    seed: int = 0,
    *,
    validation: int = 0,
    section: str = "training",
    progress: bool = True,
    **options: Any,
) -> Path:
    """Write phantoms as ``images/case_000.nii.gz``, ``labels/case_000.nii.gz`` and a MONAI ``datalist.json``.

    Every file appears complete or not at all, the datalist last. Started again with the same arguments, the call
    continues with the cases that are missing.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.data import write_ct_phantoms
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     datalist = write_ct_phantoms(folder, 2, size=(16, 16, 16), validation=1, progress=False)
    ...     files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.nii.gz"))
    >>> datalist.name, files[0], len(files)
    ('datalist.json', 'images/case_000.nii.gz', 4)

    Args:
        output_dir: directory, created if it does not exist.
        count: number of cases.
        seed: seed of the first case; case i has seed ``seed + i``.
        validation: so many of the last cases are listed under ``validation`` instead of `section`.
        section: key of the datalist that the cases go to.
        progress: show a progress bar.
        options: keyword arguments of `generate_ct_phantom`.

    Returns:
        Path of the datalist.

    Raises:
        ValueError: an argument is out of range, or the directory holds other cases under the same names.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    if not 0 <= validation <= count:
        raise ValueError(f"validation must be between 0 and count ({count}), got {validation}.")
    root = Path(output_dir)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    identity = json.dumps({"version": PHANTOM_VERSION, **options}, sort_keys=True, default=list)
    settings = hashlib.sha256(identity.encode()).hexdigest()[:12]
    entries = []
    for index in tqdm(range(count), desc="CT phantoms", unit="case", disable=not progress):
        name = f"case_{index:03d}.nii.gz"
        description = f"synthetic CT phantom, seed {seed + index}, settings {settings}"
        files = [root / "images" / name, root / "labels" / name]
        missing = [file for file in files if not _is_this_case(file, description)]
        if missing:
            image, label, affine = generate_ct_phantom(seed + index, **options)
            for file, array in zip(files, (image, label), strict=True):
                if file in missing:
                    _save_nifti(file, array, affine, description)
        entries.append({"image": f"images/{name}", "label": f"labels/{name}", "seed": seed + index})
    datalist = {
        "name": "CT phantom",
        "description": "Synthetic abdominal CT in HU with organ labels",
        "modality": {"0": "CT"},
        "labels": {str(index): name for index, name in enumerate(CLASS_NAMES)},
        section: entries[: count - validation],
    }
    if validation:
        datalist["validation"] = entries[count - validation :]
    path = root / "datalist.json"
    _atomically(path, lambda temporary: Path(temporary).write_text(json.dumps(datalist, indent=2) + "\n"))
    return path


def ensure_ct_phantoms(dataset_dir: str | os.PathLike, count: int, seed: int = 0, **arguments: Any) -> Path:
    """Return the datalist of `dataset_dir`, writing the phantoms first where it does not exist yet.

    >>> import json
    >>> import tempfile
    >>> from monai_adversarial.data import ensure_ct_phantoms
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     datalist = ensure_ct_phantoms(folder, 1, size=(16, 16, 16), progress=False)
    ...     listed = json.loads(datalist.read_text())
    ...     again = ensure_ct_phantoms(folder, 1, size=(16, 16, 16), progress=False)
    >>> len(listed["training"]), again == datalist
    (1, True)

    Args:
        dataset_dir: directory of the data set.
        count: see `write_ct_phantoms`.
        seed: see `write_ct_phantoms`.
        arguments: keyword arguments of `write_ct_phantoms`.
    """
    path = Path(dataset_dir) / "datalist.json"
    return path if path.is_file() else write_ct_phantoms(dataset_dir, count, seed, **arguments)


def _is_this_case(file: Path, description: str) -> bool:
    """Whether `file` is already written; an error if it is another case, which must not be overwritten or mixed in."""
    if not file.exists():
        return False
    try:
        header: Any = nib.load(file).header
        found = bytes(header["descrip"]).rstrip(b"\0").decode("utf-8", "replace")
    except Exception as error:
        raise ValueError(f"output_dir has an unreadable file, {file} ({error}); choose an empty directory.") from error
    if found != description:
        raise ValueError(
            f"output_dir already has another {file.parent.name}/{file.name} ({found or 'no description'}, "
            f"expected {description}); choose an empty directory."
        )
    return True


def _save_nifti(file: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    _atomically(file, lambda temporary: nib.save(image, temporary))


def _atomically(file: Path, write: Callable[[str], Any]) -> None:
    """Write under a temporary name in the same directory, then rename."""
    suffix = "".join(file.suffixes)
    descriptor, temporary = tempfile.mkstemp(prefix=".writing_", suffix=suffix, dir=file.parent)
    os.close(descriptor)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_adversarial.data.phantom", description="Write synthetic abdominal CT cases as NIfTI."
    )
    parser.add_argument("--output_dir", required=True, help="directory to write to; it may hold a part of the cases")
    parser.add_argument("--count", type=int, default=8, help="number of cases (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case (default 0)")
    parser.add_argument("--size", type=int, nargs=3, default=None, help="voxels (default 104 104 56)")
    parser.add_argument("--spacing", type=float, nargs=3, default=None, help="mm (default: drawn for every case)")
    parser.add_argument("--noise", type=float, default=None, help="HU (default: drawn between 10 and 15)")
    parser.add_argument("--validation", type=int, default=0, help="cases listed for validation (default 0)")
    parser.add_argument("--section", default="training", help="section of the datalist (default training)")
    given = vars(parser.parse_args(arguments))
    # Options left out stay out of the cases' identity, as in a call of write_ct_phantoms.
    options = {key: given.pop(key) for key in ("size", "spacing", "noise")}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        print(write_ct_phantoms(**given, **options))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
