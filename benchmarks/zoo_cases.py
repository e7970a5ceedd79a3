# SPDX-License-Identifier: Apache-2.0
"""How each bundle of the Model Zoo is brought to run on tiny made-up data, on a CPU and with MONAI 1.6.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo_data as data

__all__ = ["CASES", "HU", "SHARE", "Case"]

#: budgets: where preprocessing is read as a map from HU, and in the image's own range elsewhere
HU = {"epsilon": 8, "units": "HU"}
SHARE = {"epsilon": 0.02, "units": "percentile"}

INFERENCE, EVALUATE = ("inference.json",), ("train.json", "evaluate.json")
VALIDATE = "validate#evaluator"
ONE_PROCESS = {"dataloader#num_workers": 0}
ONE_PROCESS_VALIDATE = {"validate#dataloader#num_workers": 0}
RUN_VALIDATION = {"run": ["$@validate#evaluator.run()"]}
STATISTICS = {"validate#handlers": [{"_target_": "StatsHandler", "iteration_log": False}]}


@dataclass
class Case:
    """One config of a bundle.

    Args:
        bundle: its folder.
        config: what the row is called.
        files: config files, in order.
        engine: config identifier of the evaluator.
        make_data: writes the bundle's data into a folder.
        budget: of the overlay.
        run_id: what is run; not all bundles call it ``run``.
        overrides: where data are, smaller windows and networks: for speed. ``{data}`` and ``{root}`` are the folders
            of data and bundle.
        needed: overrides without which the config does not run here at all.
        needs: the same and whatever else is needed, in words.
        repair: mends the bundle's own scripts.
        checkpoint: where the stand-in for the weights belongs.
        checkpoint_key: key of the weights in it.
    """

    bundle: str
    config: str
    files: tuple[str, ...]
    engine: str
    make_data: Callable[[Path], None]
    budget: dict[str, Any]
    run_id: str = "run"
    overrides: dict[str, Any] = field(default_factory=dict)
    needed: dict[str, Any] = field(default_factory=dict)
    needs: str = ""
    repair: Callable[[], None] | None = None
    checkpoint: str = "models/model.pt"
    checkpoint_key: str = "model"

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.bundle}.{self.config}"


CASES: list[Case] = []


def _pair(
    bundle: str,
    make_data: Callable[[Path], None],
    budget: dict[str, Any],
    both: dict[str, Any] | None = None,
    inference: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    evaluate_options: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """``inference``, and ``evaluate`` after the training config."""
    both = both or {}
    CASES.append(
        Case(
            bundle,
            "inference",
            options.pop("inference_files", INFERENCE),
            "evaluator",
            make_data,
            budget,
            overrides={**ONE_PROCESS, **both, **(inference or {})},
            **options,
        )
    )
    options = {**options, "files": EVALUATE, "engine": VALIDATE, **(evaluate_options or {})}
    overrides = {**ONE_PROCESS_VALIDATE, **both, **(evaluate or {})}
    CASES.append(
        Case(bundle, "evaluate", make_data=make_data, budget=budget, overrides=overrides, **options)  # type: ignore[arg-type]
    )


def _windows(size: list[int], **both: Any) -> dict[str, Any]:
    return {
        "inference": {"inferer#roi_size": size},
        "evaluate": {"validate#inferer#roi_size": size},
        "both": {name.replace("__", "#"): value for name, value in both.items()},
    }


CUBE = [48, 48, 48]
_pair("spleen_ct_segmentation", lambda f: data.msd_ct(f, (1,)), HU, **_windows(CUBE))

SWIN = {"_target_": "SwinUNETR", "spatial_dims": 3, "in_channels": 1, "out_channels": 14, "feature_size": 12}
_pair(
    "swin_unetr_btcv_segmentation",
    lambda f: data.msd_ct(f, tuple(range(1, 14))),
    HU,
    **_windows([64, 64, 64]),
    needed={"network_def": {**SWIN, "use_checkpoint": False}},
    evaluate_options={"needed": {"network_def": {**SWIN, "use_checkpoint": True}}},
    needs="`network_def` without `img_size`, which MONAI 1.6.1 no longer takes",
)
_pair(
    "wholeBody_ct_segmentation",
    lambda f: data.msd_ct(f, (1, 2, 3, 5, 6, 10, 13, 40, 60, 80, 93, 104)),
    HU,
    **_windows(CUBE, network_def__init_filters=8),
)


def _dints(labels: tuple[int, ...]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        data.decathlon_ct(folder, labels)
        data.dints_arch(folder / "search_code_18590.pt")

    return make


for _name, _labels in (
    ("pancreas_ct_dints_segmentation", (1, 2)),
    ("multi_organ_segmentation", (1, 2, 3, 4, 5, 6, 7)),
):
    _paths = {"data_list_file_path": "{data}/dataset_0.json", "arch_ckpt_path": "{data}/search_code_18590.pt"}
    _small = {"inferer#overlap": 0.25, "inferer#sw_batch_size": 2, "inferer#roi_size": CUBE}
    _pair(
        _name,
        _dints(_labels),
        HU,
        both={**_paths, "dints_space#channel_mul": 0.25},
        inference=_small,
        evaluate={f"validate#{key}": value for key, value in _small.items()},
        inference_files=("inference.yaml",),
        evaluate_options={"files": ("train.yaml", "evaluate.yaml")},
        needed={"arch_ckpt": "$torch.load(@arch_ckpt_path, weights_only=False)", "dints_space#device": "cpu"},
        needs="`arch_ckpt` loaded with `weights_only=False`, `dints_space#device`; the architecture is a stand-in too",
    )

_pair(
    "brats_mri_segmentation",
    data.brats,
    SHARE,
    both={"data_list_file_path": "{data}/datalist.json"},
    inference={"inferer#roi_size": [48, 48, 32]},
    evaluate={"validate#inferer#roi_size": [48, 48, 32]},
)
_pair(
    "prostate_mri_anatomy",
    data.prostate,
    SHARE,
    both={"dataset_dir": "{data}/"},
    inference={"inferer#roi_size": [64, 64, 32]},
    evaluate={"validate#inferer#roi_size": [64, 64, 32], **RUN_VALIDATION, **STATISTICS},
    evaluate_options={"files": ("train.json",)},
    needs="pandas",
)
_pair(
    "ventricular_short_axis_3label",
    data.ventricular,
    SHARE,
    inference={"inferer#roi_size": [64, 64], "dataloader#num_workers": None},
    evaluate={"run": ["$@evaluator.run()"], "eval_dataloader#num_workers": 0, "validate#dataloader#num_workers": None},
    evaluate_options={"files": ("train.json",), "engine": "evaluator", "run_id": "run"},
    run_id="evaluating",
)
_pair(
    "wholeBrainSeg_Large_UNEST_segmentation",
    data.brain,
    SHARE,
    inference={"dataset_dir": "{data}/images", "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))[:1]"},
    evaluate={"images": "$list(sorted(glob.glob(@dataset_dir + '/images/*.nii.gz')))[:1]"}
    | {**RUN_VALIDATION, **STATISTICS},
    evaluate_options={"files": ("train.json",), "run_id": "run"},
    run_id="evaluating",
)
_pair(
    "renalStructures_UNEST_segmentation",
    data.renal_unest,
    HU,
    evaluate={**RUN_VALIDATION, **STATISTICS},
    evaluate_options={"files": ("train.json",), "run_id": "run"},
    run_id="evaluating",
)
_pair(
    "renalStructures_CECT_segmentation",
    data.cect,
    HU,
    **_windows(CUBE, network_def__init_filters=8),
    run_id="inference",
    evaluate_options={"run_id": "evaluate"},
)
FILTERS = {"network_def#filters": [8, 16, 16, 32, 32, 32]}
_pair(
    "pediatric_abdominal_ct_segmentation",
    data.pediatric,
    HU,
    both={"data_list_file_path": "{data}/TS_test.json", **FILTERS},
    inference={"inferer#roi_size": [64, 64, 32]},
    evaluate={"spatial_size": [64, 64, 32]},
    inference_files=("inference.yaml",),
    evaluate_options={"files": ("train.yaml", "evaluate.yaml")},
    checkpoint="models/dynunet_FT.pt",
)
CLICKS = "$[{'image': i, 'spleen': [[28, 20, 16]], 'background': [[5, 5, 5]]} for i in @datalist]"
_pair(
    "spleen_deepedit_annotation",
    lambda f: data.msd_ct(f, (1,)),
    HU,
    both={"spatial_size": [64, 64, 32], **FILTERS},
    inference={"dataset#data": CLICKS},
    evaluate={"validate#dataloader#num_workers": None},
)
_pair(
    "pathology_nuclick_annotation",
    data.nuclick,
    SHARE,
    both={"network_def#features": [8, 16, 32, 32, 32, 8]},
)
_pair(
    "endoscopic_tool_segmentation",
    data.endoscopic,
    SHARE,
    inference={"preprocessing#transforms#2#spatial_size": [128, 96]},
    evaluate={"train#deterministic_transforms#3#spatial_size": [128, 96]},
)


def _points_of_vista3d() -> None:
    """With NumPy 2 a matrix product of its script is a tensor, of which it then wants a tensor."""
    import scripts.evaluator as module

    kept = module.Vista3dEvaluator.transform_points

    def transform_points(self: Any, point: Any, affine: Any) -> Any:
        return np.asarray(kept(self, np.asarray(point), np.asarray(affine)))

    module.Vista3dEvaluator.transform_points = transform_points


SMALL_VISTA = "$monai.networks.nets.vista3d132(encoder_embed_dim=16, in_channels=@input_channels)"
VISTA = {"patch_size": [64, 64, 64], "network_def": SMALL_VISTA}
IMAGE = "'image': '{data}/imagesTr/case_0.nii.gz'"
_pair(
    "vista3d",
    data.vista3d,
    HU,
    both=VISTA,
    inference={"input_dict": f"${{{IMAGE}, 'label_prompt': [3]}}", "dataloader#num_workers": None},
    evaluate={"data_list_file_path": "{data}/folds.json"},
)
CASES.append(
    Case(
        *("vista3d", "inference, points", INFERENCE, "evaluator", data.vista3d, HU),
        overrides={**VISTA, "input_dict": f"${{{IMAGE}, 'points': [[28, 20, 16], [5, 5, 5]], 'point_labels': [1, 0]}}"},
        repair=_points_of_vista3d,
        needs="its `transform_points` mended for NumPy 2",
    )
)
SMALL_2D = {"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 3}
CASES.append(
    Case(
        *("vista2d", "inference", INFERENCE, "evaluator", data.cell, SHARE),
        overrides={
            "input_dict": "${'image': '{data}/001_img.png'}",
            "roi_size": [128, 128],
            "network_def": {**SMALL_2D, "features": [8, 8, 16, 16, 32, 8]},
        },
        checkpoint_key="state_dict",
        needs="a small network for its SAM; cellpose 3.0, segment-anything, fastremap, opencv, torchvision",
    )
)
CASES.append(
    Case(
        *("pathology_nuclei_segmentation_classification", "train, validation only", ("train.json",), VALIDATE),
        *(data.hovernet, SHARE),
        overrides={"dataset_dir": "{data}/Prepared", **ONE_PROCESS_VALIDATE, **RUN_VALIDATION, **STATISTICS},
    )
)
CASES.append(
    Case(
        *("lung_nodule_ct_detection", "inference", INFERENCE, "evaluator", data.luna, HU),
        overrides={"data_list_file_path": "{data}/dataset_fold0.json", **ONE_PROCESS, "infer_patch_size": [64, 64, 48]},
        needs="torchvision",
    )
)
CASES.append(
    Case(
        *("breast_density_classification", "inference", INFERENCE, "evaluator", data.breast, SHARE, "evaluating"),
        overrides={"data#filename": "{data}/sample_image_data.json", **ONE_PROCESS, "dataset#num_workers": 0},
        needed={"network_def#pretrained": False},
        needs="torchvision; `network_def#pretrained` false, as the download is",
    )
)
