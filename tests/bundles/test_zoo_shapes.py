# SPDX-License-Identifier: Apache-2.0
"""One overlay, with no number but its budget, on stand-ins of every shape that Model Zoo bundles have."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose, GaussianSmooth, NormalizeIntensityd, ScaleIntensityRanged
from PIL import Image

from monai_adversarial.models import UnknownIntensity, install_recorders, map_of_batch, read_intensity
from tests.bundles.here import run_here
from tests.bundles.zoo_parts import JoinPhases

PARTS = "tests.bundles.zoo_parts"
HU = {"epsilon": 8, "units": "HU"}
SHARE = {"epsilon": 0.02, "units": "percentile"}
SOFTMAX = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
]
SIGMOID = [
    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
    {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
]
LOAD = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
WINDOW = {"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}


def network(in_channels: int = 1, out_channels: int = 3, spatial_dims: int = 3) -> str:
    """The config of a tiny network."""
    call = f"tiny_segmentation_network({in_channels}, {out_channels}, {spatial_dims})"
    return f"$__import__('tests.helpers', fromlist=['x']).{call}"


def scan(folder: Path, name: str = "scan", shape: tuple[int, ...] = (12, 12, 10), seed: int = 0) -> str:
    """A NIfTI file with whole numbers from -200 to 300."""
    voxels = np.random.RandomState(seed).randint(-200, 300, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.5, -1.5, 2.0, 1.0])), str(folder / f"{name}.nii.gz"))
    return str(folder / f"{name}.nii.gz")


def mri(folder: Path, channels: int = 1, shape: tuple[int, ...] = (12, 12, 10)) -> list[str]:
    """NIfTI files of one case: positive numbers inside, zeros around."""
    files = []
    for channel in range(channels):
        voxels = np.zeros(shape, np.float32)
        inner = tuple(slice(2, length - 2) for length in shape)
        voxels[inner] = np.random.RandomState(channel).uniform(100, 900, voxels[inner].shape)
        files.append(str(folder / f"sequence_{channel}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), files[-1])
    return files


def photograph(folder: Path) -> str:
    """An RGB image."""
    voxels = np.random.RandomState(0).randint(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(voxels).save(folder / "photograph.png")
    return str(folder / "photograph.png")


RGB = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": -1},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
]


def written(folder: Path, budget: dict[str, Any], **parts: Any) -> list[str]:
    """A bundle's config and the overlay, as files."""
    config = {
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "$torch.device('cpu')",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "imports": ["$import torch"],
        "initialize": ["$torch.manual_seed(0)"],
        "run": ["$@evaluator.run()"],
    }
    for name in ("preprocessing", "postprocessing"):
        config[name] = {"_target_": "Compose", "transforms": parts.pop(name)}
    config["evaluator"] |= parts.pop("evaluator", {})  # type: ignore[operator]
    (folder / "inference.json").write_text(json.dumps({**config, **parts}))
    (folder / "overlay.yaml").write_text(
        "adversary:\n"
        "  _target_: monai_adversarial.engines.PrepareBatchAdversarial\n"
        f"  attack: {{_target_: monai_adversarial.attacks.PGD, epsilon: {budget['epsilon']}, "
        f"units: {budget['units']}, steps: 1}}\n"
        '  engine: "@evaluator"\n'
        '+initialize: ["@adversary"]\n'
    )
    return [str(folder / "inference.json"), str(folder / "overlay.yaml")]


@dataclass
class Seen:
    """What a run said and did.

    Args:
        said: the facts and the budget.
        clean: the image of each batch.
        change: how far each batch moved, voxel by voxel.
        adversary: the attack in the engine.
        warned: texts of warnings.
    """

    said: str = ""
    clean: list[torch.Tensor] = field(default_factory=list)
    change: list[torch.Tensor] = field(default_factory=list)
    adversary: Any = None
    warned: list[str] = field(default_factory=list)

    @property
    def largest(self) -> list[float]:
        """Of each channel of the first batch."""
        return [float(channel.max()) for channel in self.change[0][0]]


