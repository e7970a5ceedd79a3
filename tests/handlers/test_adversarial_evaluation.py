# SPDX-License-Identifier: Apache-2.0
"""Robust Dice inside real MONAI evaluators. Run as a script by torchrun, it evaluates on one of two processes."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor
from monai.engines import EnsembleEvaluator, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, MeanDice, MetricsSaver, StatsHandler, ValidationHandler, from_engine
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CopyItemsd,
    Flipd,
    Invertd,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.data.example_engines import example_evaluator
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.handlers.adversarial_evaluation import AdversarialEvaluation
from monai_adversarial.handlers.evaluation_worst_case import WorstCaseEvaluation
from monai_adversarial.metrics.dice import organ_dice
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.metrics.robust_dice import RobustDice
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network
from tests.two_processes import leave, run_two_processes

SIZE = 12
SHAPE = (1, SIZE, SIZE, SIZE)
CPU = torch.device("cpu")
ONE_HOT = Compose([AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=3)])


def items(network: nn.Module, count: int = 4) -> list[dict[str, torch.Tensor]]:
    """Images with labels that the network mostly agrees with."""
    made = []
    for i in range(count):
        image = random_image(SHAPE, seed=i)
        with torch.no_grad():
            label = network(image[None])[0].argmax(dim=0, keepdim=True)
        label[:, :2] = random_label((1, 2, SIZE, SIZE), seed=i)
        made.append({"image": image, "label": label})
    return made


def evaluator(network, data, batch_size: int = 2, **options) -> SupervisedEvaluator:
    loader = data if isinstance(data, DataLoader) else DataLoader(Dataset(data), batch_size=batch_size)
    options.setdefault("postprocessing", ONE_HOT)
    return SupervisedEvaluator(device=CPU, val_data_loader=loader, network=network, **options)


def mean_dice() -> MeanDice:
    return MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))


def pgd(**options) -> PGD:
    return PGD(0.1, steps=3, **options)


def case_dice(prediction: torch.Tensor, label: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """(case, organ) of class maps, written as the definition says."""
    return torch.stack(
        [
            2.0 * ((prediction == k) & (label == k)).flatten(1).sum(1).double()
            / ((prediction == k).flatten(1).sum(1) + (label == k).flatten(1).sum(1))
            for k in range(1, classes)
        ],
        dim=1,
    )  # fmt: skip


def test_metrics_equal_a_hand_written_loop():
    network = tiny_segmentation_network()
    data = items(network)
    attack = pgd()
    evaluation = AdversarialEvaluation(attack, "pgd", {"class_names": ["background", "liver", "spleen"]})
    engine = evaluator(network, data, key_val_metric={"dice": mean_dice()}, val_handlers=[evaluation])
    engine.run()
    clean, robust = [], []
    for start in (0, 2):
        image = torch.stack([item["image"] for item in data[start : start + 2]])
        label = torch.stack([item["label"] for item in data[start : start + 2]])
        adversarial = attack(network, image, label).adversarial
        with torch.no_grad():
            clean.append(case_dice(network(image).argmax(1, keepdim=True), label))
            robust.append(case_dice(network(adversarial).argmax(1, keepdim=True), label))
    clean, robust = torch.cat(clean), torch.cat(robust)
    metrics = engine.state.metrics
    assert metrics["pgd_mean_dice"] == pytest.approx(float(robust.mean()), abs=1e-6)
    assert metrics["pgd_dice_liver"] == pytest.approx(float(robust[:, 0].mean()), abs=1e-6)
    assert metrics["pgd_dice_spleen"] == pytest.approx(float(robust[:, 1].mean()), abs=1e-6)
    assert metrics["pgd_clean_mean_dice"] == pytest.approx(metrics["dice"], abs=1e-6)
    assert metrics["pgd_gap"] == metrics["pgd_clean_mean_dice"] - metrics["pgd_mean_dice"] > 0.1
    success = robust.mean(1) < 0.5 * clean.mean(1)
    assert metrics["pgd_success_rate"] == float(success.double().mean())
    torch.testing.assert_close(engine.state.metric_details["pgd_mean_dice"], robust, atol=1e-6, rtol=0)
    assert engine.state.key_metric_name == "dice"


class WithBatchNorm(nn.Sequential):
    """Dropout, a BatchNorm that learns and one that is frozen, in train mode."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.Conv3d(4, 3, 1), nn.BatchNorm3d(3)
        )
        self.train()
        self[4].eval()
        self[3].requires_grad_(False)


