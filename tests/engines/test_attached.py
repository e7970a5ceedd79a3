# SPDX-License-Identifier: Apache-2.0
"""An attack that joins a live engine: what it reads, what it says, and that no iteration is left out."""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.apps.deepgrow.transforms import AddGuidanceSignald
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from monai.data.folder_layout import FolderLayoutBase
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SaveImaged,
    ScaleIntensityRanged,
)
from monai.utils import CommonKeys
from torch import nn

from monai_adversarial.attacks import FGSM, PGD, ElasticAttack
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.engines.attack_mixture import PrepareBatchAttackMixture
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.models.engines import SHAPE, evaluator, hounsfield, items, trainer

WINDOW = ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True)


def changes(engine: Any) -> list[float]:
    """Run; the largest change of each batch's image, in the network's values."""
    found: list[float] = []

    @engine.on(IterationEvents.MODEL_COMPLETED)
    def look(engine: Any) -> None:
        batch, output = engine.state.batch, engine.state.output
        pairs = zip(batch, output, strict=True) if isinstance(batch, list) else [(batch, output)]
        found.extend(float((o["image"][:1] - b["image"][:1]).abs().max()) for b, o in pairs)

    engine.run()
    return found


def said(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_the_budget_in_hounsfield_units_needs_no_number_but_itself(capsys: pytest.CaptureFixture[str]) -> None:
    engine = evaluator(
        preprocessing=[WINDOW],
        postprocessing=[Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)],
        inferer=SlidingWindowInferer(8, 1, 0.5),
    )
    logging.disable(logging.INFO)
    try:
        prepare = PrepareBatchAdversarial(PGD(8, units="HU", steps=1), engine=engine)
        # Of a random start that is the best point no voxel need be at the very edge of the budget.
        assert changes(engine) == pytest.approx([8 / 400] * 2, rel=2e-3)
        engine.run()
    finally:
        logging.disable(logging.NOTSET)
    sentence = (
        "attacks `Sequential` behind `SlidingWindowInferer`, -160..240 HU -> 0..1 from `preprocessing#0` "
        "(ScaleIntensityRanged), softmax from `postprocessing#0` (Activationsd), PGD budget 8 HU = 0.0200\n"
    )
    printed = capsys.readouterr().out
    assert printed.count(sentence) == 1  # once, not for each run
    assert printed.count("attacked 2 images: mean Dice with the label ") == 2  # for each run
    assert prepare.last_result is not None and prepare.last_result.facts == prepare.model.facts  # type: ignore[union-attr]
    assert prepare.last_result.reference_is_prediction is False and prepare.last_result.reference_reason == ""


@pytest.mark.parametrize("labeled", [True, False])
def test_a_run_says_at_its_end_what_the_attack_left(labeled: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The means of what the batches' results hold, and a caution where the clean images are not segmented either."""
    engine = evaluator()
    told = {} if labeled else {"reference": "prediction"}
    prepare = PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine, **told)
    found: list[Any] = []
    engine.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda: found.append(prepare.last_result))
    with caplog.at_level(logging.INFO):
        engine.run()
    clean, attacked = (
        float(torch.cat([getattr(result, f"{kind}_score") for result in found]).mean())
        for kind in ("clean", "adversarial")
    )
    reference = "label" if labeled else "clean prediction"
    assert (
        f"attacked 2 images: mean Dice with the {reference} {clean:.3f} -> {attacked:.3f}, success in " in caplog.text
    )
    low = sum(int((result.clean_score < 0.5).sum()) for result in found)
    assert (f"caution: the clean Dice is below 0.5 in {low} of 2" in caplog.text) == (labeled and low > 0)
    assert low > 0 or not labeled


def test_detaching_leaves_the_engine_as_it_was() -> None:
    engine = evaluator()
    before = engine.prepare_batch
    prepare = PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    with pytest.raises(ValueError, match="PrepareBatchAdversarial already changes this engine's batch"):
        PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    prepare.detach(engine)
    assert engine.prepare_batch is before and prepare.prepare_batch is None
    engine.run()
    assert prepare.batches == 0
    prepare.attach(engine)
    engine.run()
    assert prepare.batches == 2