def run(folder: Path, capsys: pytest.CaptureFixture[str], budget: dict[str, Any], **parts: Any) -> Seen:
    """Run a stand-in with the overlay; every iteration must be attacked."""
    files = written(folder, budget, **parts)
    workflow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, meta_file=None)
    seen = Seen()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workflow.initialize()
        seen.adversary = workflow.parser.get_parsed_content("adversary")
        inner = seen.adversary.attacked

        def attacked(batchdata: Any, prepared: Any) -> Any:
            adversarial, label = inner(batchdata, prepared)
            clean = prepared[0] if isinstance(prepared, tuple) else prepared
            seen.clean.append(torch.as_tensor(clean).clone())
            seen.change.append((torch.as_tensor(adversarial) - torch.as_tensor(clean)).abs())
            return adversarial, label

        seen.adversary.attacked = attacked
        workflow.run()
    workflow.finalize()
    seen.warned = [str(warning.message) for warning in caught]
    engine = workflow.parser.get_parsed_content("evaluator")
    assert len(seen.change) == engine.state.iteration > 0
    (seen.said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("attacks `")]
    return seen


def refusal(folder: Path, **parts: Any) -> str:
    """The sentence that ends the run of a stand-in."""
    files = written(folder, SHARE, **parts)
    workflow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, meta_file=None)
    with pytest.raises(Exception) as raised:
        workflow.initialize()
        workflow.run()
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """No log, so that the facts are printed."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def ct(folder: Path, **parts: Any) -> dict[str, Any]:
    """A CT bundle in the Model Zoo's most common shape."""
    return {
        "data": [{"image": scan(folder)}, {"image": scan(folder, "other", seed=1)}],
        "preprocessing": [
            *LOAD,
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0]},
            {**WINDOW, "keys": "image"},
        ],
        "postprocessing": SOFTMAX,
        "network": network(),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "overlap": 0.25},
        **parts,
    }


def test_ct_behind_a_sliding_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = run(tmp_path, capsys, HU, **ct(tmp_path))
    assert seen.said == (
        "attacks `Sequential` behind `SlidingWindowInferer`, -57..164 HU -> 0..1 from `preprocessing#4` "
        "(ScaleIntensityRanged), softmax from `postprocessing#0` (Activationsd), PGD budget 8 HU = 0.0362"
    )
    assert len(seen.change) == 2 and seen.largest == pytest.approx([8 / 221], rel=1e-4)
    # The same as 8 HU at one voxel of the file that lies inside the window.
    item = {"image": scan(tmp_path)}
    file = nibabel.load(item["image"])
    voxels = np.asarray(file.dataobj).copy()
    voxels[tuple(np.argwhere(np.abs(voxels - 50) < 90)[7])] += 8
    nibabel.save(nibabel.Nifti1Image(voxels, file.affine), item["image"])
    raised = seen.adversary.installed.engine.data_loader.dataset.transform(item)["image"]
    assert float((raised - seen.clean[0][0]).abs().max()) == pytest.approx(8 / 221, rel=1e-4)