def clean_side(attacked: bool) -> list[tuple[str, torch.Tensor]]:
    """Everything of one evaluation that the handler must not touch."""
    network = WithBatchNorm()
    network(torch.rand(2, *SHAPE)).mean().backward()
    handlers = [AdversarialEvaluation(pgd(), "pgd")] if attacked else []
    data = [{"image": random_image(SHAPE, seed=i), "label": random_label(SHAPE, seed=i)} for i in range(4)]
    engine = evaluator(network, data, key_val_metric={"dice": mean_dice()}, val_handlers=handlers)
    found: list[tuple[str, torch.Tensor]] = []

    @engine.on("FORWARD_COMPLETED")
    def modes(engine):  # called after the handler
        found.append(("modes", torch.tensor([module.training for module in network.modules()])))

    @engine.on(Events.ITERATION_COMPLETED)
    def keep(engine):
        for part in (*engine.state.output, *engine.state.batch):
            found.extend((key, part[key].clone()) for key in sorted(part))

    torch.manual_seed(7)
    engine.run()
    assert ("pgd_mean_dice" in engine.state.metrics) is attacked
    found.append(("random", torch.random.get_rng_state()))
    found.append(("dice", torch.tensor(engine.state.metrics["dice"])))
    found.extend(network.state_dict().items())
    found.extend(("gradient", weight.grad) for weight in network.parameters() if weight.grad is not None)
    found.append(("needed", torch.tensor([weight.requires_grad for weight in network.parameters()])))
    return found


def test_everything_clean_is_bit_identical_with_and_without_the_handler():
    without, with_handler = clean_side(False), clean_side(True)
    assert [name for name, _ in without] == [name for name, _ in with_handler]
    assert {"modes", "gradient", "pred", "image", "dice"} <= {name for name, _ in without}
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(without, with_handler, strict=True))


def test_without_postprocessing_the_argmax_is_scored():
    network = tiny_segmentation_network()
    data = items(network)
    metrics = []
    for postprocessing, decollate in ((ONE_HOT, True), (None, True), (None, False)):
        handler = AdversarialEvaluation(pgd())
        engine = evaluator(network, data, postprocessing=postprocessing, decollate=decollate, val_handlers=[handler])
        engine.run()
        metrics.append(engine.state.metrics)
    assert metrics[0] == metrics[1] == metrics[2]
    assert 0 < metrics[0]["adversarial_mean_dice"] < metrics[0]["adversarial_clean_mean_dice"]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    "transform",
    [AsDiscreted("pred", argmax=True), AsDiscreted("label", to_onehot=3), Activationsd("pred", softmax=True)],
    ids=["argmax", "one-hot", "softmax"],
)
def test_postprocessing_of_one_case_needs_a_decollated_batch(transform, batch_size: int):
    """In a batch of one it took the case for a channel, and every organ had a Dice of 0."""
    network = tiny_segmentation_network()
    options = {"decollate": False, "batch_size": batch_size, "val_handlers": [AdversarialEvaluation(pgd())]}
    engine = evaluator(network, items(network, 2), postprocessing=Compose([lambda d: d, transform]), **options)
    with pytest.raises(ValueError, match=f"decollate=True, got False: its postprocessing {type(transform).__name__} "):
        engine.run()


@pytest.mark.parametrize("decollate", [True, False])
def test_a_threshold_is_the_same_in_a_batch(decollate: bool):
    options = {"batch_size": 1, "decollate": decollate, "postprocessing": AsDiscreted("pred", threshold=0.0)}
    handler = AdversarialEvaluation(PGD(0.1, steps=6, random_start=False), "pgd")
    engine = evaluator(LinearNetwork((1.0,), (-0.5,)), [threshold_item()], val_handlers=[handler], **options)
    engine.run()
    assert engine.state.metrics["pgd_mean_dice"] == pytest.approx(ROBUST[1], abs=1e-6)


def test_cases_that_postprocessing_loses_are_counted():
    network = tiny_segmentation_network()
    handler = AdversarialEvaluation(pgd(), postprocessing=lambda d: {**d, "pred": d["pred"][:1]})
    engine = evaluator(network, items(network), postprocessing=None, decollate=False, val_handlers=[handler])
    with pytest.raises(ValueError, match="for each of the 2 cases of the batch, got 1 and 2"):
        engine.run()