def test_as_a_handler_of_the_engine() -> None:
    prepare = PrepareBatchAdversarial(PGD(0.1, steps=1))
    assert changes(evaluator(val_handlers=[prepare])) == pytest.approx([0.1] * 2, abs=1e-3)


def test_without_engine_and_model_it_says_what_is_missing() -> None:
    engine = evaluator(prepare_batch=PrepareBatchAdversarial(PGD(0.1, steps=1)))
    with pytest.raises(ValueError, match="does not know what to attack: pass model=, or engine="):
        engine.run()
    with pytest.raises(TypeError, match="intensity belongs to the model"):
        PrepareBatchAdversarial(PGD(0.1), tiny_segmentation_network(), intensity=WINDOW)


def test_a_budget_in_hounsfield_units_without_their_map_is_refused_before_any_work() -> None:
    data = [{**item, "artery": item["image"]} for item in items()]
    steps = [ScaleIntensityRanged("artery", -160, 240, 0, 1)]
    with pytest.raises(ValueError, match=r"the budget is in HU, but the images come in the network's values"):
        PrepareBatchAdversarial(PGD(8, units="HU"), engine=evaluator(preprocessing=steps, data=data))


def test_a_typed_map_against_the_pipeline_is_refused_with_both() -> None:
    told = {"intensity": {"a_min": -1000, "a_max": 1000}}
    with pytest.raises(ValueError, match=r"given as -1000..1000 HU -> 0..1, but .* maps -160..240 HU -> 0..1"):
        PrepareBatchAdversarial(PGD(8, units="HU"), engine=evaluator(preprocessing=[WINDOW]), **told)


