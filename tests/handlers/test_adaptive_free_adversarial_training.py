# SPDX-License-Identifier: Apache-2.0
"""Free adversarial training whose replays follow the gradient, inside real MONAI trainers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_adversarial.handlers import AdaptiveFreeAdversarialTraining, FreeAdversarialTraining
from tests.handlers.test_free_adversarial_training import EPSILON, Resting, items, linear_network, loader, trainer


def published(magnitudes: list[float], most: int = 5, interval: int = 3, growth: float = 1.1) -> list[int]:
    """Replays after each epoch as SEAT's code chooses them, from its description."""
    replays, threshold, found = 1, 0.0, []
    for epoch, magnitude in enumerate(magnitudes, 1):
        if epoch == interval:
            replays = 2
        elif epoch == interval + 1:
            threshold = growth * magnitude
        elif epoch % interval == 0:
            if magnitude > threshold and replays < most:
                replays, threshold = replays + 1, growth * magnitude
            elif magnitude < threshold / growth and replays > 2:
                replays, threshold = replays - 1, growth * magnitude
        found.append(replays)
    return found


@pytest.mark.parametrize(
    "magnitudes",
    [
        [1.0] * 12,
        [float(epoch) for epoch in range(1, 25)],
        [5, 5, 5, 1, 1, 2, 9, 9, 3, 9, 9, 1, 9, 9, 0.5, 9, 9, 0.1, 9, 9, 4.0],
    ],
)
@pytest.mark.parametrize("most", [2, 3, 5])
def test_replays_are_chosen_as_published(magnitudes: list[float], most: int) -> None:
    handler = AdaptiveFreeAdversarialTraining(EPSILON, most_replays=most)
    found = []
    for epoch, magnitude in enumerate(magnitudes, 1):
        handler.choose(epoch, magnitude)
        found.append(handler.replays)
    assert found == published(magnitudes, most)
    assert max(found) <= most


def test_replays_grow_and_shrink() -> None:
    assert max(published([float(epoch) for epoch in range(1, 25)])) == 5
    last = published([5, 5, 5, 1, 1, 2, 9, 9, 3, 9, 9, 1, 9, 9, 0.5, 9, 9, 0.1])
    assert max(last) == 4 and last[-1] == 2


def test_the_magnitude_is_the_mean_of_the_sums_of_absolute_gradients() -> None:
    network, batches = linear_network(), loader(items(4))
    handler = AdaptiveFreeAdversarialTraining(EPSILON, relative_step=1e-9)  # the noise stays next to nothing
    engine = trainer(network, batches, handler)
    engine.optimizer = Resting(network.parameters(), 0.1)
    engine.run()
    sums = []
    for batch in batches:
        image = torch.as_tensor(batch["image"]).clone().requires_grad_(True)
        loss = binary_cross_entropy_with_logits(network(image), torch.as_tensor(batch["label"]))
        sums.append(float(torch.autograd.grad(loss, image)[0].abs().sum()))
    assert engine.state.metrics["gradient_magnitude"] == pytest.approx(sum(sums) / len(sums), rel=1e-6)
    assert engine.state.metrics["replays"] == 1


def test_an_epoch_keeps_its_length_and_batches_are_replayed_as_often_as_chosen() -> None:
    seen: list[float] = []
    handler = AdaptiveFreeAdversarialTraining(EPSILON, most_replays=2, check_interval=1)
    engine = trainer(linear_network(), loader(items(8)), handler, epochs=2)
    prepare = handler.prepare

    def noting(trainer, batchdata, prepared):
        seen.append(float(torch.as_tensor(prepared[0]).sum()))
        return prepare(trainer, batchdata, prepared)

    handler.prepare = noting
    engine.run()
    assert engine.state.iteration == len(seen) == 8
    # One epoch of four batches, then two batches twice: the loader goes on where it was or begins anew.
    assert len(set(seen[:4])) == 4
    assert seen[4] == seen[5] != seen[6] == seen[7]


def test_without_a_change_of_replays_it_is_free_training_with_one_replay() -> None:
    networks = [linear_network(), linear_network()]
    for network, handler in zip(
        networks,
        (AdaptiveFreeAdversarialTraining(EPSILON), FreeAdversarialTraining(EPSILON, replays=1)),
        strict=True,
    ):
        trainer(network, loader(items(4)), handler, epochs=2).run()
    for own, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(own, other)


def test_it_goes_on_where_it_was_saved_and_leaves_the_trainer_as_it_was() -> None:
    handler = AdaptiveFreeAdversarialTraining(EPSILON, check_interval=1)
    data = loader(items(4))
    engine = trainer(linear_network(), data, handler, epochs=3)
    length = engine.state.epoch_length
    engine.run()
    state = handler.state_dict()
    later = AdaptiveFreeAdversarialTraining(EPSILON, check_interval=1)
    later.load_state_dict(state)
    assert later.replays == handler.replays >= 2 and later.threshold == handler.threshold is not None
    handler.detach(engine)
    assert engine.data_loader is data and engine.state.epoch_length == length


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="growth must be at least 1"):
        AdaptiveFreeAdversarialTraining(EPSILON, growth=0.9)
    with pytest.raises(ValueError, match="most_replays"):
        AdaptiveFreeAdversarialTraining(EPSILON, most_replays=1)