def test_own_postprocessing_replaces_the_evaluators():
    network = tiny_segmentation_network()
    data = items(network, 2)
    own = AdversarialEvaluation(pgd(), "own", postprocessing=AsDiscreted(keys="pred", argmax=True))
    swapped = AdversarialEvaluation(
        pgd(), "swapped", postprocessing=lambda d: {**d, "pred": (d["pred"].argmax(0, keepdim=True) + 1) % 3}
    )
    engine = evaluator(network, data, postprocessing=None, val_handlers=[own, swapped])
    engine.run()
    assert engine.state.metrics["own_clean_mean_dice"] > 0.6 > 0.3 > engine.state.metrics["swapped_clean_mean_dice"]


def test_a_geometric_attack_is_scored_against_the_moved_label():
    network = tiny_segmentation_network()
    data = [{key: MetaTensor(value, affine=torch.eye(4)) for key, value in item.items()} for item in items(network, 2)]
    attack = ElasticAttack(max_displacement=1.0, control_spacing=6.0, steps=3, norm="per_axis")
    evaluation = AdversarialEvaluation(attack, "elastic")
    engine = evaluator(network, data, val_handlers=[evaluation])
    engine.run()
    image = MetaTensor(torch.stack([item["image"].as_tensor() for item in data]), affine=torch.eye(4))
    label = torch.stack([item["label"].as_tensor() for item in data])
    result = attack(network, image, label, spacing=(1.0, 1.0, 1.0))
    with torch.no_grad():
        prediction = network(result.adversarial.as_tensor()).argmax(1, keepdim=True)
    moved, unmoved = (float(case_dice(prediction, reference).mean()) for reference in (result.label, label))
    assert engine.state.metrics["elastic_mean_dice"] == pytest.approx(moved, abs=1e-6)
    assert abs(moved - unmoved) > 0.01


def volumes() -> list[dict[str, MetaTensor]]:
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    made = []
    for i in range(2):
        image = random_image((1, 12, 12, 6), seed=i)
        made.append({"image": MetaTensor(image, affine=affine), "label": MetaTensor(image > 0.5, affine=affine)})
        made[-1]["image"].meta["filename_or_obj"] = f"case{i}.nii.gz"
    return made


def test_inverse_transforms_and_savers_of_the_evaluator_are_respected(tmp_path: Path):
    network = LinearNetwork((-1.0, 1.0), (0.5, -0.5))
    before = Compose([Flipd(("image", "label"), 0), Spacingd(("image", "label"), 1.0, mode=("bilinear", "nearest"))])
    files: dict[bool, dict[str, bytes]] = {}
    for attacked in (False, True):
        folder = tmp_path / str(attacked)
        saver = SaveImaged("pred", output_dir=folder, output_ext=".nii", separate_folder=False, print_log=False)
        after = Compose(
            [
                Invertd(("pred", "label"), before, "image", nearest_interp=(False, True)),
                AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=2),
                Compose([saver]),
            ]
        )
        handlers = [AdversarialEvaluation(PGD(0.2, steps=2))] if attacked else []
        engine = evaluator(
            network,
            DataLoader(Dataset(volumes(), before), batch_size=2),
            postprocessing=after,
            key_val_metric={"dice": mean_dice()},
            val_handlers=handlers,
        )
        engine.run()
        assert saver.saver._data_index == 2  # the adversarial predictions were never written
        files[attacked] = {path.name: path.read_bytes() for path in folder.iterdir()}
        # The resampled label is inverted to the scanner's grid, and so is the adversarial prediction.
        if attacked:
            assert engine.state.metrics["adversarial_clean_mean_dice"] == pytest.approx(engine.state.metrics["dice"])
            assert engine.state.metrics["adversarial_gap"] > 0.1
            assert engine.state.output[0]["pred"].shape == (2, 12, 12, 6)
    assert len(files[False]) == 2 and files[False] == files[True]


