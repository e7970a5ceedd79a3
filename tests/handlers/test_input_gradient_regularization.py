# SPDX-License-Identifier: Apache-2.0
"""The input-gradient penalty against closed forms, inside real MONAI trainers."""

from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import AdversarialTraining
from monai_adversarial.handlers.input_gradient_regularization import InputGradientRegularization, kept_statistics
from tests.handlers.trainers import SmallNetwork, items, trainer
from tests.helpers import random_image

METHODS = ("finite_difference", "exact")
WEIGHT = 0.7


class Quadratic(nn.Module):
    """``w x + q x^2`` at each voxel, with its own w and q: the loss's gradient is ``w + 2 q x``."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(random_image((1, 4, 4, 4), seed=21, dtype=dtype) - 0.3)
        self.q = nn.Parameter(random_image((1, 4, 4, 4), seed=22, dtype=dtype) - 0.6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.w * image + self.q * image**2

    def penalty(self, image: torch.Tensor) -> torch.Tensor:
        return (self.w + 2 * self.q * image).square().flatten(1).sum(dim=1).mean()


def mean_of_sums(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return prediction.flatten(1).sum(dim=1).mean()


class NoStep(torch.optim.SGD):
    """Leaves the weights and their gradients for the test to look at."""

    def step(self, closure=None):
        return None


def run(network: nn.Module, handlers: list, data=None, **options) -> SupervisedTrainer:
    """One iteration on two samples, weights left as they were."""
    options.setdefault("decollate", False)
    engine = trainer(network, handlers, items(2, torch.float64) if data is None else data, **options)
    engine.optimizer = NoStep(network.parameters(), lr=0.1)
    engine.run()
    return engine


def batch(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.stack([item["image"] for item in items(2, dtype)])


@pytest.mark.parametrize(("method", "tolerance"), [("exact", 1e-12), ("finite_difference", 1e-5)])
def test_penalty_and_weight_gradients_equal_the_closed_form(method, tolerance):
    network = Quadratic()
    engine = run(network, [InputGradientRegularization(WEIGHT, method, step=1e-6)], loss=mean_of_sums)
    image = batch()
    task, penalty = mean_of_sums(network(image), image), network.penalty(image)
    total = task + WEIGHT * penalty
    torch.testing.assert_close(engine.state.output["input_gradient_penalty"], penalty.detach(), rtol=tolerance, atol=0)
    torch.testing.assert_close(engine.state.output["clean_loss"], task.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(engine.state.output["loss"].detach(), total.detach(), rtol=tolerance, atol=0)
    expected = torch.autograd.grad(total, [network.w, network.q])
    for weight, gradient in zip((network.w, network.q), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=10 * tolerance, atol=10 * tolerance)
    unregularized = torch.autograd.grad(mean_of_sums(network(image), image), [network.w])[0]
    assert float((network.w.grad - unregularized).abs().max()) > 0.1


def test_finite_differences_converge_to_the_exact_penalty():
    network = Quadratic()
    exact = float(network.penalty(batch()).detach())
    errors = []
    for step in (0.1, 0.01, 0.001):
        engine = run(network, [InputGradientRegularization(WEIGHT, step=step)], loss=mean_of_sums)
        errors.append(abs(float(engine.state.output["input_gradient_penalty"]) - exact))
    assert errors[0] > 0
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)


def test_a_linear_loss_has_no_error_of_the_step():
    network = Quadratic()
    with torch.no_grad():
        network.q.zero_()
    engine = run(network, [InputGradientRegularization(WEIGHT, step=3.0)], loss=mean_of_sums)
    wanted = network.w.detach().square().sum()
    torch.testing.assert_close(engine.state.output["input_gradient_penalty"], wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_loss_has_no_penalty(method):
    network = Quadratic()
    with torch.no_grad():
        network.w.zero_()
        network.q.zero_()
    engine = run(network, [InputGradientRegularization(WEIGHT, method)], loss=mean_of_sums)
    assert float(engine.state.output["input_gradient_penalty"]) == 0.0
    assert network.w.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_with_batch_norm_and_dropout_is_penalized_as_it_was_trained(method):
    """Same dropout masks, same batch statistics: the penalty is that of the one function that the trainer saw."""
    network = SmallNetwork(dropout=0.5).double()
    state, expected = copy.deepcopy(network.state_dict()), copy.deepcopy(network).train()
    engine = trainer(network, [InputGradientRegularization(WEIGHT, method, step=1e-5)], items(2, torch.float64))
    engine.optimizer = NoStep(network.parameters(), lr=0.1)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda e: torch.manual_seed(3))  # after the loader's own draw
    engine.add_event_handler(
        IterationEvents.MODEL_COMPLETED, lambda e: setattr(e.state, "random", torch.get_rng_state())
    )
    engine.run()
    torch.manual_seed(3)
    image = batch().requires_grad_(True)
    label = torch.stack([item["label"] for item in items(2)])
    loss = engine.loss_function(expected(image), label)
    assert torch.equal(torch.get_rng_state(), engine.state.random)  # the penalty drew no random number that lasts
    (gradient,) = torch.autograd.grad(2 * loss, image, create_graph=True)
    penalty = gradient.square().sum() / 2
    assert engine.state.output[0]["input_gradient_penalty"] == pytest.approx(float(penalty.detach()), rel=1e-3)
    assert float(penalty.detach()) > 0
    wanted = torch.autograd.grad(loss + WEIGHT * penalty, list(expected.parameters()))
    for weight, gradient in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)
    # one update of the statistics, as without the handler
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(network.norm.running_mean, state["norm.running_mean"])
    assert int(network.norm.num_batches_tracked) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm3d(2),
        nn.BatchNorm3d(2, momentum=None),
        nn.BatchNorm3d(2, track_running_stats=False),
        nn.InstanceNorm3d(2, track_running_stats=True),
        nn.InstanceNorm3d(2),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_kept_and_outputs_unchanged(layer, training):
    network = nn.Sequential(copy.deepcopy(layer)).train(training)
    image = random_image((2, 2, 4, 4, 4))
    network(image)
    state, settings = copy.deepcopy(network.state_dict()), {k: v for k, v in vars(network[0]).items() if k[0] != "_"}
    with pytest.raises(RuntimeError, match="inside"), kept_statistics(network):
        kept = network(image)
        raise RuntimeError("inside")
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert {k: v for k, v in vars(network[0]).items() if k[0] != "_"} == settings
    torch.testing.assert_close(network(image), kept)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decollate", [True, False])
def test_the_output_is_usable_afterwards(method, decollate):
    data = [{**item, "image": MetaTensor(item["image"])} for item in items(2)]
    engine = run(SmallNetwork(), [InputGradientRegularization(WEIGHT, method)], data, decollate=decollate)
    output = engine.state.output[0] if decollate else engine.state.output
    assert isinstance(output["image"], MetaTensor)
    assert not output["image"].requires_grad
    output["image"].numpy()
    if decollate:
        assert isinstance(output["input_gradient_penalty"], float)


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_gradients_are_those_of_all_batches(method):
    network = Quadratic()
    data = items(4, torch.float64)
    engine = trainer(
        network, [InputGradientRegularization(WEIGHT, method, 1e-6)], data, loss=mean_of_sums, accumulation_steps=2
    )
    engine.optimizer = NoStep(network.parameters(), lr=0.1)
    engine.run()
    image = torch.stack([item["image"] for item in data])
    total = mean_of_sums(network(image), image) + WEIGHT * network.penalty(image)
    expected = torch.autograd.grad(total, [network.w, network.q])
    for weight, gradient in zip((network.w, network.q), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_does_not_spoil_the_penalty(method):
    """bfloat16 does not resolve the step: under autocast the penalty is computed in float32."""
    network = SmallNetwork(norm=False)
    found = []
    for enabled in (False, True):
        dtypes = []
        hook = network.first.register_forward_hook(lambda m, i, o, seen=dtypes: seen.append(o.dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            engine = run(network, [InputGradientRegularization(WEIGHT, method)], items(2))
        hook.remove()
        assert dtypes[0] == (torch.bfloat16 if enabled else torch.float32)
        assert set(dtypes[1:]) <= {torch.float32}
        found.append(engine.state.output["input_gradient_penalty"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_amp_of_the_trainer_gives_the_same_weight_gradients(method):
    gradients = []
    for amp in (False, True):
        network = SmallNetwork()
        # without CUDA the trainer's autocast and scaler do nothing, but the penalty takes the way of AMP
        run(network, [InputGradientRegularization(WEIGHT, method)], items(2), amp=amp)
        gradients.append([weight.grad for weight in network.parameters()])
        assert int(network.norm.num_batches_tracked) == 1
    for plain, through_amp in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, through_amp, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_network_is_penalized_through_its_eager_self(method):
    network = SmallNetwork()
    plain = run(copy.deepcopy(network), [InputGradientRegularization(WEIGHT, method)], items(2))
    compiled = torch.compile(network, backend="aot_eager")  # has the limits of compiled graphs, without their wait
    engine = run(compiled, [InputGradientRegularization(WEIGHT, method)], items(2))
    torch.testing.assert_close(
        engine.state.output["input_gradient_penalty"], plain.state.output["input_gradient_penalty"], rtol=1e-3, atol=0
    )


def test_a_term_of_somebody_else_does_not_enter_the_difference():
    """What others add to the loss on the same event must not be divided by the step."""
    network = Quadratic()

    class Adds:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

        def __call__(self, engine):
            engine.state.output["loss"] = engine.state.output["loss"] + 5.0

    engine = run(network, [Adds(), InputGradientRegularization(WEIGHT, step=1e-6)], loss=mean_of_sums)
    image = batch()
    torch.testing.assert_close(
        engine.state.output["loss"].detach(),
        (mean_of_sums(network(image), image) + 5.0 + WEIGHT * network.penalty(image)).detach(),
        rtol=1e-5,
        atol=0,
    )


def test_training_with_the_penalty_flattens_the_loss():
    data, ends = items(4), []
    for handlers in ([], [InputGradientRegularization(100.0)]):
        network = SmallNetwork(norm=False)
        trainer(network, handlers, data, max_epochs=10).run()
        image = torch.stack([item["image"] for item in data]).requires_grad_(True)
        label = torch.stack([item["label"] for item in data])
        loss = nn.functional.cross_entropy(network(image), label[:, 0])
        ends.append(float(torch.autograd.grad(loss, image)[0].norm()))
    assert ends[1] < 0.9 * ends[0]


def test_detach_restores_the_trainer():
    handler, network = InputGradientRegularization(WEIGHT), SmallNetwork()
    clean = copy.deepcopy(network)
    engine = trainer(network, [handler])
    handler.detach(engine)
    engine.run()
    trainer(clean, []).run()
    torch.testing.assert_close(network.state_dict(), clean.state_dict(), rtol=0, atol=0)


def test_bad_use_stops_with_one_sentence():
    for arguments, message in (
        ((0.0,), "weight must be a finite number > 0"),
        ((1.0, "central"), "method must be one of 'finite_difference', 'exact'"),
        ((1.0, "exact", -1.0), "step must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            InputGradientRegularization(*arguments)
    with pytest.raises(ValueError, match="AdversarialTraining already changes this trainer's batch"):
        trainer(SmallNetwork(), [AdversarialTraining(PGD(0.1)), InputGradientRegularization(1.0)])
    with pytest.raises(TypeError, match="image must be float32"):
        run(SmallNetwork().half(), [InputGradientRegularization(1.0)], items(2, torch.float16))


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_with_amp(method):
    network = SmallNetwork().cuda()
    engine = trainer(network, [InputGradientRegularization(WEIGHT, method)], amp=True)
    engine.state.device = torch.device("cuda")
    penalties = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: penalties.append(e.state.output[0]["input_gradient_penalty"])
    )
    engine.run()
    assert all(0 < penalty < float("inf") for penalty in penalties)
