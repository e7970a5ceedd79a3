# SPDX-License-Identifier: Apache-2.0
"""What a folder of a trained nnU-Net says: its plans, labels, folds and weights, without running what is in it."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.utils.intensity import IntensityMap

__all__ = ["Checkpoint", "NNUNetFolder", "NNUNetPlans", "check_nnunet", "find_folder", "read_checkpoint", "read_plans"]

#: the versions whose predictor and preprocessing this was compared with
FIRST, BEFORE = (2, 8), (3,)
FINAL, BUNDLED = "checkpoint_final.pth", "model.pt"
#: where the classes may come from that plans name: these are networks and layers, anything else may be a program
_TRUSTED = ("dynamic_network_architectures.", "torch.nn.")


def check_nnunet() -> str:
    """The version of nnunetv2.

    Raises:
        TargetError: where it is absent, or one that this was not compared with.
    """
    try:
        version = importlib.metadata.version("nnunetv2")
    except importlib.metadata.PackageNotFoundError:
        raise TargetError('an nnU-Net needs nnunetv2: pip install "monai-adversarial[nnunet]".') from None
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not FIRST <= numbers < BEFORE:
        raise TargetError(
            f"nnunetv2 {version} is installed, but an nnU-Net is audited with 2.8 or a later 2.x, whose preprocessing "
            'and predictor are known to be the same: pip install "monai-adversarial[nnunet]".'
        )
    return version


@dataclass(frozen=True)
class NNUNetFolder:
    """Where the files are.

    Args:
        path: folder with ``plans.json``, ``dataset.json`` and ``fold_x``.
        header: the file of a MONAI bundle that holds what its weights do not, ``nnunet_checkpoint.pth``; None for a
            results folder of nnU-Net.
    """

    path: Path
    header: Path | None = None

    @property
    def is_bundle(self) -> bool:
        """Whether it is what MONAI's ``convert_nnunet_to_monai_bundle`` makes."""
        return self.header is not None

    def read_json(self, name: str) -> dict[str, Any]:
        """``plans.json`` or ``dataset.json``.

        Raises:
            TargetError: for one that is absent or no JSON object.
        """
        file = self.path / name
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TargetError(f"the nnU-Net folder {self.path} has no {name}.") from None
        except (OSError, ValueError) as error:
            raise TargetError(f"{file} cannot be read as JSON: {error}.") from error
        if not isinstance(found, dict):
            raise TargetError(f"{file} must hold a JSON object, got a {type(found).__name__}.")
        return found

    def weights_file(self, fold: int | str, checkpoint: str) -> Path:
        """Where a fold's weights are; they may not be there."""
        return self.path / f"fold_{fold}" / checkpoint

    def folds(self, wanted: Any, checkpoint: str) -> tuple[int | str, ...]:
        """The folds to be read.

        Args:
            wanted: numbers, a number, ``"all"`` for the one that was trained on all cases (``fold_all``), or None for
                all numbered folds with a checkpoint, as nnU-Net does, and ``fold_all`` where there is none.
            checkpoint: name of their weights.

        Raises:
            TypeError: for what is no fold.
            TargetError: for folds that are not there, or named twice.
        """
        found = sorted(
            int(path.parent.name[5:])
            for path in self.path.glob(f"fold_*/{checkpoint}")
            if path.parent.name[5:].isdecimal()
        )
        if wanted is None:
            chosen: tuple[int | str, ...] = tuple(found)
            if not chosen and self.weights_file("all", checkpoint).is_file():
                chosen = ("all",)
        elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
            chosen = tuple(map(_fold, wanted))
        else:
            chosen = (_fold(wanted),)
        missing = [fold for fold in chosen if not self.weights_file(fold, checkpoint).is_file()]
        if missing or not chosen:
            there = ", ".join(map(str, found)) or "none"
            what = f"fold_{missing[0]}" if missing else "fold_x"
            raise TargetError(
                f"the nnU-Net folder {self.path} has no {what}/{checkpoint} (folds with this checkpoint: {there})."
            )
        if len(set(chosen)) != len(chosen):
            raise TargetError(f"folds must be named once each, got {list(chosen)}.")
        return chosen


def _fold(given: Any) -> int | str:
    if given == "all":
        return "all"
    number = int(given) if isinstance(given, str) and given.isdecimal() else given
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise TypeError(f"folds must be numbers, 'all' or None, got {given!r}.")
    return number


