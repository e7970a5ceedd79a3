# SPDX-License-Identifier: Apache-2.0
"""The segmentation that a bundle itself gives, on the image's own grid, with nothing written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.bundle import read_bundle
from monai_adversarial.audit.targets.bundle_process import listing
from tests.audit.targets.bundle_folder import SCRIPT, scan, write_bundle
from tests.bundles.here import run_here
from tests.helpers import tiny_segmentation_network

MASKS = [
    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
    {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    },
    {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
]
BRATS = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
SHIFTED = "$lambda x: torch.roll(x, 1, 1)"
JOIN = """
import numpy as np
from monai.transforms import MapTransform


class Join(MapTransform):
    def __init__(self, keys_merge, keys_out):
        self.keys_merge, self.keys_out = keys_merge, keys_out

    def __call__(self, data):
        first = data[self.keys_merge[0]]
        image = np.concatenate([data[key] for key in self.keys_merge])
        data[self.keys_out] = type(first)(image, meta=first.meta, applied_operations=first.applied_operations)
        return data
"""


def predicted(root: Path, image: Any) -> tuple[TargetParts, Any]:
    parts = read_bundle(root)
    answer = parts.reference_prediction(image)  # type: ignore[misc]
    parts.resources.close()
    return parts, answer


def voxels(file: Any) -> np.ndarray:
    return np.asarray(nibabel.Nifti1Image.from_filename(file).dataobj)


def values(parts: TargetParts, what: str) -> list[str]:
    return [fact.value for fact in parts.facts if fact.what == what]


def test_on_the_grid_of_the_file_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = write_bundle(tmp_path / "bundle"), scan(tmp_path)
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, answer = predicted(root, "scan.nii.gz")
    assert answer.shape == (14, 12, 10) and set(np.unique(answer)) <= {0, 1, 2} and len(np.unique(answer)) > 1
    assert listing(tmp_path) == before


def test_agrees_with_the_bundle_as_monai_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's own runner on the unmodified config, which writes its file."""
    image = scan(tmp_path)
    root = write_bundle(tmp_path / "bundle", {"dataset#data": [{"image": image}], "dataloader#num_workers": 0})
    monkeypatch.syspath_prepend(str(root))
    status = run_here(str(root / "configs" / "inference.json"), root, root)
    assert status.returncode == 0, status.stderr
    (written,) = (root / "eval").rglob("*.nii.gz")
    _, answer = predicted(root, image)
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    assert np.array_equal(voxels(written), answer)


def test_none_where_the_answer_is_on_another_grid(tmp_path: Path) -> None:
    plain = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    root = write_bundle(tmp_path / "bundle", {"postprocessing#transforms": plain})
    parts, answer = predicted(root, scan(tmp_path))
    assert answer is None
    assert values(parts, "grid of the segmentation") == ["the network's (no Invertd)"]


def test_savers_in_expressions_and_handlers_are_left_out(tmp_path: Path) -> None:
    changes = {
        "saver": {"_target_": "scripts.parts.KeepsCopiesSaver"},
        "ending": "$[@saver, @saver]",
        "beginning": MASKS,
        "postprocessing#transforms": "$@beginning + @ending",
        "handlers": [{"_target_": "MetricsSaver", "save_dir": "$@bundle_root + '/metrics'"}],
    }
    root = write_bundle(tmp_path / "bundle", changes)
    before = listing(root)
    parts, answer = predicted(root, scan(tmp_path))
    assert values(parts, "savers left out") == ["MetricsSaver, KeepsCopiesSaver"]
    assert answer.shape[-3:] == (14, 12, 10) and listing(root) == before


@pytest.mark.parametrize("function", [BRATS, "$lambda x: x[1:]"])
def test_relabeling_is_left_out_so_that_classes_are_channels(tmp_path: Path, function: str) -> None:
    ending = {"_target_": "Lambdad", "keys": "pred", "func": function}
    with_it = write_bundle(tmp_path / "with", {"postprocessing#transforms": [*MASKS, ending]})
    without = write_bundle(tmp_path / "without", {"postprocessing#transforms": MASKS})
    parts, answer = predicted(with_it, scan(tmp_path))
    assert np.array_equal(answer, predicted(without, scan(tmp_path))[1])
    assert values(parts, "relabeling left out") == ["Lambdad: classes are the network's channels"]


def test_what_looks_at_neighbors_stays(tmp_path: Path) -> None:
    ending = {"_target_": "Lambdad", "keys": "pred", "func": SHIFTED}
    root = write_bundle(tmp_path / "with", {"postprocessing#transforms": [*MASKS, ending]})
    plain = write_bundle(tmp_path / "without", {"postprocessing#transforms": MASKS})
    parts, answer = predicted(root, scan(tmp_path))
    expected = predicted(plain, scan(tmp_path))[1]
    assert np.array_equal(answer, np.roll(expected, 1, 1 if expected.ndim == 4 else 0))
    assert not np.array_equal(answer, expected)
    assert values(parts, "the bundle's own postprocessing") == [
        "`postprocessing#3` (Lambdad): values need not be channels"
    ]


def test_interpolated_class_numbers_are_rounded(tmp_path: Path) -> None:
    softmax, invert = write_bundle(tmp_path / "plain"), MASKS[1]
    interpolated = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, invert]
    root = write_bundle(tmp_path / "bundle", {"postprocessing#transforms": interpolated})
    parts, answer = predicted(root, scan(tmp_path))
    assert set(np.unique(answer)) == {0, 1, 2}
    assert values(parts, "class numbers")[0].endswith("rounded to the nearest class")
    assert not values(predicted(softmax, scan(tmp_path))[0], "class numbers")


def test_image_of_several_files(tmp_path: Path) -> None:
    keys = ["artery", "vein"]
    transforms = [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        {"_target_": "scripts.parts.Join", "keys_merge": keys, "keys_out": "image"},
    ]
    softmax = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    root = write_bundle(
        tmp_path / "bundle",
        {"preprocessing#transforms": transforms, "postprocessing#transforms": softmax},
        script=SCRIPT.replace("nn.Conv3d(1, ", "nn.Conv3d(2, ") + JOIN,
        weights={"model": tiny_segmentation_network(2, 3, seed=1).state_dict()},
    )
    files = [scan(tmp_path, "artery", seed=1), scan(tmp_path, "vein", seed=2)]
    parts, answer = predicted(root, files)
    assert values(parts, "image") == ["2 files: artery, vein, in this order"]
    image = torch.as_tensor(parts.preprocessing({"image": files})["image"])  # type: ignore[misc]
    assert torch.equal(image[1], torch.as_tensor(voxels(files[1])).float())
    assert answer.shape == (14, 12, 10)
    with pytest.raises(TargetError, match="an image of this bundle is 2 files, artery, vein in this order, got 1"):
        parts.preprocessing({"image": files[0]})  # type: ignore[misc]


def test_failure_on_an_image_is_said_to_be_the_bundles(tmp_path: Path) -> None:
    changes = {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8], "sw_batch_size": 1}}
    parts = read_bundle(write_bundle(tmp_path / "bundle", changes))
    with pytest.raises(TargetError, match=r"bundle itself fails on .*scan.nii.gz with MONAI 1\.6"):
        parts.reference_prediction(scan(tmp_path))  # type: ignore[misc]
    parts.resources.close()
