# SPDX-License-Identifier: Apache-2.0
"""A small MONAI bundle in a folder, as the Model Zoo lays them out, with scripts of its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from tests.helpers import tiny_segmentation_network

__all__ = ["CONFIG", "METADATA", "scan", "write_bundle"]

SCRIPT = """\
from torch import nn


def network(classes, features=4):
    return nn.Sequential(nn.Conv3d(1, features, 3, padding=1), nn.PReLU(), nn.Conv3d(features, classes, 3, padding=1))


class KeepsCopiesSaver:
    def __call__(self, data):
        raise AssertionError("a saver was run")
"""
CONFIG: dict[str, Any] = {
    "imports": ["$import glob", "$import os", "$import scripts.parts"],
    "bundle_root": ".",
    "image_key": "image",
    "output_dir": "$@bundle_root + '/eval'",
    "load_pretrain": True,
    "dataset_dir": "/there/is/no/such/folder",
    "datalist": "$[name for name in os.listdir(@dataset_dir)]",
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "scripts.parts.network", "classes": 3},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "@image_key",
                "a_min": -57,
                "a_max": 164,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            },
        ],
    },
    "dataset": {
        "_target_": "CacheDataset",
        "data": "$[{'image': i} for i in @datalist]",
        "transform": "@preprocessing",
        "cache_rate": 1.0,
    },
    "dataloader": {
        "_target_": "DataLoader",
        "dataset": "@dataset",
        "batch_size": 2,
        "shuffle": True,
        "num_workers": 4,
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "@image_key",
                "nearest_interp": False,
                "to_tensor": True,
            },
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
        ],
    },
    "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
    },
    "checkpointloader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "initialize": [
        "$monai.utils.set_determinism(seed=123)",
        "$@checkpointloader(@evaluator) if @load_pretrain else None",
    ],
    "run": ["$@evaluator.run()"],
}
METADATA: dict[str, Any] = {
    "version": "0.1.0",
    "monai_version": "1.0.0",
    "name": "Two organs",
    "task": "Segmentation of two organs",
    "network_data_format": {
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 3,
                "spatial_shape": [16, 16, 16],
                "channel_def": {"0": "background", "1": "spleen", "2": "liver"},
            }
        }
    },
}


def merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with other values; a key ``a#b`` is inside ``a``, and None takes a key out."""
    made = copy.deepcopy(content)
    for name, value in changes.items():
        *path, last = name.split("#")
        there: Any = made
        for part in path:
            there = there[int(part)] if isinstance(there, list) else there[part]
        if value is None:
            del there[last]
        elif isinstance(there, list):
            there[int(last)] = value
        else:
            there[last] = value
    return made


def write_bundle(
    root: Path,
    changes: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    script: str = SCRIPT,
    weights: Any = "model",
    name: str = "inference",
) -> Path:
    """Write a bundle; what it says is ``CONFIG`` with changes.

    Args:
        root: its folder.
        changes: of the config, by identifier.
        metadata: changes of ``METADATA``.
        script: text of ``scripts/parts.py``.
        weights: content of ``models/model.pt``; ``"model"`` for a state dictionary that fits, None for no file.
        name: of the config file.
    """
    for folder in ("configs", "models", "scripts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "configs" / f"{name}.json").write_text(json.dumps(merged(CONFIG, changes or {})))
    (root / "configs" / "metadata.json").write_text(json.dumps(merged(METADATA, metadata or {})))
    (root / "scripts" / "__init__.py").write_text("")
    (root / "scripts" / "parts.py").write_text(script)
    if isinstance(weights, str):
        weights = {"model": tiny_segmentation_network(1, 3, seed=1).state_dict()}
    if weights is not None:
        torch.save(weights, root / "models" / "model.pt")
    return root


def scan(folder: Path, name: str = "scan", shape: tuple[int, ...] = (14, 12, 10), seed: int = 0) -> str:
    """A NIfTI file with whole numbers from -200 to 300, stored "LPS" with voxels of 1.5 x 1.5 x 3 mm."""
    voxels = np.random.RandomState(seed).randint(-200, 300, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.5, -1.5, 3.0, 1.0])), str(folder / f"{name}.nii.gz"))
    return str(folder / f"{name}.nii.gz")