def find_folder(path: Any) -> NNUNetFolder:
    """A results folder of nnU-Net, or the ``models`` folder of a MONAI bundle that holds one.

    Raises:
        TargetError: for anything else.
    """
    root = Path(path)
    for folder in (root, root / "models"):
        header = folder / "nnunet_checkpoint.pth"
        if (folder / "plans.json").is_file() or header.is_file():
            return NNUNetFolder(
                folder, header if header.is_file() and not any(folder.glob(f"fold_*/{FINAL}")) else None
            )
    if not root.is_dir():
        raise TargetError(f"there is no nnU-Net folder {root}.")
    if (root / "plans.pkl").is_file() or any(root.glob("fold_*/*.model")):
        raise TargetError(f"{root} was trained with nnU-Net v1: only results of nnU-Net v2 are audited.")
    raise TargetError(
        f"{root} has no plans.json: give the folder TRAINER__PLANS__CONFIGURATION of nnUNet_results, or a MONAI bundle "
        "with models/plans.json."
    )


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a checkpoint.

    Args:
        weights: state dictionary.
        trainer: name of the class that trained it.
        configuration: name of the plans' configuration.
        mirrored_axes: spatial axes along which its predictor may mirror; empty for none.
    """

    weights: Mapping[str, torch.Tensor]
    trainer: str
    configuration: str
    mirrored_axes: tuple[int, ...]


def read_checkpoint(folder: NNUNetFolder, fold: int | str, name: str, trust: bool) -> Checkpoint:
    """Read one fold's weights without running code from the file.

    Args:
        folder, fold, name: which.
        trust: read a file that holds pickled objects all the same, which runs whatever is in it.

    Raises:
        TargetError: for a file that is no checkpoint of nnU-Net v2, or that needs ``trust``.
    """
    file = folder.weights_file(fold, name)
    found = _load(file, trust)
    about = found if folder.header is None else _load(folder.header, trust)
    weights = found.get("network_weights", found if folder.is_bundle else None)
    arguments = about.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    trainer = about.get("trainer_name")
    if not isinstance(weights, Mapping) or not isinstance(configuration, str) or not isinstance(trainer, str):
        raise TargetError(
            f"{file} is no checkpoint of nnU-Net v2: it must hold network_weights, trainer_name and "
            "init_args.configuration."
        )
    axes = about.get("inference_allowed_mirroring_axes")
    return Checkpoint(weights, trainer, configuration, () if axes is None else tuple(int(axis) for axis in axes))


def _load(file: Path, trust: bool) -> Mapping[str, Any]:
    # What nnU-Net's own log of losses holds: numbers of NumPy, under the names of its versions 1 and 2.
    numbers = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, f"{room}.multiarray.scalar") for room in ("numpy.core", "numpy._core")]
    if not zipfile.is_zipfile(file):
        raise TargetError(f"{file} cannot be read as a checkpoint: it is cut short, or was not written by torch.save.")
    try:
        with torch.serialization.safe_globals([np.dtype, *numbers, *names]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise TargetError(
                f"{file} holds pickled objects, which may run any program when they are read: give --trust "
                "(trust=True) if you know where it comes from."
            ) from error
        found = _load_trusted(file)
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise TargetError(f"{file} cannot be read as a checkpoint ({type(error).__name__}).") from error
    if not isinstance(found, Mapping):
        raise TargetError(f"{file} must hold a dictionary, got a {type(found).__name__}.")
    return found


def _load_trusted(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise TargetError(f"{file} cannot be read as a checkpoint ({type(error).__name__}: {error}).") from error


class NNUNetPlans:
    """One configuration of the plans together with the data set's labels, through nnU-Net's own managers.

    Args:
        plans: content of ``plans.json``.
        dataset: content of ``dataset.json``.
        configuration: name of the configuration.
    """

    def __init__(self, plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> None:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        self.manager: Any = PlansManager(plans)
        self.configuration: Any = self.manager.get_configuration(configuration)
        self.name = configuration
        self.dataset = dataset
        self.labels: Any = self.manager.get_label_manager(dataset)
        self.channels = len(self.channel_names)

    @property
    def channel_names(self) -> list[str]:
        """What the input channels are, such as CT."""
        names: Any = self.dataset.get("channel_names", self.dataset.get("modality"))
        return [names[key] for key in sorted(names, key=int)]

    @property
    def dimensions(self) -> int:
        """Axes of the network: 2 or 3."""
        return len(self.configuration.patch_size)

    @cached_property
    def reader(self) -> Any:
        """Class that reads images."""
        return self.manager.image_reader_writer_class

    @cached_property
    def preprocessor(self) -> Any:
        """Class of the preprocessing, without its progress messages."""
        made = self.configuration.preprocessor_class
        return lambda: made(verbose=False)

    def spacings(self, properties: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        """Spacing in mm of an image and of the network's grid, in nnU-Net's order of axes. A 2D configuration leaves
        the spacing between slices."""
        own = [properties["spacing"][axis] for axis in self.manager.transpose_forward]
        target = list(self.configuration.spacing)
        return own, target if len(target) == len(own) else [own[0], *target]

    @property
    def regions(self) -> list[tuple[int, ...]] | None:
        """Label values of each output channel of region-based training; None for exclusive classes."""
        if not self.labels.has_regions:
            return None
        return [tuple(r) if isinstance(r, (list, tuple)) else (r,) for r in self.labels.foreground_regions]

    @property
    def class_names(self) -> list[str]:
        """Names of the output channels, the background first where classes are exclusive."""
        named = {name: value for name, value in self.dataset["labels"].items() if name != "ignore"}
        if self.regions is not None:
            return [name for name, value in named.items() if name != "background" and value not in (0, [0])]
        return sorted(named, key=lambda name: _value(named[name]))

    @cached_property
    def intensity(self) -> IntensityMap | None:
        """Map from raw values to the network's where it is the same for all images; None otherwise."""
        statistics = self.manager.foreground_intensity_properties_per_channel
        maps = [
            _map_of(scheme, statistics[str(channel)])
            for channel, scheme in enumerate(self.configuration.normalization_schemes)
        ]
        if any(one is None for one in maps):
            return None
        rows = [[float("nan") if n is None else float(n) for n in one.values] for one in maps if one is not None]
        if all(row == rows[0] or str(row) == str(rows[0]) for row in rows):
            return maps[0]
        scale, offset, low, high = torch.tensor(rows, dtype=torch.float64).T[:4, None]
        low, high = low.nan_to_num(-torch.inf), high.nan_to_num(torch.inf)
        return IntensityMap(scale, offset, None if low.isinf().all() else low, None if high.isinf().all() else high)


