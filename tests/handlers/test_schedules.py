# SPDX-License-Identifier: Apache-2.0
"""Schedules in closed form, and the multi-perturbation training that they make of AdversarialTraining."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.utils import set_determinism

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers.adversarial_training import AdversarialTraining
from monai_adversarial.handlers.schedules import LinearSchedule, UniformSchedule, chance
from tests.helpers import LinearNetwork, random_image, random_label

SIZE = 4
EPSILON = 0.1
PER_EPOCH, EPOCHS = 40, 5


def test_linear_schedule_is_constant_then_a_line_then_constant():
    schedule = LinearSchedule(0.25, 1.0, epochs=3.0, first_epoch=2.0)
    expected = {0.0: 0.25, 2.0: 0.25, 3.0: 0.5, 3.5: 0.625, 4.0: 0.75, 5.0: 1.0, 100.0: 1.0}
    assert {epoch: schedule(epoch, 1) for epoch in expected} == pytest.approx(expected)
    assert LinearSchedule(9.0, 1.0, epochs=4.0)(1.0, 7) == pytest.approx(7.0)  # also downwards
    assert repr(schedule) == "LinearSchedule(0.25 to 1 in 3 epochs from 2)"


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 2**31), st.integers(1, 10**7))
def test_uniform_schedule_stays_in_its_bounds(first, second, seed, iteration):
    low, high = min(first, second), max(first, second)
    value = UniformSchedule(low, high, seed)(0.0, iteration)
    assert low - 1e-12 <= value <= high + 1e-12


def test_uniform_schedule_fills_its_bounds_evenly():
    schedule = UniformSchedule(2.0, 6.0)
    values = torch.tensor([schedule(0.0, iteration) for iteration in range(1, 4001)])
    counts = torch.histc(values, bins=8, min=2.0, max=6.0)
    assert counts.min() > 400 and counts.max() < 600  # 500 expected
    assert schedule(0.0, 5) == schedule(3.7, 5)  # the iteration alone decides
    assert UniformSchedule(2.0, 2.0)(0.0, 9) == 2.0


@pytest.mark.slow
def test_chance_is_the_same_in_another_process_and_in_any_order():
    arguments = [(0, 1), (0, 2), (7, 3, 1), (7, 3, 2)]
    code = f"from monai_adversarial.handlers.schedules import chance; print([chance(*a) for a in {arguments}])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(other.stdout.strip().splitlines()[-1]) == [chance(*a) for a in arguments]
    assert [chance(*a) for a in reversed(arguments)] == [chance(*a) for a in arguments][::-1]
    assert all(0 <= chance(*a) < 1 for a in arguments)


@pytest.mark.parametrize("others", [(0, 2), (1, 1)], ids=["number", "seed"])
def test_chances_of_different_numbers_and_seeds_are_independent(others):
    seed, number = others
    first = torch.tensor([chance(0, iteration, 1) for iteration in range(1, 2001)])
    second = torch.tensor([chance(seed, iteration, number) for iteration in range(1, 2001)])
    table = torch.histc((first * 4).floor() * 4 + (second * 4).floor(), bins=16, min=0, max=16)
    assert table.min() > 75 and table.max() < 175  # 125 expected, standard deviation 11


def test_bad_bounds_are_one_sentence():
    with pytest.raises(ValueError, match="low must not be above high, got 2 and 1"):
        UniformSchedule(2, 1)
    with pytest.raises(ValueError, match="low must be a finite number >= 0"):
        UniformSchedule(-1, 1)
    with pytest.raises(ValueError, match="epochs must be a finite number > 0"):
        LinearSchedule(0, 1, epochs=0)
    with pytest.raises(TypeError, match="budget must be a schedule"):
        AdversarialTraining(PGD(EPSILON), budget=0.5)


def run(attack=None, epochs: int = EPOCHS, first: int = 0, **options) -> dict[int, tuple[float, int]]:
    """Train, and measure each iteration's largest change and its steps; ``first`` epochs were run before."""
    network = LinearNetwork((-1.0, 1.0))
    items = [
        {"image": random_image((1, SIZE, SIZE, SIZE), seed=i), "label": random_label((1, SIZE, SIZE, SIZE), 2, seed=i)}
        for i in range(PER_EPOCH)
    ]
    forwards = [0]
    network.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=lambda prediction, label: torch.nn.functional.cross_entropy(prediction, label[:, 0]),
        decollate=False,
    )
    attack = attack or PGD(EPSILON, step_size=2 * EPSILON, objective="cross_entropy")
    AdversarialTraining(attack, **options).attach(engine)
    if first:  # as MONAI's CheckpointLoader resumes
        engine.load_state_dict({"iteration": first * PER_EPOCH, "max_epochs": epochs, "epoch_length": PER_EPOCH})
    measured = {}

    def measure(engine: SupervisedTrainer) -> None:
        change = (engine.state.output["image"] - engine.state.batch["image"]).abs().max()
        measured[engine.state.iteration] = (float(change), forwards[0] - 1)  # one forward trains
        forwards[0] = 0

    engine.add_event_handler(Events.ITERATION_COMPLETED, measure)
    engine.run()
    return measured


