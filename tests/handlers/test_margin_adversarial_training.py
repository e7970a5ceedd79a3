# SPDX-License-Identifier: Apache-2.0
"""A margin for each case: closed forms on a linear network, one step by hand, and what the search must not touch."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from torch import distributed, nn

from monai_adversarial.attacks import PGD, Attack, ElasticAttack
from monai_adversarial.attacks.perturbations import AdditiveNoise, Chain
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.margin_adversarial_training import MarginAdversarialTraining
from monai_adversarial.handlers.schedules import LinearSchedule
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (1, 4, 4, 4)


class SumNetwork(nn.Module):
    """Says foreground at all voxels where ``w . x > 0``: right up to an L-infinity distance of ``|w . x| / |w|_1``."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.weights = nn.Parameter(weights / weights.abs().sum())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = (image * self.weights).flatten(1).sum(dim=1).view(-1, 1, 1, 1, 1).expand_as(image)
        return torch.cat([-score, score], dim=1)


def linear_cases(network: SumNetwork, margins: dict[str, float]) -> list[dict[str, Any]]:
    """Cases that the network segments rightly, each with the margin that is asked for; every other one is empty."""
    weights = network.weights.detach()
    made = []
    for i, (name, margin) in enumerate(margins.items()):
        image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        side = 1.0 if i % 2 == 0 else -1.0
        image += weights * (side * margin - (weights * image).sum()) / weights.square().sum()
        made.append({"image": image, "label": torch.full(SHAPE, i % 2 == 0).long(), "case": name})
    return made


def trainer(network: nn.Module, items: list[dict[str, Any]], epochs: int, handler: Any, **options: Any):
    rate = options.pop("rate", 0.0)
    loader = DataLoader(Dataset(items), batch_size=options.pop("batch_size", len(items)))
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=rate),
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True),
        inferer=SimpleInferer(),
        train_handlers=[handler],
        decollate=options.pop("decollate", False),
        **options,
    )


def pgd(epsilon: float = 1.0, **options: Any) -> Attack:
    return PGD(epsilon, steps=5, objective="cross_entropy", random_start=False, **options)


def path_of(margin: float, growth: float, largest: float, bisections: int, visits: int) -> list[float]:
    """What the method's definition does with a case that is right up to ``margin`` exactly."""
    present, path = min(growth, largest), []
    for _ in range(visits):
        if present < margin:
            present = min(present + growth, largest)
        else:
            low, high = 0.0, 1.0
            for _ in range(bisections):
                middle = (low + high) / 2
                low, high = (middle, high) if middle * present < margin else (low, middle)
            present *= low
        path.append(present)
    return path


def follow(handler: MarginAdversarialTraining, engine: SupervisedTrainer) -> list[dict[str, float]]:
    """The margins after each epoch, filled in as the trainer runs."""
    seen: list[dict[str, float]] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(handler.margins)))
    return seen


def test_margins_of_a_linear_network_converge_to_its_distance_from_the_boundary() -> None:
    network = SumNetwork()
    true = {"near": 0.137, "middle": 0.5251, "far": 0.871, "beyond": 3.0}
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.11, bisections=7)
    engine = trainer(network, linear_cases(network, true), 16, handler)
    seen = follow(handler, engine)
    engine.run()
    for name, margin in true.items():
        path = [epoch[name] for epoch in seen]
        assert path == pytest.approx(path_of(margin, 0.11, 1.0, 7, 16), abs=1e-9)
        below = [value for value in path if value < min(margin, 1.0) - 0.11]
        assert below == sorted(below)
        wrong = [new for old, new in zip(path, path[1:], strict=False) if old >= margin]
        assert all(margin - (margin + 0.11) / 2**7 <= new <= margin for new in wrong)
        assert bool(wrong) is (margin < 1)
    assert seen[-1]["beyond"] == 1.0
    assert engine.state.metrics["mean_margin"] == pytest.approx(sum(seen[-1].values()) / 4)