# Foreground voxels at 0.8 and 0.55, background at 0.2 and 0.38. Under a budget of 0.1 a threshold of 0.5 loses the
# voxels at 0.55; a threshold of 0.35 invents those at 0.38 with or without attack, and loses nothing.
THRESHOLDS = {1: 0.5, 2: 0.35, 3: 0.9}
EASY, HARD, CONFUSING = 300, 200, 50
CLEAN = {1: 1.0, 2: 2 * 500 / (2 * 500 + 50), 3: 0.0}
ROBUST = {1: 2 * 300 / (300 + 500), 2: 2 * 500 / (2 * 500 + 50), 3: 0.0}


def threshold_item() -> dict[str, torch.Tensor]:
    values = torch.full((SIZE**3,), 0.2)
    values[:EASY], values[EASY : EASY + HARD] = 0.8, 0.55
    values[EASY + HARD : EASY + HARD + CONFUSING] = 0.38
    return {"image": values.view(SHAPE), "label": (values > 0.5).long().view(SHAPE)}


@pytest.mark.parametrize("style", ["key_val_metric", "handler", "handler_last", "worst_case", "clean"])
def test_checkpoints_are_chosen_by_robust_dice(tmp_path: Path, style: str):
    network = LinearNetwork((-1.0, 1.0), (0.0, 0.0))
    loader = DataLoader(Dataset([threshold_item()] * 2), batch_size=2)
    saver = CheckpointSaver(str(tmp_path), {"network": network}, save_key_metric=True, key_metric_filename="best.pt")
    evaluation = AdversarialEvaluation(
        PGD(0.1, steps=6, random_start=False), "pgd", key_metric=style.startswith("handler")
    )
    order = {
        "key_val_metric": [saver],
        "handler": [evaluation, saver],
        "handler_last": [StatsHandler(output_transform=lambda _: None), saver, evaluation],
        "worst_case": [saver, WorstCaseEvaluation([evaluation], "worst", key_metric=True)],
        "clean": [saver, evaluation],
    }[style]
    clean = {"dice": mean_dice()}
    engine = evaluator(
        network,
        loader,
        postprocessing=Compose([AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=2)]),
        key_val_metric={"key_val_metric": {"pgd_mean_dice": evaluation}, "clean": clean}.get(style),
        val_handlers=order,
    )
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=3,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True),
        train_handlers=[ValidationHandler(1, engine)],
    )
    history = []

    @trainer.on(Events.EPOCH_STARTED)
    def set_threshold(trainer):
        with torch.no_grad():
            network.biases.copy_(torch.tensor([1.0, -1.0]) * THRESHOLDS[trainer.state.epoch])

    @engine.on(Events.COMPLETED)
    def look(engine):
        history.append([engine.state.metrics[f"pgd_{kind}"] for kind in ("clean_mean_dice", "mean_dice")])

    trainer.run()
    assert history == [pytest.approx([CLEAN[epoch], ROBUST[epoch]], abs=1e-6) for epoch in (1, 2, 3)]
    best = 1 if style == "clean" else 2
    stored = torch.load(tmp_path / "best.pt", weights_only=True)
    assert float(stored["biases"][0]) == pytest.approx(THRESHOLDS[best])
    assert engine.state.best_metric_epoch == best
    assert engine.state.best_metric == pytest.approx((CLEAN if style == "clean" else ROBUST)[best], abs=1e-6)