def multi_perturbation(**options) -> dict[int, tuple[float, int]]:
    return run(
        probability=0.5, budget=UniformSchedule(0.25, 1.0, seed=1), steps=UniformSchedule(1, 9, seed=2), **options
    )


def test_multi_perturbation_training_varies_budget_and_steps_in_half_of_the_iterations():
    measured = multi_perturbation()
    attacked = [(change, steps) for change, steps in measured.values() if steps]
    assert all(change == 0 for change, steps in measured.values() if not steps)
    assert len(measured) == EPOCHS * PER_EPOCH
    assert 0.4 < len(attacked) / len(measured) < 0.6
    changes, counts = zip(*attacked, strict=True)
    # a step of twice the budget ends on the ball's surface: the change is the budget
    assert EPSILON * 0.25 - 1e-6 <= min(changes) < EPSILON * 0.35
    assert EPSILON * 0.9 < max(changes) <= EPSILON + 1e-6
    assert set(counts) <= set(range(1, 10)) and len(set(counts)) >= 7


def test_weak_budgets_get_many_steps_too():
    changes, counts = zip(*[found for found in multi_perturbation().values() if found[1]], strict=True)
    correlation = torch.corrcoef(torch.tensor([changes, counts]))[0, 1]
    assert abs(float(correlation)) < 0.35  # standard deviation 0.1


def test_every_attack_has_its_turn_where_half_of_the_iterations_attack():
    attacks = [PGD(size, step_size=2 * size, steps=1) for size in (0.05, 0.1)]
    measured = run(attack=attacks, probability=0.5)
    weak = [change < 0.06 for change, steps in measured.values() if steps]
    assert 0.3 < sum(weak) / len(weak) < 0.7


def test_draws_do_not_depend_on_the_global_seed_and_go_on_after_a_resume():
    set_determinism(1)
    whole = multi_perturbation(epochs=3)
    set_determinism(2)
    rest = multi_perturbation(epochs=3, first=2)
    set_determinism(None)
    assert sorted(rest) == list(range(2 * PER_EPOCH + 1, 3 * PER_EPOCH + 1))
    assert len({steps for _, steps in rest.values()}) > 3
    for iteration, (change, steps) in rest.items():
        assert (change, steps) == (pytest.approx(whole[iteration][0], abs=1e-7), whole[iteration][1])


def test_a_curriculum_grows_the_budget_from_nothing():
    measured = run(epochs=2, budget=LinearSchedule(0.0, 1.0, epochs=1.0))
    for iteration, (change, steps) in measured.items():
        assert change == pytest.approx(EPSILON * min((iteration - 1) / PER_EPOCH, 1.0), abs=1e-6)
        assert steps == (0 if iteration == 1 else 10)