def test_growth_is_epsilon_over_the_trainers_epochs() -> None:
    network = SumNetwork()
    handler = MarginAdversarialTraining(pgd(0.8), case_key="case")
    engine = trainer(network, linear_cases(network, {"far": 9.0, "at once": 1e-9}), 4, handler)
    seen = follow(handler, engine)
    engine.run()
    assert [epoch["far"] for epoch in seen] == pytest.approx([0.4, 0.6, 0.8, 0.8])
    assert [epoch["at once"] for epoch in seen] == pytest.approx([0.0, 0.2, 0.0, 0.2])


def test_a_case_that_is_wrong_without_an_attack_has_no_margin() -> None:
    network = SumNetwork()
    (item,) = linear_cases(network, {"wrong": 0.5})
    item["label"] = 1 - item["label"]
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.1)
    engine = trainer(network, [item], 3, handler)
    engine.run()
    assert handler.margins == {"wrong": 0.0}
    assert handler.perturbed is not None and torch.equal(handler.perturbed.adversarial[0], item["image"])
    assert engine.state.output["adversarial_loss"] == engine.state.output["clean_loss"]


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_euclidean_margins_converge_too(norm: str) -> None:
    network = SumNetwork()
    items = linear_cases(network, {"case": 0.2})
    distance = 0.2 / float(network.weights.detach().norm())
    distance = distance / 8 if norm == "rms" else distance  # 64 voxels
    attack = Attack(AdditiveNoise(2 * distance, norm), "cross_entropy", steps=6, random_start=False)
    handler = MarginAdversarialTraining(attack, case_key="case", growth=0.3 * distance, bisections=8)
    engine = trainer(network, items, 10, handler)
    seen = follow(handler, engine)
    engine.run()
    assert [epoch["case"] for epoch in seen] == pytest.approx(
        path_of(distance, 0.3 * distance, 2 * distance, 8, 10), rel=1e-6
    )


def small_items(count: int = 3) -> list[dict[str, Any]]:
    network = tiny_segmentation_network().double()
    made = []
    for i in range(count):
        image = random_image((1, 6, 6, 6), seed=i).double()
        with torch.no_grad():
            label = network(image[None])[0].argmax(dim=0, keepdim=True)
        label[:, : i + 1] = random_label((1, i + 1, 6, 6), seed=i)
        made.append({"image": image, "label": label, "case": i})
    return made


def test_one_step_is_the_formula_written_out() -> None:
    items = small_items()
    network = tiny_segmentation_network().double()
    by_hand = copy.deepcopy(network)
    attack = PGD(0.3, steps=3, seed=4)
    options: dict[str, Any] = {"correct_dice": 0.42, "bisections": 4}
    handler = MarginAdversarialTraining(attack, case_key="case", growth=0.05, adversarial_weight=0.3, **options)
    handler.load_state_dict({"margins": {"0": 0.3, "1": 0.2, "2": 0.01}})
    engine = trainer(network, items, 1, handler, rate=0.1)
    engine.run()

    image = torch.stack([item["image"] for item in items])
    label = torch.stack([item["label"] for item in items])
    start = [0.3, 0.2, 0.01]
    budget = torch.tensor(start, dtype=torch.float64) / 0.3
    noise = attack.perturb(by_hand, image, label, budget=budget, stream=1).adversarial - image

    def is_right(sample: int, share: float) -> bool:
        with torch.no_grad():
            logits = by_hand((image + share * noise)[sample : sample + 1])
        prediction = hard_prediction(logits, "softmax")
        return float(mean_foreground_dice(prediction, label[sample : sample + 1], 3, "softmax")) >= 0.42

    adversarial, margins = image.clone(), {}
    for i in range(3):
        low, high = 0.0, 1.0
        if is_right(i, 1.0):
            low, margins[str(i)] = 1.0, min(start[i] + 0.05, 0.3)
        else:
            for _ in range(4):
                middle = (low + high) / 2
                low, high = (middle, high) if is_right(i, middle) else (low, middle)
            margins[str(i)] = low * float(noise[i].abs().max())
        adversarial[i] += low * noise[i]
    grown = [margins[str(i)] > start[i] for i in range(3)]
    assert any(grown) and not all(grown), "the test must show both branches"
    assert handler.margins == pytest.approx(margins, abs=1e-12)

    by_hand.train()
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    clean, attacked = loss(by_hand(image), label), loss(by_hand(adversarial), label)
    total = 0.7 * clean + 0.3 * attacked
    total.backward()
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), theirs.detach() - 0.1 * theirs.grad, rtol=0, atol=1e-14)
    torch.testing.assert_close(engine.state.output["loss"], total, rtol=0, atol=1e-12)
    assert engine.state.output["margin"] == pytest.approx(sum(margins.values()) / 3)


