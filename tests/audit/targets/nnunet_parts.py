# SPDX-License-Identifier: Apache-2.0
"""A small nnU-Net v2, trained for seconds with nnU-Net's own trainer, preprocessing and checkpoints, and its cases."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_adversarial.data.phantom import CLASS_NAMES, generate_ct_phantom

CONFIGURATION, DATASET = "3d_fullres", "Dataset901_Phantom"
#: voxels of zeros before and after the body along x, y and z: what nnU-Net crops away, no two the same
MARGINS = ((3, 1), (2, 5), (1, 2))
SPACING = (9.5, 8.6, 11.0)
LABELS = {"background": 0, "organs": 1, "spine": 2}
STATISTICS = {"mean": 40.0, "std": 70.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0}


def write_case(folder: Path, seed: int, oblique: bool = True) -> tuple[str, str]:
    """One phantom with margins of zeros; paths of image and label."""
    size = (36, 40, 22)
    image, label, affine = generate_ct_phantom(seed, size, SPACING, oblique=oblique)
    classes = np.where(label == CLASS_NAMES.index("spine"), 2, label > 0).astype(np.uint8)
    image = np.where(image == 0, 1, image)  # a zero within the body must not look like a margin
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ [first for first, _ in MARGINS]
    paths = []
    for name, array in (("image", image), ("label", classes)):
        file = nib.Nifti1Image(np.pad(array, MARGINS), moved)
        file.set_sform(moved, 1)
        file.set_qform(moved, 1)
        path = folder / f"case_{seed}_{name}.nii.gz"
        nib.save(file, path)
        paths.append(str(path))
    return paths[0], paths[1]


def plans_of(dimensions: int = 3, **changes: Any) -> dict[str, Any]:
    """plans.json of a small configuration: axes y, z, x, a spacing that is another one along each axis."""
    conv, norm = (
        f"torch.nn.modules.conv.Conv{dimensions}d",
        f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
    )
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [6, 12],
            "conv_op": conv,
            "kernel_sizes": [[3] * dimensions] * 2,
            "strides": [[1] * dimensions, [2] * dimensions],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": norm,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [20, 16, 24][3 - dimensions :],
        "spacing": [10.5, 12.5, 9.0][3 - dimensions :],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "batch_dice": False,
        "architecture": architecture,
    }
    top = {key: changes.pop(key) for key in ("image_reader_writer", "transpose_forward") if key in changes}
    order = top.get("transpose_forward", [1, 0, 2])
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": order,
        "transpose_backward": [order.index(axis) for axis in range(3)],
        "label_manager": "LabelManager",
        "configurations": {CONFIGURATION: {**configuration, **changes}},
        "foreground_intensity_properties_per_channel": {"0": STATISTICS, "1": STATISTICS},
        **top,
    }


def dataset_of(labels: Mapping[str, Any] = LABELS, channels: Sequence[str] = ("CT",), **more: Any) -> dict[str, Any]:
    """dataset.json."""
    names = {str(number): name for number, name in enumerate(channels)}
    return {"channel_names": names, "labels": dict(labels), "numTraining": 3, "file_ending": ".nii.gz", **more}


def trained_folder(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    folds: Sequence[int | str] = (0,),
    cases: Sequence[tuple[str, str]] = (),
    steps: int = 0,
) -> Path:
    """A results folder as nnU-Net's trainer writes it, after some steps on whole cases."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setenv("nnUNet_results", str(root / "results"))
    monkeypatch.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
    ready = root / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres"
    ready.mkdir(parents=True)
    (ready / "case.b2nd").touch()  # its trainer looks there for the kind of its data
    folder = root / "results" / DATASET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    # Two levels leave deep supervision one output with all the weight, less the one that nnU-Net leaves out.
    with redirect_stdout(StringIO()), np.errstate(invalid="ignore"):
        for seed, fold in enumerate(folds):
            torch.manual_seed(seed)
            given = {**copy.deepcopy(plans), "continue_training": False}
            trainer = nnUNetTrainer(given, CONFIGURATION, fold, dataset, device=torch.device("cpu"))
            trainer.initialize()
            trainer.inference_allowed_mirroring_axes = tuple(range(len(trainer.configuration_manager.patch_size)))
            # What a real log holds: numbers of NumPy.
            trainer._best_ema = np.float64(0.5)
            trainer.logger.log("train_losses", np.mean(np.float32([0.5])), 0)
            _train(trainer, cases, steps)
            trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def _train(trainer: Any, cases: Sequence[tuple[str, str]], steps: int) -> None:
    batches = []
    for image, label in cases:
        preprocessor = trainer.configuration_manager.preprocessor_class(verbose=False)
        data, seg, _ = preprocessor.run_case(
            [image], label, trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
        )
        batches.append((torch.from_numpy(data), torch.from_numpy(seg[0].astype(np.int64)).clamp_min(0)))
    optimizer = torch.optim.Adam(trainer.network.parameters(), lr=0.02)
    weight = torch.tensor([1.0, 2.0, 6.0])
    patch = trainer.configuration_manager.patch_size
    for step in range(steps):
        windows = []
        for _ in range(2):
            image, classes = batches[step % len(batches)]
            starts = [int(torch.randint(0, size - n + 1, ())) for size, n in zip(classes.shape, patch, strict=True)]
            where = tuple(slice(first, first + n) for first, n in zip(starts, patch, strict=True))
            windows.append((image[(slice(None), *where)], classes[where]))
        logits = trainer.network(torch.stack([image for image, _ in windows]))[0]
        loss = torch.nn.functional.cross_entropy(logits, torch.stack([classes for _, classes in windows]), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
