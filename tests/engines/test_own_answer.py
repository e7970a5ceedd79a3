# SPDX-License-Identifier: Apache-2.0
"""What an engine scores is what was attacked, or it is said; and its images are those whose map was read."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import MeanDice, from_engine
from monai.transforms import AsDiscreted, Compose, CopyItemsd, MapTransform, ScaleIntensityRanged
from monai.utils import CommonKeys

from monai_adversarial.attacks import FGSM, PGD
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.handlers import AdversarialEvaluation
from monai_adversarial.models import AttackedModel

ATTACK = PGD(16, "HU", steps=3)
WINDOW = {"a_min": -160, "a_max": 340, "b_min": 0, "b_max": 1, "clip": True}
KNOWN = ((example_case(16)[1].as_tensor() + 160) / 500).clamp(0, 1)
POSTPROCESSING = AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=4)


class InTraining(ExampleNetwork):
    """In training mode it sees little of the image, and much of another one."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(0.2 * image + 0.8 * KNOWN if self.training else image)


class Averages(SupervisedEvaluator):
    """Its answer is the mean of those to the prepared and to the loaded image."""

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        image, label = engine.prepare_batch(batchdata, engine.state.device, False)
        engine.state.output = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        with torch.no_grad():
            answers = engine.inferer(image, engine.network), engine.network(batchdata[CommonKeys.IMAGE])
        engine.state.output[CommonKeys.PRED] = 0.2 * answers[0] + 0.8 * answers[1]
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


def evaluator(
    network: torch.nn.Module | None = None,
    transform: Any = None,
    kind: type[SupervisedEvaluator] = SupervisedEvaluator,
    **options: Any,
) -> SupervisedEvaluator:
    _, image, label = example_case(16)
    data = Dataset([{"image": image[0], "label": label[0]}], transform or ScaleIntensityRanged("image", **WINDOW))
    return kind(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1),
        network=network or ExampleNetwork(),
        **options,
    )