def test_with_all_weight_on_it_the_boundary_image_takes_the_place_of_the_clean_one() -> None:
    network = SumNetwork()
    items = linear_cases(network, {"near": 0.1, "far": 9.0})
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.4, adversarial_weight=1, bisections=9)
    engine = trainer(network, items, 1, handler)
    engine.run()
    distance = (engine.state.output["image"] - torch.stack([i["image"] for i in items])).flatten(1).abs().amax(dim=1)
    assert distance.tolist() == pytest.approx([handler.margins["near"], 0.4])
    assert 0.1 - 0.4 / 2**9 <= handler.margins["near"] <= 0.1


def test_attack_and_search_leave_the_network_as_it_was() -> None:
    items = small_items()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.Conv3d(4, 3, 1)
        ).double()
    network.train()
    network[2].eval()
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 7.0)
    calls: list[tuple[bool, ...]] = []
    network.register_forward_hook(lambda module, *_: calls.append(tuple(m.training for m in module.modules())))
    handler = MarginAdversarialTraining(PGD(0.4, steps=3), case_key="case", growth=0.4, correct_dice=1, bisections=4)
    engine = trainer(network, items, 1, handler)
    engine.state.iteration, engine.state.epoch = 1, 1
    handler.started(engine)
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    batch = next(iter(engine.data_loader))
    random_state = torch.get_rng_state()
    prepared = handler.prepare(engine, batch, (batch["image"], batch["label"]))
    assert prepared[0] is batch["image"]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert len(calls) == 3 + 1 + 4 and not any(mode for call in calls for mode in call)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for weight in network.parameters():
        assert weight.requires_grad and weight.grad is not None
        assert torch.equal(weight.grad, torch.full_like(weight, 7.0))


def test_there_is_no_search_where_every_sample_is_right() -> None:
    network = SumNetwork()
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.1)
    trainer(network, linear_cases(network, {"a": 5.0, "b": 5.0}), 1, handler).run()
    assert len(calls) == 1 + 5 + 1 + 1  # clean, attack, check, adversarial


def test_batch_size_and_order_do_not_change_the_margins() -> None:
    items = small_items(4)
    results = []
    for data, size in ((items, 4), (items[::-1], 4), (items, 1), (items, 3)):
        handler = MarginAdversarialTraining(pgd(0.5), case_key="case", growth=0.1, correct_dice=0.42)
        trainer(tiny_segmentation_network().double(), data, 3, handler, batch_size=size).run()
        results.append(handler.margins)
    assert len(set(results[0].values())) > 1
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-12)


def test_saved_margins_go_on_where_they_stopped() -> None:
    network = SumNetwork()
    items = linear_cases(network, {"near": 0.137, "far": 0.871})

    def make() -> MarginAdversarialTraining:
        return MarginAdversarialTraining(pgd(), case_key="case", growth=0.11)

    whole, first, second = make(), make(), make()
    trainer(network, items, 5, whole).run()
    trainer(network, items, 2, first).run()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.margins == first.margins and second.margins is not first.margins
    trainer(network, items, 3, second).run()
    assert second.margins == whole.margins


def test_saved_margins_do_not_exceed_a_smaller_epsilon() -> None:
    handler = MarginAdversarialTraining(pgd(0.2), case_key="case")
    handler.load_state_dict({"margins": {"a": 0.5, "b": 0.1}})
    assert handler.margins == {"a": 0.2, "b": 0.1}


def test_cases_are_named_by_the_images_files() -> None:
    network = SumNetwork()
    items = linear_cases(network, {"x": 5.0, "y": 5.0})
    for item in items:
        name = f"/data/{item.pop('case')}.nii.gz"
        item["image"] = MetaTensor(item["image"], meta={"filename_or_obj": name})
    handler = MarginAdversarialTraining(pgd(), growth=0.1)
    trainer(network, items, 2, handler, batch_size=1, decollate=True).run()
    assert handler.margins == pytest.approx({"/data/x.nii.gz": 0.3, "/data/y.nii.gz": 0.3})
    assert handler.perturbed is not None and isinstance(handler.perturbed.adversarial, MetaTensor)