class TwoInputs(nn.Module):
    """A network that needs a prior besides the image."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.priors = tiny_segmentation_network(), [0]

    def forward(self, image: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        self.priors.append(prior.shape[0])
        return self.network(image + prior)


@pytest.mark.parametrize("keys", ["prior", {"prior": "prior"}])
def test_further_inputs_of_the_batch_reach_the_network_in_every_pass(keys: Any) -> None:
    network = TwoInputs()
    data = [{**item, "image": random_image(SHAPE), "prior": torch.zeros(SHAPE) - 0.3} for item in items()]
    engine = evaluator(network, data=data, prepare_batch=PrepareBatchExtraInput(keys))
    prepare = PrepareBatchAdversarial(PGD(0.05, steps=3), engine=engine)
    engine.run()
    assert isinstance(prepare.prepare_batch, PrepareBatchExtraInput)  # wrapped, not replaced
    assert len(network.priors) - 1 == 2 * (1 + 3 + 1 + 1)  # and once for the engine's own prediction


class OwnIteration(SupervisedEvaluator):
    """As ``Vista3dEvaluator`` with prompts: it reads the batch itself and calls its inferer with keywords."""

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> Any:
        inputs = batchdata["image"].to(engine.state.device)
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: None}
        with engine.mode(engine.network):
            engine.state.output[CommonKeys.PRED] = engine.inferer(inputs=inputs, network=engine.network)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


class NoInferer(OwnIteration):
    """It calls the network itself."""

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> Any:
        engine.state.output = {CommonKeys.PRED: engine.network(batchdata["image"])}
        return engine.state.output


def test_an_engine_that_does_not_prepare_its_batch_is_attacked_where_it_calls_its_inferer() -> None:
    engine = evaluator(engine=OwnIteration, preprocessing=[WINDOW])
    prepare = PrepareBatchAdversarial(PGD(8, units="HU", steps=1), engine=engine)
    assert changes(engine) == pytest.approx([8 / 400] * 2, rel=2e-3)
    assert prepare.last_result is not None and prepare.last_result.reference_is_prediction
    prepare.detach(engine)
    assert changes(engine) == [0.0, 0.0]


def test_an_iteration_that_is_not_attacked_ends_the_run() -> None:
    engine = evaluator(engine=NoInferer)
    PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    with pytest.raises(RuntimeError, match="iteration 1 of NoInferer was not attacked"):
        engine.run()


def test_an_iteration_of_its_own_that_prepares_the_batch_is_attacked_once() -> None:
    def update(engine: Any, batchdata: Any) -> Any:
        inputs, _ = engine.prepare_batch(batchdata, engine.state.device)
        engine.state.output = {"image": inputs, "pred": engine.inferer(inputs, engine.network)}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = evaluator(iteration_update=update)
    prepare = PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    assert changes(engine) == pytest.approx([0.1] * 2, abs=1e-3) and prepare.batches == 2


def test_replacing_prepare_batch_afterwards_is_noticed() -> None:
    engine = evaluator()
    PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    engine.prepare_batch = PrepareBatchExtraInput("prior")
    with pytest.raises(ValueError, match="was replaced by PrepareBatchExtraInput"):
        engine.run()


def labels() -> dict[str, tuple[Any, str | None]]:
    right = random_label((1, *SHAPE), classes=2)
    return {
        "boolean": (right.bool(), None),
        "8 bit": (right.to(torch.uint8), None),
        "float": (right.float(), None),
        "meta": (MetaTensor(right.float()), None),
        "array": (right.numpy(), None),
        "unsigned array": (right.numpy().astype(np.uint16), None),
        "boolean array": (right.numpy().astype(bool), None),
        "no channel": (right[:, 0], "must have shape"),
        "another grid": (right[..., :-1], "must have shape"),
        "other values": (right * 255, "class indices 0 to 2 .* got 255"),
        "fractions": (right * 0.5, "whole numbers"),
        "masks of other classes": (right.expand(1, 2, 8, 8, 8), "one-hot with 2 channels"),
        "names": (["liver"], "is a list"),
    }


@pytest.mark.parametrize("kind", labels())
def test_a_label_is_cast_or_replaced_by_the_clean_prediction_and_that_is_said(kind: str) -> None:
    label, reason = labels()[kind]
    image = random_image((1, *SHAPE))
    prepare = PrepareBatchAdversarial(
        FGSM(0.05), tiny_segmentation_network(), prepare_batch=lambda batch, *rest: (batch["image"], batch["label"])
    )
    returned: list[Any] = []
    messages = said(lambda: returned.extend(prepare({"image": image, "label": label})))
    messages = [
        sentence for sentence in messages if not sentence.startswith("caution: the clean Dice")
    ]  # random labels
    assert returned[1] is label
    result = prepare.last_result
    assert result is not None and result.reference_is_prediction == (reason is not None)
    if reason is None:
        assert messages == [] and result.reference_reason == ""
        assert torch.equal(result.label.long(), torch.as_tensor(np.asarray(label).astype(np.int64)))
    else:
        assert len(messages) == 1 and re.search(reason, messages[0])
        assert "the attack's reference is the network's own clean prediction" in messages[0]
        assert result.clean_dice.tolist() == [1.0]
        assert messages[0].startswith(result.reference_reason)


def test_a_batch_without_label_says_why() -> None:
    prepare = PrepareBatchAdversarial(FGSM(0.05), tiny_segmentation_network())
    image = random_image((1, *SHAPE))
    prepare({"image": image})
    assert prepare.last_result is not None and prepare.last_result.reference_reason == "the batch has no label"
    prepare({"image": image, "label": np.zeros(3)})
    assert prepare.last_result.reference_reason == "prepare_batch gave no label (the batch's is a ndarray)"
    prepare(image)
    assert prepare.last_result.reference_is_prediction


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_moved_label_keeps_its_type(dtype: torch.dtype) -> None:
    image = MetaTensor(random_image((1, *SHAPE)), affine=torch.eye(4, dtype=torch.float64)[None])
    label = random_label((1, *SHAPE), classes=2).to(dtype)
    attack = ElasticAttack(2.0, control_spacing=6.0, steps=1)
    _, moved = PrepareBatchAdversarial(attack, tiny_segmentation_network())({"image": image, "label": label})
    assert moved.dtype == dtype and not torch.equal(moved, label)


@pytest.mark.parametrize(
    "augmentation", [RandScaleIntensityd("image", 0.9, prob=1), RandShiftIntensityd("image", 0.9, prob=1)]
)
@pytest.mark.parametrize("way", ["handler", "prepare_batch"])
def test_augmentation_after_the_window_is_one_warning_and_trains_on(augmentation: Any, way: str) -> None:
    augmentation.set_random_state(0)
    data = [{"image": hounsfield(seed=i), "label": random_label(SHAPE, 2, seed=i)} for i in range(6)]
    network = tiny_segmentation_network(out_channels=2)
    attack = PGD(8, units="HU", steps=1)
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    engine = trainer(network, [WINDOW, augmentation], data, loss, max_epochs=2)
    if way == "handler":
        from monai_adversarial.handlers import AdversarialTraining

        AdversarialTraining(attack, {"intensity": WINDOW}).attach(engine)
    else:
        PrepareBatchAdversarial(attack, engine=engine, training=True)
    messages = said(engine.run)
    assert engine.state.iteration == 12
    ours = [message for message in messages if "lie far outside" in message]
    assert len(ours) == 1


def test_a_crop_of_padding_trains_on() -> None:
    data = [{"image": hounsfield(), "label": random_label(SHAPE, 2)} for _ in range(2)]
    data.insert(1, {"image": torch.zeros(SHAPE), "label": torch.zeros(SHAPE, dtype=torch.int64)})
    engine = trainer(
        tiny_segmentation_network(out_channels=2), data=data, loss=DiceCELoss(softmax=True, to_onehot_y=True)
    )
    prepare = PrepareBatchAdversarial(PGD(8, units="HU", steps=1), engine=engine, training=True)
    engine.run()
    assert engine.state.iteration == prepare.batches == 3


def test_training_refuses_a_model_that_maps_images_itself() -> None:
    told = {"intensity": {"a_min": -160, "a_max": 240}, "image_units": "HU"}
    with pytest.raises(ValueError, match="model must see the image as the trained network does"):
        PrepareBatchAdversarial(PGD(8, units="HU"), engine=trainer(), training=True, **told)


def test_guidance_of_the_pipeline_is_left_alone() -> None:
    steps = [WINDOW, AddGuidanceSignald("image", guidance="clicks")]
    data = [{**item, "clicks": [[[4, 4, 4]], [[1, 1, 1]]]} for item in items()]
    engine = evaluator(tiny_segmentation_network(in_channels=3), steps, data=data)
    PrepareBatchAdversarial(PGD(8, units="HU", steps=1), engine=engine)
    moved: list[torch.Tensor] = []

    @engine.on(IterationEvents.MODEL_COMPLETED)
    def look(engine: Any) -> None:
        moved.extend(
            (torch.as_tensor(o["image"]) - torch.as_tensor(b["image"])).abs().amax(dim=(1, 2, 3))
            for b, o in zip(engine.state.batch, engine.state.output, strict=True)
        )

    engine.run()
    for change in moved:
        assert change.tolist() == pytest.approx([8 / 400, 0, 0], rel=2e-3)


def test_a_mixture_goes_on_exactly_where_it_was_stopped() -> None:
    network, batch = (
        tiny_segmentation_network(),
        {"image": random_image((1, *SHAPE)), "label": random_label((1, *SHAPE))},
    )

    def make() -> PrepareBatchAttackMixture:
        return PrepareBatchAttackMixture([None, FGSM(0.05), PGD(0.1, steps=1)], network, seed=3, training=True)

    one, two, three = make(), make(), make()
    whole = [one(batch)[0] for _ in range(10)]
    for _ in range(5):
        two(batch)
    three.load_state_dict(two.state_dict())
    for expected in whole[5:]:
        assert torch.equal(three(batch)[0], expected)
    assert len({round(float((image - batch["image"]).abs().max()), 3) for image in whole}) == 3


def bundle(folder: Path, place: str, kind: str) -> Path:
    """A bundle in the Model Zoo's layout with its engine under ``place``."""
    prefix = place.rsplit("#", 1)[0] + "#" if "#" in place else ""
    lines = {
        f"{prefix}preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -160, "a_max": 240, "b_min": 0}
                | {"b_max": 1, "clip": True}
            ],
        },
        f"{prefix}dataset": {
            "_target_": "Dataset",
            "data": "$__import__('tests.models.engines', fromlist=['x']).items()",
            "transform": f"@{prefix}preprocessing",
        },
        f"{prefix}dataloader": {"_target_": "DataLoader", "dataset": f"@{prefix}dataset", "num_workers": 0},
        f"{prefix}inferer": {"_target_": "SlidingWindowInferer", "roi_size": 8},
    }
    if kind == "trainer":
        engine: dict[str, Any] = {
            "_target_": "SupervisedTrainer",
            "max_epochs": 1,
            "train_data_loader": f"@{prefix}dataloader",
            "optimizer": "$torch.optim.SGD(@network.parameters(), lr=0.1)",
            "loss_function": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
        }
    else:
        engine = {"_target_": "SupervisedEvaluator", "val_data_loader": f"@{prefix}dataloader"}
    engine |= {"device": "$torch.device('cpu')", "network": "@network", "inferer": f"@{prefix}inferer"}
    parsed: dict[str, Any] = {
        "imports": ["$import torch"],
        "network": "$__import__('tests.helpers', fromlist=['x']).tiny_segmentation_network()",
        "run": [f"$@{place}.run()"],
    }
    if kind != "inference":
        parsed["initialize"] = ["$torch.manual_seed(0)"]
    for name, value in {**lines, place: engine}.items():
        where = parsed
        *outer, last = name.split("#")
        for part in outer:
            where = where.setdefault(part, {})
        where[last] = value
    (folder / "configs").mkdir()
    file = folder / "configs" / "config.json"
    file.write_text(json.dumps(parsed))
    return file