def test_the_same_by_the_command_of_bundles(tmp_path: Path) -> None:
    files = written(tmp_path, HU, **ct(tmp_path, **{"evaluator": {"val_handlers": []}}))
    done = run_here(files, tmp_path, tmp_path, logging_file=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "PGD budget 8 HU = 0.0362" in done.stdout + done.stderr


@pytest.mark.parametrize("smoothed", [False, True])
def test_105_classes_scaled_by_each_images_own_values(
    smoothed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoothing = [{"_target_": "GaussianSmoothd", "keys": "image", "sigma": 0.4}] if smoothed else []
    chain = [
        *LOAD,
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
        *smoothing,
        {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0},
    ]
    parts = ct(tmp_path, preprocessing=chain, network=network(out_channels=105))
    seen = run(tmp_path, capsys, HU, **parts)
    assert "(NormalizeIntensityd, zeros stay zero)" in seen.said
    assert ("(GaussianSmoothd, the budget counts behind it)" in seen.said) == smoothed
    assert seen.said.endswith("PGD budget 8 HU, converted image by image")
    raw = torch.as_tensor(nibabel.load(scan(tmp_path)).get_fdata()).float()[None]
    inside = raw[raw != 0]
    normal = torch.where(raw != 0, (raw - inside.mean()) / inside.std(unbiased=False), raw)
    if smoothed:
        normal = torch.as_tensor(GaussianSmooth(0.4)(normal))
    scale = 2 / float(normal.max() - normal.min()) / float(inside.std(unbiased=False))
    assert seen.largest == pytest.approx([8 * scale], rel=1e-3)


def percentile_range(image: torch.Tensor) -> list[float]:
    """From the 1st to the 99th percentile of each channel."""
    low, high = np.percentile(image.flatten(1).numpy(), [1, 99], axis=1)
    return list(high - low)


def test_four_sequences_and_overlapping_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regions = torch.rand((3, 12, 12, 10), generator=torch.Generator().manual_seed(0)) > 0.5
    torch.save(regions, tmp_path / "regions.pt")
    seen = run(
        tmp_path,
        capsys,
        SHARE,
        data=[{"image": mri(tmp_path, 4), "label": f"$torch.load('{tmp_path / 'regions.pt'}')"}],
        preprocessing=[
            *LOAD,
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
        ],
        postprocessing=SIGMOID,
        network=network(4),
        inferer={"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]},
    )
    assert "sigmoid from `postprocessing#0`" in seen.said
    assert seen.said.endswith("PGD budget 2.000% of the image's 1st to 99th percentile range")
    assert seen.largest == pytest.approx([0.02 * wide for wide in percentile_range(seen.clean[0][0])], rel=1e-3)
    assert float(seen.change[0][seen.clean[0] == 0].max()) == 0  # what was zero stays it
    assert not seen.adversary.last_result.reference_is_prediction


def test_mri_with_two_maps_that_depend_on_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = [*LOAD, {"_target_": "ScaleIntensityd", "keys": "image"}, {"_target_": "NormalizeIntensityd"}]
    chain[-1]["keys"] = "image"
    argmax = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    parts = ct(tmp_path, data=[{"image": mri(tmp_path)[0]}], preprocessing=chain, postprocessing=argmax)
    seen = run(tmp_path, capsys, SHARE, **parts)
    assert "fitted for each image at preprocessing#2 (ScaleIntensityd) and preprocessing#3" in seen.said
    assert "softmax from `postprocessing#0` (AsDiscreted)" in seen.said
    assert seen.largest == pytest.approx([0.02 * wide for wide in percentile_range(seen.clean[0][0])], rel=1e-3)
    # The share is that of the file, too.
    raw = torch.as_tensor(nibabel.load(parts["data"][0]["image"]).get_fdata())[None].float()
    per_unit = float(seen.clean[0].max() - seen.clean[0].min()) / float(raw.max() - raw.min())
    assert seen.largest[0] / per_unit == pytest.approx(0.02 * percentile_range(raw)[0], rel=1e-3)


def test_slices_of_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = run(
        tmp_path,
        capsys,
        SHARE,
        **ct(
            tmp_path,
            data=[{"image": mri(tmp_path)[0]}],
            preprocessing=[*LOAD, {"_target_": "ScaleIntensityd", "keys": "image"}],
            network=network(spatial_dims=2),
            inferer={"_target_": "SliceInferer", "roi_size": [12, 12], "spatial_dim": 2},
        ),
    )
    assert seen.said.startswith("attacks `Sequential` behind `SliceInferer`")
    assert seen.largest == pytest.approx([0.02 * percentile_range(seen.clean[0][0])[0]], rel=1e-3)
    assert bool((seen.change[0].amax(dim=(2, 3)) > 0).all())  # in every slice


def test_clicks_in_channels_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guidance = {"_target_": "AddGuidanceSignalDeepEditd", "keys": "image", "guidance": "guidance"}
    parts = ct(tmp_path, network=network(3))
    parts["preprocessing"].append({**guidance, "number_intensity_ch": 1})
    parts["preprocessing"][-1]["_target_"] = "monai.apps.deepedit.transforms.AddGuidanceSignalDeepEditd"
    clicks = {"spleen": [[0, 5, 5, 5]], "background": [[0, 1, 1, 1]]}
    parts["data"] = [{**item, "guidance": clicks} for item in parts["data"]]
    seen = run(tmp_path, capsys, HU, **parts)
    assert "the first input channel is image, from `preprocessing#5` (AddGuidanceSignalDeepEditd)" in seen.said
    assert seen.said.endswith("PGD budget 8 HU = 0.0362")
    assert seen.largest == pytest.approx([8 / 221, 0, 0], rel=1e-4)
    assert float(seen.clean[0][0, 1].max()) == 1  # there are clicks


def test_one_sigmoid_channel_and_a_prior_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = torch.zeros(1, 24, 24)
    mask[:, 8:16, 8:16] = 1
    torch.save(mask, tmp_path / "mask.pt")
    prior = {"_target_": "monai.apps.nuclick.transforms.AddLabelAsGuidanced", "keys": "image", "source": "label"}
    seen = run(
        tmp_path,
        capsys,
        SHARE,
        data=[{"image": photograph(tmp_path), "label": f"$torch.load('{tmp_path / 'mask.pt'}')"}],
        preprocessing=[*RGB, prior],
        postprocessing=SIGMOID,
        network=network(4, 1, 2),
    )
    assert "the last input channel is guidance" in seen.said and "sigmoid" in seen.said
    wide = percentile_range(seen.clean[0][0, :3])
    assert seen.largest == pytest.approx([*(0.02 * one for one in wide), 0], rel=1e-3)


def test_a_label_that_is_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ct(tmp_path)
    parts["data"] = [{**item, "label": "labels/case.nii.gz"} for item in parts["data"]]
    seen = run(tmp_path, capsys, HU, **parts)
    assert seen.said.endswith("PGD budget 8 HU = 0.0362") and seen.largest == pytest.approx([8 / 221], rel=1e-4)
    assert "the batch's is a list" in seen.adversary.last_result.reference_reason


PHASES = ["artery", "vein"]


@pytest.mark.parametrize("scaled", ["before", "after"])
@pytest.mark.parametrize("dataset", ["Dataset", "CacheDataset"])
def test_phases_that_a_script_joins_and_a_raw_label(
    scaled: str, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = [
        {"_target_": "LoadImaged", "keys": [*PHASES, "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": PHASES},
        {"_target_": "Spacingd", "keys": PHASES, "pixdim": [1.0, 1.0, 1.0]},
    ]
    join = {"_target_": f"{PARTS}.JoinPhases", "keys_merge": PHASES, "keys_out": "image"}
    before = [{**WINDOW, "keys": PHASES}] if scaled == "before" else []
    after = [{**WINDOW, "keys": "image"}] if scaled == "after" else []
    parts = ct(tmp_path, network=network(2, 6), postprocessing=SIGMOID)
    parts["data"] = [{name: scan(tmp_path, name, seed=seed) for seed, name in enumerate((*PHASES, "label"))}]
    parts["preprocessing"] = [*load, *before, join, *after, {"_target_": "EnsureTyped", "keys": "image"}]
    parts["dataset"] = {"_target_": dataset, "data": "@data", "transform": "@preprocessing"}
    seen = run(tmp_path, capsys, HU, **parts)
    assert "(JoinPhases, makes the image from others" in seen.said and "-57..164 HU -> 0..1" in seen.said
    assert seen.said.endswith("PGD budget 8 HU, converted image by image")
    assert seen.largest == pytest.approx([8 / 221] * 2, rel=1e-4)
    assert any("the attack's reference is the network's own clean prediction" in text for text in seen.warned)


def test_phases_that_are_changed_on_the_way_have_no_hounsfield_units(tmp_path: Path) -> None:
    join = {"_target_": f"{PARTS}.JoinChanged", "keys_merge": PHASES, "keys_out": "image"}
    load = [{**step, "keys": PHASES} for step in LOAD]
    parts = ct(tmp_path, network=network(2), preprocessing=[*load, join])
    parts["data"] = [{name: scan(tmp_path, name) for name in PHASES}]
    files = written(tmp_path, HU, **parts)
    workflow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, meta_file=None)
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    assert "needs the map between them" in str(raised.value.__cause__) and "JoinChanged" in str(raised.value.__cause__)


def test_channels_that_monai_joins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = [{**step, "keys": PHASES} for step in (*LOAD, WINDOW)]
    join = {"_target_": "ConcatItemsd", "keys": PHASES, "name": "image"}
    parts = ct(tmp_path, network=network(2), preprocessing=[*load, join])
    parts["data"] = [{name: scan(tmp_path, name, seed=seed) for seed, name in enumerate(PHASES)}]
    seen = run(tmp_path, capsys, HU, **parts)
    assert seen.said.endswith("PGD budget 8 HU = 0.0362")
    assert seen.largest == pytest.approx([8 / 221] * 2, rel=1e-4)


def test_a_cast_of_the_label_is_no_cast_of_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ct(tmp_path)
    cast = {"_target_": "CastToTyped", "keys": ["image", "label"], "dtype": ["$torch.float32", "$torch.uint8"]}
    parts["data"] = [{**item, "label": item["image"]} for item in parts["data"]]
    parts["preprocessing"][0] = {"_target_": "LoadImaged", "keys": ["image", "label"]}
    parts["preprocessing"].append(cast)
    seen = run(tmp_path, capsys, HU, **parts)
    assert "-57..164 HU -> 0..1 from `preprocessing#4`" in seen.said
    assert seen.said.endswith("PGD budget 8 HU = 0.0362")


def test_rgb_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argmax = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    chain = [*RGB[:2], {"_target_": "ScaleIntensityd", "keys": "image"}]
    parts = {"data": [{"image": photograph(tmp_path)}], "preprocessing": chain, "postprocessing": argmax}
    seen = run(tmp_path, capsys, SHARE, **parts, network=network(3, 2, 2))
    assert seen.said.endswith("PGD budget 2.000% of the image's 1st to 99th percentile range")
    assert seen.largest == pytest.approx([0.02 * wide for wide in percentile_range(seen.clean[0][0])], rel=1e-3)


def test_answers_in_several_resolutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simple = {"_target_": "SimpleInferer"}
    first = [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[0] if isinstance(x, list) else x"}]
    parts = ct(tmp_path, network={"_target_": f"{PARTS}.Resolutions"}, inferer=simple)
    parts["preprocessing"].append({"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": [8, 8, 8]})
    parts["evaluator"] = {"decollate": False}
    seen = run(tmp_path, capsys, HU, **{**parts, "postprocessing": [*first, SOFTMAX[0]]})
    assert seen.said.startswith("attacks `Resolutions` behind `SimpleInferer`")
    assert seen.largest == pytest.approx([8 / 221], rel=1e-4)


def test_an_iteration_of_its_own_with_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ct(
        tmp_path,
        network={"_target_": f"{PARTS}.Prompted"},
        inferer={"_target_": f"{PARTS}.PromptInferer"},
        postprocessing=SIGMOID,
        evaluator={"_target_": f"{PARTS}.PromptEvaluator"},
    )
    parts["data"] = [{**item, "prompt": 3} for item in parts["data"]]
    seen = run(tmp_path, capsys, HU, **parts)
    assert seen.said.startswith("attacks `Prompted` behind `PromptInferer`")
    assert seen.said.endswith("PGD budget 8 HU = 0.0362")
    assert len(seen.change) == 2 and seen.largest == pytest.approx([8 / 221], rel=1e-4)


def test_detectors_are_refused_before_any_work(tmp_path: Path) -> None:
    parts = ct(tmp_path, network={"_target_": f"{PARTS}.Boxes"})
    assert refusal(tmp_path, **parts) == (
        "the engine's network is the detector Boxes, which returns boxes: only segmentation networks are attacked."
    )


def test_classifiers_are_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = run(
        tmp_path,
        capsys,
        SHARE,
        data=[{"image": photograph(tmp_path)}],
        preprocessing=RGB,
        postprocessing=[{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
        network={"_target_": f"{PARTS}.Classifier"},
    )
    assert seen.said.startswith("attacks `Classifier`") and "sigmoid from `postprocessing#0`" in seen.said
    assert seen.largest[0] > 0
    result = seen.adversary.last_result
    assert result.metric == "accuracy" and result.prediction.shape == (1, 4)


def test_an_answer_that_is_read_in_another_way_is_refused(tmp_path: Path) -> None:
    sentence = refusal(
        tmp_path,
        data=[{"image": photograph(tmp_path)}],
        preprocessing=RGB,
        postprocessing=[{"_target_": f"{PARTS}.FlowsToCells", "keys": "pred"}],
        network=network(3, 3, 2),
    )
    assert sentence.startswith("`postprocessing#0` (FlowsToCells) reads the network's answer in its own way")


@pytest.mark.filterwarnings("ignore:neither the postprocessing nor a loss")
def test_several_answers_with_names_are_refused(tmp_path: Path) -> None:
    sentence = refusal(
        tmp_path,
        data=[{"image": photograph(tmp_path)}],
        preprocessing=RGB,
        postprocessing=[{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x"}],
        network={"_target_": f"{PARTS}.Branches"},
    )
    assert sentence.startswith("the network must return one tensor of logits") and "'nucleus_prediction'" in sentence


def test_the_image_is_joined_to_the_bit() -> None:
    given = {name: MetaTensor(torch.rand(1, 4, 4, 4) * 100) for name in PHASES}
    pipeline = Compose([ScaleIntensityRanged(PHASES[:1], 0, 50, 0, 1), JoinPhases(PHASES, "image")])
    plain = torch.as_tensor(pipeline({k: v.clone() for k, v in given.items()})["image"])
    recorded = install_recorders(pipeline)({k: v.clone() for k, v in given.items()})["image"]
    assert torch.equal(recorded.as_tensor(), plain)
    recorded = recorded[None]
    found = map_of_batch(read_intensity(pipeline), recorded)
    assert torch.as_tensor(found.scale).flatten().tolist() == pytest.approx([0.02, 1.0])


def test_voxels_that_a_phase_holds_are_held_and_a_phase_of_unclear_origin_is_unknown() -> None:
    steps = [
        NormalizeIntensityd(PHASES[:1], subtrahend=10.0, divisor=50.0, nonzero=True),
        NormalizeIntensityd(PHASES[1:], subtrahend=0.0, divisor=20.0),
        JoinPhases(PHASES, "image"),
    ]
    pipeline = install_recorders(Compose(steps))
    one, two = torch.rand(1, 4, 4, 4) * 100 + 1, torch.rand(1, 4, 4, 4) * 100
    one[:, 0] = 0
    image = pipeline({"artery": MetaTensor(one.clone()), "vein": MetaTensor(two.clone())})["image"][None]
    found = map_of_batch(read_intensity(pipeline), image)
    reachable = found.reachable(image.as_tensor())[0]
    assert torch.equal(reachable[0], one[0] != 0) and bool(reachable[1].all())
    empty = MetaTensor(torch.zeros(1, 4, 4, 4))
    image = pipeline({"artery": empty.clone(), "vein": empty.clone()})["image"][None]
    with pytest.raises(UnknownIntensity, match="JoinPhases"):  # two maps lead to the same voxels
        map_of_batch(read_intensity(pipeline), image)
