# SPDX-License-Identifier: Apache-2.0
"""Free adversarial training inside real MONAI trainers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.losses import DiceCELoss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_adversarial.attacks import PGD
from monai_adversarial.attacks.perturbations import AdditiveNoise, BiasField, ElasticDeformation
from monai_adversarial.handlers import AdversarialTraining
from monai_adversarial.handlers.free_adversarial_training import FreeAdversarialTraining
from monai_adversarial.networks.dual_normalization import convert_dual_normalization
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (1, 4, 4, 4)
EPSILON = 0.125
RATE = 0.5


def items(count: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> list[dict]:
    return [
        {"image": random_image(shape, seed=i, dtype=dtype) - 0.5, "label": random_label(shape, 2, seed=i).to(dtype)}
        for i in range(count)
    ]


def loader(data: list[dict], batch_size: int = 2) -> DataLoader:
    return DataLoader(Dataset(data), batch_size=batch_size, collate_fn=list_data_collate)


def linear_network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """One convolution that sees its neighbors, weights that depend on nothing."""
    network = nn.Conv3d(1, 1, 3, padding=1, dtype=dtype)
    with torch.no_grad():
        network.weight.copy_(random_image(tuple(network.weight.shape), seed=7, dtype=dtype) - 0.4)
        network.bias.zero_()
    return network


def trainer(network: nn.Module, data, handler=None, epochs: int = 1, **options) -> SupervisedTrainer:
    options.setdefault("loss_function", binary_cross_entropy_with_logits)
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9)
    options.setdefault("train_handlers", [] if handler is None else [handler])
    return SupervisedTrainer(torch.device("cpu"), epochs, data, network, optimizer, **options)


class Resting(torch.optim.SGD):
    """Changes no weight."""

    def step(self, closure=None):
        return None


def hand_written(network: nn.Module, batches: list[dict], replays: int, epochs: int) -> torch.Tensor:
    """The algorithm of the paper with nothing but torch; the perturbation at the end."""
    velocity = [torch.zeros_like(weight) for weight in network.parameters()]
    noise = torch.zeros_like(torch.as_tensor(batches[0]["image"]))
    for _ in range(epochs):
        for batch in batches:
            image, label = torch.as_tensor(batch["image"]), torch.as_tensor(batch["label"])
            for _ in range(replays):
                part = noise[: len(image)].clone().requires_grad_(True)
                loss = binary_cross_entropy_with_logits(network(image + part), label)
                gradient, *weights = torch.autograd.grad(loss, [part, *network.parameters()])
                noise[: len(image)] = (part.detach() + EPSILON * gradient.sign()).clamp(-EPSILON, EPSILON)
                with torch.no_grad():
                    for weight, speed, change in zip(network.parameters(), velocity, weights, strict=True):
                        speed.mul_(0.9).add_(change)
                        weight -= RATE * speed
    return noise


def test_weights_and_perturbation_equal_a_hand_written_loop():
    # five samples: the last batch is smaller, and the rows that it lacks wait
    data, network = loader(items(5)), linear_network()
    expected = copy.deepcopy(network)
    noise = hand_written(expected, list(data), replays=3, epochs=2)
    handler = FreeAdversarialTraining(EPSILON, replays=3)
    engine = trainer(network, data, handler, epochs=2)
    engine.run()
    for weight, wanted in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-15)
    torch.testing.assert_close(handler.parameters[0], noise, rtol=0, atol=0)
    assert engine.state.iteration == 2 * 3 * 3


@pytest.mark.parametrize("perturbation", [AdditiveNoise(0.1), AdditiveNoise(0.5, "l2"), BiasField(0.3)])
def test_the_perturbation_moves_and_raises_the_loss(perturbation):
    network = tiny_segmentation_network(out_channels=2)
    data = loader(items(2, (1, 8, 8, 8), torch.float32))
    seen, losses = [], []

    def note(engine):
        seen.append(engine.state.output["image"])
        losses.append(engine.state.output["adversarial_loss"])

    handler = FreeAdversarialTraining(perturbation, replays=3)
    engine = trainer(network, data, handler, loss_function=DiceCELoss(to_onehot_y=True, softmax=True), decollate=False)
    engine.optimizer = Resting(network.parameters(), RATE)  # so that losses can be compared
    engine.add_event_handler(Events.ITERATION_COMPLETED, note)
    engine.run()
    clean = torch.as_tensor(next(iter(data))["image"])
    torch.testing.assert_close(torch.as_tensor(seen[0]), clean)
    assert float((seen[1] - clean).abs().max()) > 0.01
    assert losses[0] < losses[1]
    moved = handler.parameters[0].abs()
    assert float(moved.max()) > 0.01
    if isinstance(perturbation, AdditiveNoise) and perturbation.norm == "linf":
        assert float(moved.max()) == pytest.approx(0.1)  # a whole budget in one step: no floor division


def test_an_epoch_has_all_replays_of_every_batch_in_a_row():
    order = []
    handler = FreeAdversarialTraining(EPSILON, replays=3)
    engine = trainer(linear_network(), loader(items(4)), handler, epochs=2)
    engine.add_event_handler(
        Events.ITERATION_STARTED, lambda e: order.append(float(torch.as_tensor(e.state.batch["image"]).sum()))
    )
    engine.run()
    assert engine.state.epoch_length == 6
    assert len(engine.data_loader) == 6
    assert order[0] == order[1] == order[2] != order[3] == order[4] == order[5]
    assert order[:6] == order[6:]


def test_a_length_of_the_users_own_and_data_without_length_stay():
    handler = FreeAdversarialTraining(EPSILON, replays=2)
    engine = trainer(linear_network(), loader(items(6)), handler, epochs=2, epoch_length=2)
    engine.run()
    assert (engine.state.epoch_length, engine.state.iteration) == (2, 4)

    def unsized():
        yield from loader(items(4))

    engine = trainer(linear_network(), unsized(), FreeAdversarialTraining(EPSILON, replays=2))
    engine.run()
    assert (engine.state.epoch_length, engine.state.iteration) == (4, 4)


def test_detach_restores_the_trainer():
    handler = FreeAdversarialTraining(EPSILON, replays=3)
    data, network = loader(items(4)), linear_network()
    engine = trainer(network, data, handler)
    handler.detach(engine)
    assert engine.data_loader is data
    assert engine.state.epoch_length == 2
    clean = copy.deepcopy(network)
    engine.run()
    trainer(clean, data).run()
    torch.testing.assert_close(network.state_dict(), clean.state_dict(), rtol=0, atol=0)
    assert handler.parameters == ()


def test_a_distributed_sampler_still_gets_its_epoch():
    data = Dataset(items(4))
    sampler = DistributedSampler(data, even_divisible=True, num_replicas=1, rank=0, shuffle=True)
    epochs = []
    engine = trainer(
        linear_network(), DataLoader(data, sampler=sampler), FreeAdversarialTraining(EPSILON, replays=2), epochs=3
    )
    engine.add_event_handler(Events.ITERATION_STARTED, lambda e: epochs.append((e.state.epoch, sampler.epoch)))
    engine.run()
    assert epochs == [(epoch, epoch) for epoch in (1, 2, 3) for _ in range(8)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_only_the_trainer_gives_gradients_to_the_weights(accumulation):
    """At each backward pass the weights' gradient is that of the trainer's loss on its own (perturbed) image."""
    network = linear_network()
    found, before = [], []

    def check(engine):
        image = engine.state.output["image"]
        loss = binary_cross_entropy_with_logits(network(image), engine.state.output["label"]) / accumulation
        expected = torch.autograd.grad(loss, list(network.parameters()))
        if accumulation == 2 and len(found) % 2 == 1:
            expected = [new + old for new, old in zip(expected, before, strict=True)]
        before[:] = [weight.grad.clone() for weight in network.parameters()]
        found.append(all(torch.allclose(a, b, atol=1e-14) for a, b in zip(expected, before, strict=True)))

    engine = trainer(
        network, loader(items(4)), FreeAdversarialTraining(EPSILON, replays=2), accumulation_steps=accumulation
    )
    engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, check)
    engine.run()
    assert found == [True] * 4


@pytest.mark.parametrize("stop", [4, 5])  # between two batches, and in the middle of one's replays
def test_a_resumed_training_goes_on_where_it_stopped(stop, tmp_path):
    data = items(2)  # one batch, so that ignite's restart of the loader brings the same data
    whole = linear_network()
    handler = FreeAdversarialTraining(EPSILON, replays=4)
    trainer(whole, loader(data), handler, epochs=3).run()

    def prepared(network, free, load=None):
        engine = trainer(network, loader(data), free, epochs=3)
        objects = {"network": network, "optimizer": engine.optimizer, "trainer": engine, "free": free}
        if load is None:
            saver = CheckpointSaver(str(tmp_path), objects, save_interval=1, epoch_level=False, key_metric_name=None)
            saver.attach(engine)
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop), lambda e: e.terminate())
        else:
            CheckpointLoader(load, objects).attach(engine)
        return engine

    prepared(linear_network(), FreeAdversarialTraining(EPSILON, replays=4)).run()
    network, free = linear_network(), FreeAdversarialTraining(EPSILON, replays=4)
    engine = prepared(network, free, str(tmp_path / f"checkpoint_iteration={stop}.pt"))
    engine.run()
    assert engine.state.iteration == 12
    torch.testing.assert_close(network.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(free.parameters, handler.parameters, rtol=0, atol=0)


def test_replays_go_on_in_the_middle_of_a_batch():
    engine = trainer(linear_network(), loader(items(4)), FreeAdversarialTraining(EPSILON, replays=4))
    engine.state.iteration = 3
    images = [float(torch.as_tensor(batch["image"]).sum()) for batch in engine.data_loader]
    assert len(images) == 1 + 4
    assert images[0] != images[1] == images[4]


def test_another_patch_size_starts_at_zero():
    handler = FreeAdversarialTraining(EPSILON, replays=1)
    data = [loader(items(2, shape)) for shape in ((1, 4, 4, 4), (1, 5, 4, 4))]
    batches = [next(iter(one)) for one in data]
    engine = trainer(linear_network(), batches, handler)
    seen = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append([o["image"] for o in e.state.output]))
    engine.run()
    torch.testing.assert_close(torch.as_tensor(seen[1][0]), torch.as_tensor(batches[1]["image"][0]))
    assert tuple(handler.parameters[0].shape) == (2, 1, 5, 4, 4)
    assert float(handler.parameters[0].abs().max()) == EPSILON


def test_the_budget_is_in_hounsfield_and_the_clipped_voxels_stay():
    network = linear_network(torch.float32)
    window = {"a_min": -160, "a_max": 240, "b_min": 0.0, "b_max": 1.0, "clip": True}
    image = random_image((1, 6, 6, 6))
    image[:, :2] = 0.0  # at the edge of the window: HU unknown
    data = [{"image": image, "label": random_label((1, 6, 6, 6), 2).float()}]
    handler = FreeAdversarialTraining(8, "HU", {"intensity": window}, replays=3)
    trainer(network, loader(data), handler).run()
    noise = handler.parameters[0]
    assert float(noise.abs().max()) == pytest.approx(8 / 400)
    assert not noise[:, :, :2].any()


def test_decollated_images_keep_their_metadata_and_have_no_graph():
    data = items(2)
    for item in data:
        item["image"] = MetaTensor(item["image"], affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    engine = trainer(linear_network(), loader(data), FreeAdversarialTraining(EPSILON, replays=2))
    engine.run()
    image = engine.state.output[0]["image"]
    assert isinstance(image, MetaTensor)
    assert image.affine[1, 1] == 2.0
    assert not image.requires_grad
    assert isinstance(engine.state.output[0]["loss"], float)


def test_an_overflow_does_not_stay_in_the_perturbation():
    """GradScaler skips the weights' step after an overflow; the perturbation must not become NaN for ever."""
    network, handler = linear_network(), FreeAdversarialTraining(EPSILON, replays=2)
    engine = trainer(network, loader(items(2)), handler)
    engine.optimizer = Resting(network.parameters(), RATE)

    def loss(prediction, label):
        value = binary_cross_entropy_with_logits(prediction, label)
        return value * (math.nan if engine.state.iteration == 1 else 1.0)

    engine.loss_function = loss
    engine.run()
    assert handler.parameters[0].isfinite().all()
    assert float(handler.parameters[0].abs().max()) == EPSILON