@pytest.mark.parametrize(
    ("place", "kind"), [("evaluator", "inference"), ("validate#evaluator", "evaluate"), ("train#trainer", "trainer")]
)
def test_one_overlay_for_every_kind_of_config(place: str, kind: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    training = "\n  training: true" if kind == "trainer" else ""
    overlay.write_text(
        "adversary:\n"
        "  _target_: monai_adversarial.engines.PrepareBatchAdversarial\n"
        "  attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, steps: 1}\n"
        f'  engine: "@{place}"{training}\n'
        '+initialize: ["@adversary"]\n'
    )
    file = bundle(tmp_path, place, kind)

    def workflow(*files: Path) -> ConfigWorkflow:
        return ConfigWorkflow([str(f) for f in files], logging_file=False, meta_file=None, workflow_type="infer")

    attacked = workflow(file, overlay)
    attacked.initialize()
    engine = attacked.parser.get_parsed_content(place)
    found: list[float] = []

    @engine.on(IterationEvents.FORWARD_COMPLETED)
    def look(engine: Any) -> None:
        found.append(float((engine.state.output["image"] - engine.state.batch["image"]).abs().max()))

    attacked.run()
    attacked.finalize()
    assert found == pytest.approx([8 / 400] * 2, rel=2e-3)

    overlay.write_text(overlay.read_text().replace(f"@{place}", "@another#engine"))
    wrong = workflow(file, overlay)
    with pytest.raises(Exception, match="another"):
        wrong.initialize()


def test_files_of_attacked_images_have_names_of_their_own(tmp_path: Path) -> None:
    """Those of several attacks, too; afterwards, and in another run, the writer has its own name again."""
    network, case = tiny_segmentation_network(), items(2)
    nested = SaveImaged("pred", output_dir=tmp_path, output_postfix="seg", separate_folder=False, print_log=False)
    bare = SaveImaged("pred", output_dir=tmp_path, output_postfix="", separate_folder=False, print_log=False)
    engine = evaluator(network, postprocessing=[Compose([nested]), bare], data=case)
    postfix = lambda: [one.saver.folder_layout.postfix for one in (nested, bare)]  # noqa: E731
    adversary = PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    seen: list[list[str]] = []
    engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda: seen.append(postfix()))
    assert postfix() == ["seg", ""]
    engine.run()
    engine.run()
    assert seen == [["seg_pgd", "pgd"]] * 4 and postfix() == ["seg", ""]
    assert len(list(tmp_path.glob("*seg_pgd*"))) == 4 and not list(tmp_path.glob("*seg.*"))
    adversary.detach(engine)
    PrepareBatchAttackMixture([FGSM(0.1), PGD(0.1, steps=1)], engine=engine)
    engine.run()
    assert seen[4] == ["seg_attacked", "attacked"]


def test_a_writer_without_a_postfix_is_named(tmp_path: Path) -> None:
    class Own(FolderLayoutBase):
        def filename(self, *args: Any, **options: Any) -> str:
            return str(tmp_path / "own")

    engine = evaluator(postprocessing=[SaveImaged("pred", folder_layout=Own(), print_log=False)])
    PrepareBatchAdversarial(PGD(0.1, steps=1), engine=engine)
    assert [one for one in said(engine.run) if "SaveImaged saves what the network answers to attacked images" in one]