def test_several_attacks_while_a_unet_trains_and_their_files(tmp_path: Path):
    torch.manual_seed(0)
    network = UNet(3, 1, 2, (4, 8), (2,), num_res_units=1, norm="batch")
    data = []
    for i in range(3):
        image = random_image((1, 16, 16, 16), seed=i)
        image[..., 4:12, 4:12, 4:12] += 1.0
        data.append({"image": MetaTensor(image), "label": MetaTensor((image > 1.0).float())})
        data[-1]["image"].meta["filename_or_obj"] = f"patient{i}"
    loader = DataLoader(Dataset(data), batch_size=2)
    evaluations = [
        AdversarialEvaluation(PGD(0.1, steps=1), "fgsm", max_batches=1),
        AdversarialEvaluation(PGD(0.4, steps=3), "pgd", max_batches=1),
    ]
    engine = evaluator(
        network,
        loader,
        inferer=SlidingWindowInferer(16, 1),
        amp=True,
        postprocessing=Compose([AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=2)]),
        key_val_metric={"dice": mean_dice()},
        val_handlers=[
            MetricsSaver(str(tmp_path), metric_details="*", batch_transform=from_engine_meta),
            WorstCaseEvaluation(evaluations),
        ],
    )
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=2,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 0.05),
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True),
        train_handlers=[ValidationHandler(1, engine)],
    )
    trainer.run()
    metrics, details = engine.state.metrics, engine.state.metric_details
    both = torch.stack([details["fgsm_mean_dice"], details["pgd_mean_dice"]])
    assert both.shape == (2, 3, 1) and both[:, 2].isnan().all() and not both[:, :2].isnan().any()
    assert torch.equal(details["worst_case_mean_dice"][:2], both[:, :2].amin(dim=0))
    assert metrics["worst_case_mean_dice"] == pytest.approx(float(both[:, :2].amin(dim=0).mean()), abs=1e-9)
    lines = (tmp_path / "pgd_mean_dice_raw.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["patient0", "patient1", "patient2"]
    assert float(lines[1].split(",")[1]) == pytest.approx(float(both[1, 0, 0]), abs=1e-4)
    assert "pgd_success_rate" in (tmp_path / "metrics.csv").read_text()


def from_engine_meta(batch):
    return [item["image"].meta for item in batch]


def test_runs_between_the_intervals_have_no_robust_metrics():
    network = tiny_segmentation_network()
    evaluation = AdversarialEvaluation(pgd(), "pgd", interval=2)
    engine = evaluator(network, items(network, 2), val_handlers=[evaluation, WorstCaseEvaluation([evaluation])])
    seen = []
    for epoch in (1, 2, 3):
        engine.run(epoch)
        names = {*engine.state.metrics, *engine.state.metric_details}
        seen.append(("pgd_mean_dice" in names, "worst_case_gap" in names))
    assert seen == [(True, True), (False, False), (True, True)]


def test_another_network_makes_it_a_transfer_attack_and_a_region_limits_it():
    network, surrogate = tiny_segmentation_network(), tiny_segmentation_network(seed=5)
    data = items(network, 2)
    for item in data:
        item["mask"] = torch.zeros(SHAPE)
        item["mask"][:, :, :, :6] = 1
    attack = pgd()
    evaluation = AdversarialEvaluation(attack, "transfer", surrogate, region_key="mask")
    engine = evaluator(network, data, val_handlers=[evaluation])
    engine.run()
    image, label, mask = (torch.stack([item[key] for item in data]) for key in ("image", "label", "mask"))
    adversarial = attack(surrogate, image, label, region=mask).adversarial
    with torch.no_grad():
        expected = case_dice(network(adversarial).argmax(1, keepdim=True), label)
    assert engine.state.metrics["transfer_mean_dice"] == pytest.approx(float(expected.mean()), abs=1e-6)
    missing = AdversarialEvaluation(attack, region_key="lungs")
    with pytest.raises(KeyError, match="'lungs' is not in the batch"):
        evaluator(network, data, val_handlers=[missing]).run()


def test_a_compiled_evaluator_gives_the_same_numbers():
    network = tiny_segmentation_network()
    data = [{key: MetaTensor(value) for key, value in item.items()} for item in items(network, 2)]
    metrics = []
    for options in ({}, {"compile": True, "compile_kwargs": {"backend": "eager"}}):
        engine = evaluator(network, data, val_handlers=[AdversarialEvaluation(pgd())], **options)
        engine.run()
        metrics.append(engine.state.metrics)
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


def test_sigmoid_network_with_masks():
    network = LinearNetwork((1.0,), (-0.5,))
    engine = evaluator(
        network,
        [threshold_item()],
        batch_size=1,
        postprocessing=Compose([AsDiscreted(keys="pred", threshold=0.0)]),
        val_handlers=[
            AdversarialEvaluation(
                PGD(0.1, steps=6, random_start=False), "pgd", {"class_names": ["background", "spleen"]}
            )
        ],
    )
    engine.run()
    assert engine.state.metrics["pgd_dice_spleen"] == pytest.approx(ROBUST[1], abs=1e-6)
    engine = evaluator(
        network, [threshold_item()], postprocessing=lambda d: d, val_handlers=[AdversarialEvaluation(pgd())]
    )
    with pytest.raises(ValueError, match="must be 1 masks of 0 and 1"):
        engine.run()


def test_dice_of_absent_organs_and_of_all_formats():
    label = torch.tensor([[0, 0, 1, 1, 3]])
    prediction = torch.tensor([[0, 2, 1, 0, 3]])
    classes = 5
    hot = [torch.nn.functional.one_hot(x[0], classes).T for x in (prediction, label)]
    organs = {i: f"class_{i}" for i in range(1, 5)}
    expected = torch.tensor([2 / 3, 0.0, 1.0, torch.nan])
    for found in (prediction, hot[0], hot[0].float() * 0.6 + 0.1):
        for reference in (label, hot[1]):
            dice = torch.tensor(list(organ_dice(found, reference, organs, classes, "softmax").values()))
            torch.testing.assert_close(dice, expected, equal_nan=True)
    for reference in (label, hot[1]):
        dice = torch.tensor(list(organ_dice(hot[0], reference, organs, classes, "sigmoid").values()))
        torch.testing.assert_close(dice, expected, equal_nan=True)
    with pytest.raises(ValueError, match="must have 1 or 5 channels on one grid"):
        organ_dice(hot[0][:3], label, {1: "liver"}, classes, "softmax")


def test_organs_that_no_label_holds_are_named(caplog: pytest.LogCaptureFixture):
    """As labels of data sets that label some organs: what is found beside them counts 0, until it is told."""
    network = tiny_segmentation_network()
    data = items(network, 2)
    for item in data:
        item["label"] = item["label"] * (item["label"] == 1)
    for told, warned in ((None, True), ({"scored_classes": [1]}, False)):
        engine = evaluator(network, data, val_handlers=[AdversarialEvaluation(pgd(), model=told)])
        caplog.clear()
        engine.run()
        said = "no label of this run holds class_2, but the network finds them"
        assert (said in caplog.text) == warned
        assert ("adversarial_dice_class_2" in engine.state.metrics) == warned


def test_few_successes_on_images_that_are_not_segmented_are_no_robustness(caplog: pytest.LogCaptureFixture):
    """Class numbers of another table leave nothing to lose: the rate of success is low for the wrong reason."""
    network = tiny_segmentation_network()
    data = items(network, 2)
    for shift, warned in ((0, False), (1, True)):
        for item in data:
            item["label"] = (item["label"] + shift) % 3
        engine = evaluator(network, data, val_handlers=[AdversarialEvaluation(pgd())])
        caplog.clear()
        engine.run()
        metrics = engine.state.metrics
        assert (metrics["adversarial_clean_mean_dice"] < 0.5) == warned
        said = "AdversarialEvaluation 'adversarial': caution: the clean Dice is below 0.5 in 2 of 2, so that little can"
        assert (said in caplog.text) == warned


def test_success_counts_acceptable_cases_and_means_skip_what_is_not_defined():
    nan = math.nan
    clean = torch.tensor([[0.8, 0.6], [0.2, nan], [0.9, 0.9], [nan, nan]], dtype=torch.float64)
    robust = torch.tensor([[0.2, 0.2], [0.0, nan], [0.5, 0.9], [nan, 0.0]], dtype=torch.float64)
    metrics = RobustDice(("liver", "spleen"), clean, robust, 0.5, acceptable_dice=0.5).metrics("a")
    assert metrics["a_success_rate"] == 0.5  # the first of the first and the third
    assert metrics["a_clean_mean_dice"] == pytest.approx((0.7 + 0.2 + 0.9) / 3)
    assert metrics["a_mean_dice"] == pytest.approx((0.2 + 0.0 + 0.7 + 0.0) / 4)
    assert metrics["a_dice_liver"] == pytest.approx(0.7 / 3)
    assert math.isnan(RobustDice(("liver",), clean[3:, :1], clean[3:, :1]).metrics("a")["a_mean_dice"])


def test_worst_case_is_taken_per_case():
    clean = torch.full((3, 2), 0.9, dtype=torch.float64)
    first = torch.tensor([[0.1, 0.5], [0.8, 0.8], [math.nan, math.nan]], dtype=torch.float64)
    second = torch.tensor([[0.7, 0.3], [0.2, 0.4], [0.0, math.nan]], dtype=torch.float64)
    worst = RobustDice.worst([RobustDice(("a", "b"), clean, robust) for robust in (first, second)])
    torch.testing.assert_close(worst.robust, torch.stack([first[0], second[1], second[2]]), equal_nan=True)
    with pytest.raises(ValueError, match="same cases and organs"):
        RobustDice.worst([RobustDice(("a", "b"), clean, first), RobustDice(("a", "b"), clean[:1], first[:1])])


def test_cases_that_come_twice_are_said() -> None:
    network = tiny_segmentation_network()
    data = items(network, 3)
    other_label = {**data[0], "label": data[1]["label"]}  # a second reader of the same image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator(network, [*data, other_label], val_handlers=[AdversarialEvaluation(PGD(0.1, steps=1), "pgd")]).run()
    repeating = evaluator(network, [*data, data[0]], val_handlers=[AdversarialEvaluation(PGD(0.1, steps=1), "pgd")])
    with pytest.warns(UserWarning, match="AdversarialEvaluation 'pgd': 1 of 4 cases came before in the same epoch"):
        repeating.run()


def test_names_of_organs():
    assert organ_channels(3, "softmax") == {1: "class_1", 2: "class_2"}
    assert organ_channels(2, "sigmoid", ["core", "edema"]) == {0: "core", 1: "edema"}
    assert organ_channels(1, "sigmoid") == {0: "class_1"}
    assert organ_channels(3, "softmax", {"0": "background", "2": "spleen"}) == {2: "spleen"}
    assert organ_channels(4, "softmax", classes=[1, "class_3"]) == {1: "class_1", 3: "class_3"}
    with pytest.raises(ValueError, match="3 output channels"):
        organ_channels(3, "softmax", ["background", "a", "b", "c"])
    with pytest.raises(ValueError, match="holds 2 names, but the network has 3 output channels"):
        organ_channels(3, "softmax", ["background", "a"])
    with pytest.raises(ValueError, match="classes must be some of"):
        organ_channels(3, "softmax", classes=["kidney"])


def attach_to(handlers, **options):
    network = tiny_segmentation_network()
    return evaluator(network, options.pop("data", None) or items(network, 1), val_handlers=handlers, **options)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: AdversarialEvaluation(pgd()).attach(Engine(lambda e, b: None)), TypeError, "SupervisedEvaluator"),
        (
            lambda: EnsembleEvaluator(
                CPU, [0], [tiny_segmentation_network()], val_handlers=[AdversarialEvaluation(pgd())]
            ),
            TypeError,
            "EnsembleEvaluator",
        ),
        (lambda: AdversarialEvaluation("pgd"), TypeError, "attack must be"),
        (lambda: AdversarialEvaluation(pgd(targeted=True)), ValueError, "must not be targeted"),
        (lambda: AdversarialEvaluation(pgd(), "two words"), ValueError, "identifier"),
        (lambda: AdversarialEvaluation(pgd(), interval=0), ValueError, "interval"),
        (lambda: attach_to([AdversarialEvaluation(pgd()) for _ in range(2)]), ValueError, "is taken"),
        (lambda: attach_to([AdversarialEvaluation(pgd())] * 2), ValueError, "already attached"),
        (lambda: attach_to([AdversarialEvaluation(pgd(), model=nn.ReLU())]), ValueError, "have parameters"),
        (
            lambda: attach_to([AdversarialEvaluation(pgd(), model=nn.Conv3d(1, 3, 1, device="meta"))]),
            ValueError,
            "device cpu",
        ),
        (
            lambda: attach_to([AdversarialEvaluation(pgd(), key_metric=True)], key_val_metric={"dice": mean_dice()}),
            ValueError,
            "key metric 'dice'",
        ),
        (lambda: attach_to([AdversarialEvaluation(pgd(), key_metric=True, interval=2)]), ValueError, "interval"),
        (
            lambda: attach_to([], key_val_metric={"robust": AdversarialEvaluation(pgd(), interval=2)}),
            ValueError,
            "interval must be 1",
        ),
        (
            lambda: attach_to(
                [AdversarialEvaluation(pgd())],
                prepare_batch=PrepareBatchAdversarial(pgd(), tiny_segmentation_network()),
            ),
            ValueError,
            "already attacks the batch",
        ),
        (lambda: AdversarialEvaluation(pgd(), model="net"), TypeError, "model must be an AttackedModel"),
        (lambda: AdversarialEvaluation(pgd(), model={"classes": [1]}), TypeError, "AttackedModel has no 'classes'"),
        (
            lambda: attach_to([AdversarialEvaluation(pgd())], data=[{"image": random_image(SHAPE)}]),
            ValueError,
            "no 'label'",
        ),
        (lambda: WorstCaseEvaluation([]), ValueError, "at least one"),
        (lambda: WorstCaseEvaluation([pgd()]), TypeError, "AdversarialEvaluation"),
        (
            lambda: WorstCaseEvaluation(
                [AdversarialEvaluation(pgd(), "a"), AdversarialEvaluation(pgd(), "b", max_batches=1)]
            ),
            ValueError,
            "agree in max_batches",
        ),
        (
            lambda: WorstCaseEvaluation(
                [AdversarialEvaluation(pgd(), "a"), AdversarialEvaluation(pgd(), "b", {"scored_classes": [1]})]
            ),
            ValueError,
            "agree in scored_classes",
        ),
    ],
)
def test_bad_use_stops_before_anything_runs_with_one_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_the_evaluator_learns_later_stops_before_the_first_batch():
    data = items(tiny_segmentation_network(), 1)
    network = tiny_segmentation_network()
    network.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match="mode='eval'"):
        evaluator(network, data, mode="train", val_handlers=[AdversarialEvaluation(pgd())]).run()
    with pytest.raises(ValueError, match="device cpu"):
        evaluator(nn.Conv3d(1, 3, 1, device="meta"), data, val_handlers=[AdversarialEvaluation(pgd())]).run()