def test_amp_with_a_scaler_gives_the_same_perturbation():
    class Scaler:
        def scale(self, loss):
            return loss * 1024.0

        def step(self, optimizer):
            pass

        def update(self):
            pass

    noise = []
    for amp in (False, True):
        network, handler = linear_network(), FreeAdversarialTraining(EPSILON, replays=3)
        engine = trainer(network, loader(items(2)), handler)
        engine.optimizer = Resting(network.parameters(), RATE)
        if amp:
            engine.amp = True
            engine.amp_kwargs = {"enabled": False}  # there may be no CUDA
            engine.add_event_handler(Events.STARTED, lambda e: setattr(e, "scaler", Scaler()))
        engine.run()
        noise.append(handler.parameters[0])
    torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=0)


def test_bad_use_stops_with_one_sentence():
    for arguments, error in (
        (("much",), TypeError),
        ((0.0,), ValueError),
        ((0.1, "mm"), ValueError),
    ):
        with pytest.raises(error, match=r"perturbation|units"):
            FreeAdversarialTraining(*arguments)
    with pytest.raises(ValueError, match="replays must be an integer >= 1"):
        FreeAdversarialTraining(0.1, replays=0)
    handler = FreeAdversarialTraining(0.1)
    with pytest.raises(TypeError, match="must be attached to a monai SupervisedTrainer, got SupervisedEvaluator"):
        SupervisedEvaluator(torch.device("cpu"), [], linear_network(), val_handlers=[handler])
    data = loader(items(2))
    with pytest.raises(ValueError, match="AdversarialTraining already changes this trainer's batch"):
        trainer(linear_network(), data, train_handlers=[AdversarialTraining(PGD(0.1)), handler])
    data = loader(items(2, (1, 8, 8, 8), torch.float32))
    network = linear_network(torch.float32)
    moving = FreeAdversarialTraining(ElasticDeformation(1.0, 4.0))
    in_mm = [{key: MetaTensor(item[key]) for key in item} for item in items(2, (1, 8, 8, 8), torch.float32)]
    with pytest.raises(ValueError, match="needs a perturbation of intensity"):
        trainer(network, loader(in_mm), moving).run()
    detached = trainer(network, data, handler, inferer=lambda image, net: net(image.detach()))
    with pytest.raises(RuntimeError, match="the trainer's loss does not depend on its image"):
        detached.run()
    dual = convert_dual_normalization(nn.Sequential(linear_network(), nn.BatchNorm3d(1)))
    with pytest.raises(ValueError, match="trains on no clean batch"):
        trainer(dual, data, FreeAdversarialTraining(0.1)).run()


def test_the_handler_says_what_it_will_do(caplog):
    with caplog.at_level("INFO"):
        trainer(linear_network(), loader(items(2)), FreeAdversarialTraining(8, "HU", replays=5))
    assert (
        "each batch 5 times in a row, perturbed with AdditiveNoise(epsilon=8.0, norm='linf', units='HU')" in caplog.text
    )