@pytest.mark.parametrize("turned", [False, True])
def test_crops_of_one_case_take_the_smallest_margin(turned: bool) -> None:
    network = SumNetwork()
    items = linear_cases(network, {"far": 5.0, "near": 0.15})
    for item in items:
        item["case"] = "same"
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.2, bisections=9)
    trainer(network, items[::-1] if turned else items, 1, handler).run()
    assert set(handler.margins) == {"same"} and handler.margins["same"] == pytest.approx(0.15, abs=0.001)


def names(values: Any, key: str | None = "case", meta: dict[str, Any] | None = None, count: int = 2) -> list[str]:
    image = torch.zeros(count, *SHAPE)
    batch = Batch(image if meta is None else MetaTensor(image, meta=meta), image)
    return MarginAdversarialTraining(pgd(), case_key=key).cases_of({"image": image, "case": values}, batch)


def test_names_and_numbers_tell_cases_apart() -> None:
    assert names(["a", "b"]) == ["a", "b"]
    assert names(torch.tensor([[3], [4]])) == ["3", "4"]
    assert names((1, 2)) == ["1", "2"]
    assert names("only", count=1) == ["only"]
    assert names(7, count=1) == ["7"]
    assert names(None, key=None, meta={"filename_or_obj": ["p", "q"]}) == ["p", "q"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": "ab"},
        {"values": ["a"]},
        {"values": ["a", None]},
        {"values": ["a", ""]},
        {"values": torch.arange(6).view(2, 3)},
        {"values": ["a", "b"], "key": None},
        {"values": ["a", "b"], "key": None, "meta": {}},
        {"values": ["a", "b"], "key": None, "meta": {"filename_or_obj": "one"}},
    ],
)
def test_cases_that_cannot_be_told_apart_are_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot be told apart: .* case_key"):
        names(**arguments)


def test_a_missing_case_key_is_named() -> None:
    with pytest.raises(KeyError, match="'name' is not in the batch, which holds"):
        names(["a", "b"], key="name")


@pytest.mark.parametrize("perturbation", [None, Chain([AdditiveNoise(0.1)])])
def test_other_attacks_than_additive_noise_are_refused(perturbation: Chain | None) -> None:
    attack = ElasticAttack() if perturbation is None else Attack(perturbation)
    with pytest.raises(TypeError, match="needs an attack of additive noise"):
        MarginAdversarialTraining(attack)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"attack": [PGD(0.1)]}, TypeError, "attack"),
        ({"attack": PGD(0.0)}, ValueError, "epsilon"),
        ({"budget": LinearSchedule(0, 1, 3)}, ValueError, "budget"),
        ({"growth": 0}, ValueError, "growth"),
        ({"correct_dice": 0}, ValueError, "correct_dice"),
        ({"correct_dice": 1.5}, ValueError, "correct_dice"),
        ({"bisections": 0}, ValueError, "bisections"),
        ({"adversarial_weight": 2}, ValueError, "adversarial_weight"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        MarginAdversarialTraining(**{"attack": PGD(0.1), **options})


def test_processes_exchange_their_margins_at_the_end_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SumNetwork()
    handler = MarginAdversarialTraining(pgd(), case_key="case", growth=0.1)
    handler.load_state_dict({"margins": {"other": 0.4, "stale": 0.3}})
    engine = trainer(network, linear_cases(network, {"own": 5.0, "shared": 5.0}), 1, handler)
    sent: list[dict[str, float]] = []

    def gather(parts: list[Any], mine: dict[str, float]) -> None:
        sent.append(dict(mine))
        parts[:] = [mine, {"other": 0.7, "shared": 0.15}]

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    engine.run()
    assert sent == [pytest.approx({"own": 0.2, "shared": 0.2})]
    assert handler.margins == pytest.approx({"own": 0.2, "shared": 0.15, "other": 0.7, "stale": 0.3})