def test_data_without_labels_is_seen_without_loading_it():
    class Unread(Dataset):
        def __getitem__(self, index):
            pytest.fail("data was loaded")

    data = [{"image": random_image(SHAPE)}]
    plain = Compose([ScaleIntensityd("image")])
    copies = Compose([CopyItemsd("image", names="label")])
    with pytest.raises(ValueError, match=r"no 'label' \(the first item holds \['image'\]\)"):
        attach_to([AdversarialEvaluation(pgd())], data=DataLoader(Unread(data, plain)))
    attach_to([AdversarialEvaluation(pgd())], data=DataLoader(Unread(data, copies)))
    engine = attach_to([AdversarialEvaluation(pgd())], data=DataLoader(Dataset(data, lambda item: item)))
    with pytest.raises(ValueError, match="the batch has no label 'label'"):
        engine.run()


def test_a_key_metric_that_is_not_defined_stops():
    class Background(LinearNetwork):
        def forward(self, image):
            return super().forward(image) * 0 + torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)

    data = [{"image": random_image(SHAPE), "label": torch.zeros(SHAPE)}]
    handler = AdversarialEvaluation(pgd(), key_metric=True)
    with pytest.raises(ValueError, match="no case of the validation data"):
        evaluator(Background(), data, postprocessing=None, val_handlers=[handler]).run()


