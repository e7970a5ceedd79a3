#!/usr/bin/env bash
# MONAI 1.6.1 with nnunetv2 2.8.1 (torch 2.13.0, CPU): an nnU-Net cannot be made a MONAI bundle, nor run from one.
# - convert_nnunet_to_monai_bundle reads checkpoints with weights_only=True. What nnU-Net's trainer saves holds its log
#   of losses, numbers of NumPy, which torch refuses: UnpicklingError for every checkpoint of a real training.
# - ModelnnUNetWrapper builds the network with the arguments that nnunetv2 had before 2.8 (class name, its arguments,
#   imports): TypeError, build_network_architecture() got multiple values for argument 'enable_deep_supervision'.
# - In ModelnnUNetWrapper.forward the image and its spacing go to nnU-Net as x, y, z, the order of MONAI's readers;
#   nnU-Net's own readers, with which the network was trained, give z, y, x. Read in the code (MONAI's pull request 8469
#   is about it); not run here, since the wrapper cannot be made.
#
# Seen: "convert: UnpicklingError", "wrapper: TypeError". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \
      "torch==2.13.0" "monai==1.6.1" "nnunetv2==2.8.1" "numpy<3"
fi
nnUNet_raw="$folder/raw" nnUNet_preprocessed="$folder/preprocessed" nnUNet_results="$folder/results" \
  "$PYTHON" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.apps.nnunet import ModelnnUNetWrapper, convert_nnunet_to_monai_bundle
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

root, name = Path(sys.argv[1]), "Dataset901_Box"
(root / "raw" / name).mkdir(parents=True)
(root / "preprocessed" / name / "data").mkdir(parents=True)
(root / "preprocessed" / name / "data" / "case.b2nd").touch()
kinds = ("data", "seg", "probabilities")
kernels = {"n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3] * 3] * 2, "strides": [[1] * 3, [2] * 3]}
configuration = {
    **{"data_identifier": "data", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "batch_dice": False},
    **{"patch_size": [16] * 3, "spacing": [1.0] * 3, "normalization_schemes": ["NoNormalization"]},
    **{"use_mask_for_norm": [False]},
    **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds},
    **{f"resampling_fn_{kind}_kwargs": {"is_seg": kind == "seg", "order": 1} for kind in kinds},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            **kernels,
            **{"conv_op": "torch.nn.modules.conv.Conv3d", "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1]},
        },
        "_kw_requires_import": ["conv_op"],
    },
}
plans = {
    **{"dataset_name": name, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO"},
    **{"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager"},
    "foreground_intensity_properties_per_channel": {"0": {}},
    "configurations": {"3d_fullres": configuration},
}
labels = {"background": 0, "box": 1}
dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
given = {**plans, "continue_training": False}
trainer = nnUNetTrainer(given, "3d_fullres", 0, dataset, device=torch.device("cpu"))
trainer.initialize()
trainer.logger.log("train_losses", np.mean(np.float32([0.5])), 0)  # as on_train_epoch_end does
folder = root / "results" / name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
for checkpoint in ("checkpoint_final.pth", "checkpoint_best.pth"):
    trainer.save_checkpoint(str(folder / "fold_0" / checkpoint))
(folder / "plans.json").write_text(json.dumps(plans))
(folder / "dataset.json").write_text(json.dumps(dataset))
bundle = root / "bundle"
(bundle / "models").mkdir(parents=True)


def outcome(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "fine"


converted = outcome(lambda: convert_nnunet_to_monai_bundle({"dataset_name_or_id": "901"}, str(bundle)))
numbers = [np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), np.float64(0).__reduce__()[0]]
with torch.serialization.safe_globals(numbers):
    convert_nnunet_to_monai_bundle({"dataset_name_or_id": "901"}, str(bundle))
predictor = nnUNetPredictor(device=torch.device("cpu"))
wrapped = outcome(lambda: ModelnnUNetWrapper(predictor, bundle / "models" / "fold_0"))
print(f"convert: {converted}")
print(f"wrapper: {wrapped}")
assert (converted, wrapped) == ("UnpicklingError", "TypeError"), "the behavior has changed"
PYTHON
