# SPDX-License-Identifier: Apache-2.0
"""A trained nnU-Net v2 as an audit target: its results folder, or the MONAI bundle that was made of it."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from torch import nn

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.nnunet_folder import (
    BUNDLED,
    FINAL,
    Checkpoint,
    NNUNetFolder,
    NNUNetPlans,
    check_nnunet,
    find_folder,
    read_checkpoint,
    read_plans,
)
from monai_adversarial.audit.targets.nnunet_network import NNUNetEnsemble
from monai_adversarial.audit.targets.nnunet_postprocessing import Components, SegmentNNUNetd, read_components
from monai_adversarial.audit.targets.nnunet_preprocessing import (
    LabelNNUNetd,
    LoadNNUNetd,
    NormalizeNNUNetd,
    ResampleNNUNetd,
    read_images,
    region_masks,
)
from monai_adversarial.audit.targets.nnunet_windows import NNUNetSlices, NNUNetWindows
from monai_adversarial.models.recorded_intensity import install_recorders
from monai_adversarial.utils.hashing import file_hash, fingerprint
from monai_adversarial.utils.validation import check_flag

__all__ = ["read_nnunet"]


def read_nnunet(
    results_dir: str | os.PathLike[str],
    *,
    folds: Sequence[int | str] | int | str | None = None,
    checkpoint: str = FINAL,
    mirroring: bool = False,
    device: torch.device | str | None = None,
    trust: bool = False,
    **told: Any,
) -> TargetParts:
    """Read a trained nnU-Net: its own preprocessing, architecture, windows and export around a network with gradients.

    Args:
        results_dir: folder ``TRAINER__PLANS__CONFIGURATION`` of ``nnUNet_results``, with ``plans.json``,
            ``dataset.json`` and ``fold_x``; or a MONAI bundle made by ``convert_nnunet_to_monai_bundle``.
        folds: numbers of the folds whose mean is audited; ``"all"`` for ``fold_all``. None: all numbered folds that
            have the checkpoint, as nnU-Net's predictor.
        checkpoint: name of the weights in each fold. In a MONAI bundle the default stands for ``model.pt``.
        mirroring: average over mirrored images, which nnU-Net's predictor does unless it is told ``--disable_tta``.
            Each step of an attack then costs as many times more as there are mirrored images (8 in 3D).
        device: of the network; None for CUDA where there is one.
        trust: read pickled objects in checkpoints and postprocessing, and import classes that the plans name from
            anywhere: this can run any program.
        told: further arguments of ``AttackedModel``.

    Returns:
        The parts. ``reference_prediction`` is nnU-Net's own predictor on the same weights, in its half precision sums.

    Raises:
        TargetError: for a folder that is no such nnU-Net, in one sentence.
    """
    version = check_nnunet()
    check_flag("mirroring", mirroring)
    check_flag("trust", trust)
    folder = find_folder(results_dir)
    name = BUNDLED if folder.is_bundle and checkpoint == FINAL else checkpoint
    chosen = folder.folds(folds, name)
    read = [read_checkpoint(folder, fold, name, trust) for fold in chosen]
    _check_same(read, chosen)
    first = read[0]
    plans = read_plans(folder, first.configuration, trust)
    networks = [_network(plans, one, folder.weights_file(fold, name)) for one, fold in zip(read, chosen, strict=True)]
    axes = _mirrored_axes(first, plans) if mirroring else ()
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    ensemble = NNUNetEnsemble(networks, axes, plans.labels.num_segmentation_heads).to(place).eval()
    components = read_components(folder, chosen, trust)
    segment = SegmentNNUNetd("pred", "image", plans, components)
    patch = plans.configuration.patch_size
    parts: dict[str, Any] = {
        "activation": "softmax" if plans.regions is None else "sigmoid",
        "class_names": plans.class_names,
    }
    if plans.intensity is not None:
        parts["intensity"] = plans.intensity
    if plans.labels.has_ignore_label:
        parts["ignore_index"] = int(plans.labels.ignore_label)
    if place.type == "cuda":
        parts["scoring_precision"] = "float16"  # nnU-Net's predictor runs under autocast there
    steps = [
        LoadNNUNetd("image", plans),
        NormalizeNNUNetd("image", plans),
        ResampleNNUNetd("image", plans),
        LabelNNUNetd("label", "image", plans),
    ]
    return TargetParts(
        kind="nnU-Net",
        name=f"{plans.manager.dataset_name} {plans.name}",
        network=ensemble,
        inferer=NNUNetWindows(patch) if plans.dimensions == 3 else NNUNetSlices(patch),
        preprocessing=install_recorders(Compose(steps), "image"),
        postprocessing=segment,
        label_masks=None if plans.regions is None else partial(region_masks, regions=plans.regions),
        told={**parts, **told},
        facts=_facts(version, folder, plans, first, chosen, name, axes, components),
        hashes=_hashes(folder, chosen, name),
        reference_prediction=_reference(plans, networks[0], read, axes, place, segment),
    )


def _check_same(read: Sequence[Checkpoint], folds: Sequence[int | str]) -> None:
    for one, fold in zip(read[1:], folds[1:], strict=True):
        for what in ("configuration", "trainer", "mirrored_axes"):
            own, others = getattr(read[0], what), getattr(one, what)
            if own != others:
                raise TargetError(
                    f"the folds differ: {what} is {own!r} in fold_{folds[0]} and {others!r} in fold_{fold}."
                )


def _mirrored_axes(checkpoint: Checkpoint, plans: NNUNetPlans) -> tuple[int, ...]:
    if any(not 0 <= axis < plans.dimensions for axis in checkpoint.mirrored_axes):
        raise TargetError(
            f"the checkpoint mirrors along the axes {checkpoint.mirrored_axes}, but the network has "
            f"{plans.dimensions}: it was written by another configuration."
        )
    return checkpoint.mirrored_axes


def _network(plans: NNUNetPlans, checkpoint: Checkpoint, file: Path) -> nn.Module:
    """The architecture of the plans with the weights of a fold, without the outputs of deep supervision."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    configuration = plans.configuration
    channels = determine_num_input_channels(plans.manager, configuration, plans.dataset)
    heads = plans.labels.num_segmentation_heads
    try:
        trainer = recursive_find_trainer_class_by_name(checkpoint.trainer)
        # A trainer of one's own may be older than the signature of nnU-Net 2.8.
        if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:
            built = trainer.build_network_architecture(
                plans.manager, configuration, channels, heads, enable_deep_supervision=False
            )
        else:
            built = trainer.build_network_architecture(
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
                channels,
                heads,
                enable_deep_supervision=False,
            )
    except (RuntimeError, ImportError, AssertionError, TypeError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise TargetError(f"nnU-Net cannot build the network of {checkpoint.trainer}: {why}.") from error
    try:
        built.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise TargetError(f"the weights in {file} do not fit the architecture of plans.json: {why}.") from error
    broken = [key for key, value in built.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise TargetError(f"the weights in {file} hold NaN or infinite values, first in {broken[0]!r}.")
    return built.eval()


def _reference(
    plans: NNUNetPlans,
    network: nn.Module,
    read: Sequence[Checkpoint],
    axes: Sequence[int],
    device: torch.device,
    segment: SegmentNNUNetd,
) -> Callable[[Any], torch.Tensor]:
    """nnU-Net's own predictor, on a copy of the network."""
    made: list[Any] = []

    def predictor() -> Any:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        benchmark = torch.backends.cudnn.benchmark
        with redirect_stdout(StringIO()):
            found = nnUNetPredictor(use_mirroring=bool(axes), device=device, allow_tqdm=False)
        # It switches to whatever kernel is fastest at the moment, for the whole process.
        torch.backends.cudnn.benchmark = benchmark
        found.manual_initialization(
            copy.deepcopy(network),
            plans.manager,
            plans.configuration,
            [dict(one.weights) for one in read],
            plans.dataset,
            read[0].trainer,
            tuple(axes) or None,
        )
        return found

    def predict(path: Any) -> torch.Tensor:
        array, properties = read_images(plans, path)
        if not made:
            made.append(predictor())
        with redirect_stdout(StringIO()):
            segmentation = made[0].predict_single_npy_array(array, dict(properties))
        found = segment.on_file(segmentation, properties).as_tensor()
        return found[0] if plans.regions is None else found

    return predict


def _hashes(folder: NNUNetFolder, folds: Sequence[int | str], name: str) -> dict[str, str]:
    weights = {f"weights of fold_{fold}": file_hash(folder.weights_file(fold, name)) for fold in folds}
    config = {file: file_hash(folder.path / file) for file in ("plans.json", "dataset.json")}
    return {"weights": fingerprint(weights), "config": fingerprint(config), **weights, **config}


def _facts(
    version: str,
    folder: NNUNetFolder,
    plans: NNUNetPlans,
    checkpoint: Checkpoint,
    folds: Sequence[int | str],
    name: str,
    axes: Sequence[int],
    components: Components,
) -> list[Fact]:
    configuration = plans.configuration
    averaged = "the mean of the logits of folds " if len(folds) > 1 else "fold "
    order = plans.manager.transpose_forward
    turned = ", ".join("zyx"[axis] for axis in order)
    facts = [
        Fact("nnU-Net", f"v2 of nnunetv2 {version}, trainer {checkpoint.trainer}", f"fold_{folds[0]}/{name}"),
        Fact("network", f"{averaged}{', '.join(map(str, folds))}, without deep supervision", f"fold_x/{name}"),
        Fact("input", f"one file for each of the channels {', '.join(plans.channel_names)}", "dataset.json"),
        Fact(
            "preprocessing",
            f"nnU-Net's own: {plans.manager.plans['image_reader_writer']}, axes {turned}, crop to nonzero, "
            f"{', '.join(configuration.normalization_schemes)}, spacing {list(configuration.spacing)} mm",
            "plans.json",
        ),
        Fact("mirroring", _said_of_mirroring(axes, checkpoint), "mirroring", told=bool(axes)),
        Fact(
            "inferer",
            f"windows of {list(configuration.patch_size)} voxels, where nnU-Net's predictor puts them, half overlap, "
            "its Gaussian weights",
            "plans.json",
        ),
        Fact(
            "classes" if plans.regions is None else "regions, which may overlap",
            ", ".join(plans.class_names),
            "dataset.json",
        ),
    ]
    if plans.intensity is None:
        facts.append(
            Fact("intensity map", "depends on each image, and is fitted to it, channel by channel", "plans.json")
        )
    else:
        facts.append(Fact("intensity map", str(plans.intensity), "plans.json"))
    if plans.labels.has_ignore_label:
        facts.append(Fact("ignored label", str(plans.labels.ignore_label), "dataset.json"))
    kept = "; ".join(f"only the largest component of {one['labels_or_regions']}" for one in components.arguments)
    if components.source:
        facts.append(Fact("postprocessing", kept or "none helped", components.source))
    else:
        facts.append(Fact("postprocessing", "none: there is no postprocessing.json or .pkl for these folds"))
    if folder.is_bundle:
        facts.append(
            Fact(
                "axes",
                "z, y, x, as in nnU-Net's training; MONAI's ModelnnUNetWrapper hands x, y, z to the network",
                "monai.apps.nnunet",
            )
        )
    return facts


def _said_of_mirroring(axes: Sequence[int], checkpoint: Checkpoint) -> str:
    possible = checkpoint.mirrored_axes
    if axes:
        return f"the mean over images mirrored along the axes {list(axes)}, as nnU-Net's predictor does by default"
    if possible:
        return f"off (as --disable_tta); nnU-Net's predictor mirrors along the axes {list(possible)} by default"
    return "off; the network was trained for none"