def distributed_metrics(rank: int, processes: int) -> dict[str, float]:
    """Metrics of 5 cases, shared by the processes as 3 and 2."""
    network = tiny_segmentation_network()
    data = Dataset(items(network, 5))
    sampler = DistributedSampler(data, even_divisible=False, num_replicas=processes, rank=rank)
    wrapped = nn.parallel.DistributedDataParallel(network) if processes > 1 else network
    evaluation = AdversarialEvaluation(pgd(), "pgd")
    engine = evaluator(
        wrapped,
        DataLoader(data, batch_size=1, sampler=sampler),
        inferer=SimpleInferer(),
        additional_metrics={"robust": evaluation},
        key_val_metric={"dice": mean_dice()},
        val_handlers=[WorstCaseEvaluation([evaluation])],
    )
    engine.run()
    assert len(engine.state.metric_details["pgd_mean_dice"]) == 5
    return dict(engine.state.metrics)


def test_two_processes_report_what_one_does(tmp_path: Path):
    run_two_processes(__file__, tmp_path)
    expected = distributed_metrics(0, 1)
    assert expected["robust"] == expected["pgd_mean_dice"] < expected["dice"]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.pop("dice") == pytest.approx(expected["dice"], abs=1e-6)  # MONAI adds in float32
        assert found == {name: value for name, value in expected.items() if name != "dice"}


@pytest.mark.parametrize(("epsilon", "warned"), [(0, True), (8, False)])
def test_an_attack_that_changes_nothing_is_said(epsilon: float, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        example_evaluator([AdversarialEvaluation(PGD(epsilon, "HU", steps=1), "pgd")]).run()
    assert ("changed no voxel of any image" in caplog.text) == warned


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    found = distributed_metrics(torch.distributed.get_rank(), 2)
    (Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
    leave()