def _value(label: Any) -> int:
    return int(label[0] if isinstance(label, (list, tuple)) else label)


def _map_of(scheme: str, statistics: Mapping[str, float]) -> IntensityMap | None:
    """The map of a normalization of nnU-Net that does not depend on the image."""
    if scheme == "NoNormalization":
        return IntensityMap(1.0, 0.0)
    if scheme == "RGBTo01Normalization":
        return IntensityMap(1.0 / 255.0, 0.0)
    if scheme != "CTNormalization":
        return None
    mean, spread = float(statistics["mean"]), max(float(statistics["std"]), 1e-8)
    low, high = (float(statistics[name]) for name in ("percentile_00_5", "percentile_99_5"))
    if not low < high:
        raise TargetError(f"the plans clip CT values to {low} to {high} HU: nothing of an image is left.")
    return IntensityMap(1.0 / spread, -mean / spread, (low - mean) / spread, (high - mean) / spread)


def read_plans(folder: NNUNetFolder, configuration: str, trust: bool) -> NNUNetPlans:
    """The plans of one configuration, if it is one that can be audited.

    Args:
        folder: where they are.
        configuration: name, from a checkpoint.
        trust: allow networks and layers from anywhere, whose modules are imported.

    Raises:
        TargetError: in one sentence.
    """
    content, dataset = folder.read_json("plans.json"), folder.read_json("dataset.json")
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not isinstance(dataset.get("channel_names", dataset.get("modality")), dict):
        raise TargetError(f"{folder.path / 'dataset.json'} must hold the mappings labels and channel_names.")
    try:
        plans = NNUNetPlans(content, dataset, configuration)
        is_cascade = plans.configuration.previous_stage_name is not None
        _check_origin(plans, trust)
        _check_known(plans, is_cascade)
    except (KeyError, RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise TargetError(
            f"{folder.path / 'plans.json'} does not describe the configuration {configuration!r} of the checkpoint: "
            f"{type(error).__name__} {error}."
        ) from error
    return plans


def _check_origin(plans: NNUNetPlans, trust: bool) -> None:
    """Plans are JSON, but nnU-Net imports and calls whatever classes they name."""
    arguments = plans.configuration.network_arch_init_kwargs
    named = [plans.configuration.network_arch_class_name]
    named += [arguments[key] for key in plans.configuration.network_arch_init_kwargs_req_import if arguments[key]]
    for name in named:
        if not trust and not (isinstance(name, str) and name.startswith(_TRUSTED)):
            raise TargetError(
                f"the plans name {name!r}, which is no part of dynamic_network_architectures or torch.nn and would be "
                "imported and run: give --trust (trust=True) if you know where the plans come from."
            )


def _check_known(plans: NNUNetPlans, is_cascade: bool) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    if is_cascade:
        raise TargetError(
            f"{plans.name} is the second stage of a cascade, which needs the first one's segmentation as an input: "
            "audit 3d_lowres or 3d_fullres."
        )
    made = plans.configuration.preprocessor_class
    own = [getattr(made, name, None) is not getattr(DefaultPreprocessor, name) for name in ("run_case_npy", "run_case")]
    if made is None or any(own):
        raise TargetError(
            f"the plans' preprocessing, {plans.configuration.preprocessor_name}, is not nnU-Net's own: it is not known "
            "where its voxels are."
        )
    if plans.reader is None or len(plans.configuration.normalization_schemes) != plans.channels:
        raise TargetError(
            f"the plans normalize {len(plans.configuration.normalization_schemes)} channels, dataset.json names "
            f"{plans.channels}."
        )
    if plans.regions is None and list(map(int, plans.labels.all_labels)) != [*range(len(plans.labels.all_labels))]:
        raise TargetError(
            f"the labels in dataset.json must be consecutive from 0, got {list(map(int, plans.labels.all_labels))}: "
            "nnU-Net takes the number of an output channel for the label."
        )