def said(engine: SupervisedEvaluator, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PrepareBatchAdversarial(ATTACK, engine=engine, **options)
        engine.run()
    return [str(one.message) for one in caught if "own answer" in str(one.message)]


OTHERS = {
    "training mode": lambda: evaluator(InTraining(), mode="train"),
    "averaged": lambda: evaluator(kind=Averages),
}


@pytest.mark.parametrize("name", OTHERS)
def test_metrics_of_another_function_than_the_attacked_one_are_said(name: str) -> None:
    (sentence,) = said(OTHERS[name]())
    assert "what it scores is not what was attacked" in sentence


SAME = {
    "plain": lambda: evaluator(),
    "training mode without effect": lambda: evaluator(mode="train"),
    "postprocessing": lambda: evaluator(postprocessing=POSTPROCESSING),
    "whole batches": lambda: evaluator(decollate=False),
}


@pytest.mark.parametrize("name", SAME)
def test_nothing_is_said_where_it_is_the_same(name: str) -> None:
    assert said(SAME[name]()) == []


def test_a_transfer_attack_is_meant_to_leave_more() -> None:
    other = ExampleNetwork()
    with torch.no_grad():
        other.centers.add_(0.1)
    assert said(evaluator(), model=AttackedModel(other, intensity=WINDOW)) == []


class FromLabel(MapTransform):
    """A postprocessing that hands the label on as the answer."""

    def __call__(self, data: Any) -> Any:
        return {**data, "pred": data["label"]}


@pytest.mark.parametrize("hides", [True, False])
def test_a_postprocessing_that_hides_the_change_is_said(hides: bool, caplog: pytest.LogCaptureFixture) -> None:
    steps = [POSTPROCESSING, FromLabel("pred")] if hides else [POSTPROCESSING]
    engine = evaluator(postprocessing=Compose(steps), val_handlers=[AdversarialEvaluation(ATTACK, "pgd")])
    with caplog.at_level(logging.WARNING):
        engine.run()
    assert ("the postprocessing hides the change" in caplog.text) == hides


def dice(**options: Any) -> dict[str, MeanDice]:
    return {"val_mean_dice": MeanDice(output_transform=from_engine(options.pop("of", ["pred", "label"])), **options)}


METRICS = {
    "as attacked": (dict, [], False),
    "of the answer with itself": (lambda: {"of": ["pred", "pred"]}, [], True),
    "of a postprocessing that hides the change": (dict, [FromLabel("pred")], True),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_the_engine_that_flatters_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    options, steps, flatters = METRICS[name]
    chain = Compose([POSTPROCESSING, *steps])
    metric = dice(include_background=False, **options())
    engine = evaluator(postprocessing=chain, key_val_metric=metric)
    PrepareBatchAdversarial(ATTACK, engine=engine)
    with caplog.at_level(logging.WARNING):
        engine.run()
    assert ("the engine's metric 'val_mean_dice' is 1.000, but the attack has left" in caplog.text) == flatters


def from_copy(batch: Any, device: Any = None, non_blocking: bool = False, **options: Any) -> Any:
    return batch["copy"], batch["label"]


def halved(batch: Any, device: Any = None, non_blocking: bool = False, **options: Any) -> Any:
    return 0.5 * batch["image"], batch["label"]


def copied(low: float = -160, high: float = 340) -> Compose:
    return Compose(
        [
            CopyItemsd("image", 1, ["copy"]),
            ScaleIntensityRanged("image", low, high, 0, 1, clip=True),
            ScaleIntensityRanged("copy", **WINDOW),
        ]
    )


@pytest.mark.parametrize("way", ["batch", "handler"])
def test_the_map_of_another_image_of_the_batch_is_refused(way: str) -> None:
    def run(low: float, **told: Any) -> float:
        options: dict[str, Any] = {"prepare_batch": from_copy, "transform": copied(low)}
        if way == "handler":
            handler = AdversarialEvaluation(ATTACK, "pgd", told)
            engine = evaluator(val_handlers=[handler], **options)
            engine.run()
            return float(engine.state.metrics["pgd_mean_dice"])
        engine = evaluator(**options)
        adversary = PrepareBatchAdversarial(ATTACK, engine=engine, **told)
        engine.run()
        assert adversary.last_result is not None
        return float(adversary.last_result.adversarial_score)

    with pytest.raises(ValueError, match="hands 'copy' to the network, but the intensity map was read of 'image'"):
        run(-1000)
    assert run(-1000, image_key="copy") == run(-160)  # the same map under both keys is no mistake


def test_values_that_prepare_batch_maps_on_are_refused() -> None:
    class Doubles(ExampleNetwork):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image * 2)

    engine = evaluator(Doubles(), prepare_batch=halved)
    PrepareBatchAdversarial(ATTACK, engine=engine)
    with pytest.raises(ValueError, match="prepare_batch multiplies the image's values by 0.5,"):
        engine.run()
    engine = evaluator(Doubles(), prepare_batch=halved)
    PrepareBatchAdversarial(PGD(0.03, "network", steps=2), engine=engine)  # needs no map
    engine.run()


class Remembers(ExampleNetwork):
    """A network that takes most of each image from the first one."""

    first: torch.Tensor | None = None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.first = image.detach() if self.first is None else self.first
        return super().forward(0.9 * self.first + 0.1 * image)


def test_a_network_that_has_seen_the_clean_image_in_the_run_is_said() -> None:
    network = Remembers()
    engine = evaluator(network, val_handlers=[AdversarialEvaluation(ATTACK, "pgd")])
    with pytest.warns(UserWarning, match=r"keeps something from call to call \(Remembers.first\)"):
        engine.run()
    assert torch.equal(torch.as_tensor(network.first), KNOWN)


@pytest.mark.parametrize("ran", [True, False])
def test_an_attack_that_joins_after_the_run_says_what_was_clean(ran: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine = evaluator()
    if ran:
        engine.run()
    with caplog.at_level(logging.WARNING):
        PrepareBatchAdversarial(ATTACK, engine=engine)
    assert ("their scores are those of clean images" in caplog.text) == ran


def test_a_region_is_said_where_the_budget_is(caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    for region, text in (("label", "inside the region 'label' of each batch alone"), (None, "")):
        engine = evaluator()
        PrepareBatchAdversarial(FGSM(8, "HU"), engine=engine, region_key=region)
        with caplog.at_level(logging.INFO):
            engine.run()
        said = caplog.text + capsys.readouterr().out
        caplog.clear()
        assert ("inside the region" in said) == (region is not None) and text in said
