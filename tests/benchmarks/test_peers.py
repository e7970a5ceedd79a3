# SPDX-License-Identifier: Apache-2.0
"""The job of the other libraries is the same job. Their own rows need them; CI without them tests the adapter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import unet, volume
from benchmarks.peers import PEERS, Peer, PeerAttack, Problem, loaded_attacks, registry
from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import CountedNetwork
from monai_adversarial.attacks import FGSM, PGD, AdditiveNoise, Attack, AutoPGD
from monai_adversarial.models import AttackedModel

EPSILON = 0.02
PASSES = 4


def _problem(loss: str = "cross_entropy", batch: int = 1) -> Problem:
    image, label = volume((16, 16, 16), "cpu", batch=batch)
    return Problem(CountedNetwork(unet((4, 8))), image, label, EPSILON, loss)


@pytest.mark.parametrize("loss", ["cross_entropy", "dice_ce"])
@pytest.mark.parametrize("found", [False, True])
def test_the_classifiers_cross_entropy_is_the_dense_loss(loss: str, found: bool) -> None:
    problem = _problem(loss, batch=2)
    classifier = DenseLossClassifier(problem, found)
    image = problem.image.clone().requires_grad_(True)
    dense = classifier.loss(image)
    direct = torch.autograd.grad(dense.sum(), image)[0]
    logits = classifier(image)
    seen = functional.cross_entropy(logits, classifier.labels(), reduction="none")
    assert torch.allclose(seen, dense + (math.log(2) + 1e-3 if found else 0.0), atol=1e-6)
    assert torch.allclose(torch.autograd.grad(seen.sum(), image)[0], direct, rtol=1e-3, atol=1e-9)
    if found:
        assert (logits.argmax(1) != classifier.labels()).all()


def test_the_dense_loss_is_the_mean_cross_entropy_over_voxels() -> None:
    problem = _problem()
    expected = functional.cross_entropy(problem.network(problem.image), problem.label[:, 0])
    assert torch.allclose(DenseLossClassifier(problem).loss(problem.image), expected[None])


def test_a_flattened_image_reaches_the_network_in_its_shape() -> None:
    problem = _problem()
    flat = DenseLossClassifier(problem, shape=tuple(problem.image.shape[1:]))
    assert torch.equal(flat(problem.image.flatten(2).unsqueeze(2)), DenseLossClassifier(problem)(problem.image))


def test_the_adapter_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="loss must be one of"):
        DenseLossClassifier(_problem("hinge"))
    with pytest.raises(ValueError, match="the 1 samples of the label, got 2"):
        DenseLossClassifier(_problem())(torch.rand(2, 1, 16, 16, 16))


def test_passes_are_counted_by_whether_they_ask_for_a_gradient() -> None:
    network = CountedNetwork(unet((4, 8)))
    image = torch.rand(1, 1, 16, 16, 16)
    network(image)
    for _ in range(4):
        network(image.clone().requires_grad_(True))
    with torch.no_grad():
        network(image.clone().requires_grad_(True))
    assert (network.forwards, network.with_gradient, len(network.steps())) == (6, 4, 2)
    network.reset()
    assert (network.forwards, network.with_gradient) == (0, 0)


def test_a_library_that_leaves_the_network_in_training_mode_is_an_error() -> None:
    def train(problem: Problem, passes: int) -> torch.Tensor:
        problem.network.train()
        return problem.image

    with pytest.raises(RuntimeError, match="left the network in training mode"):
        PeerAttack("bad", train)(_problem(), 1)
    with pytest.raises(RuntimeError, match="returned"):
        PeerAttack("bad", lambda problem, passes: problem.image[0])(_problem(), 1)


def test_a_library_that_is_absent_or_broken_is_one_line(monkeypatch) -> None:
    absent = Peer("no-such-library", "no_such_library.attacks", "nothing", "pip install it")
    broken = Peer("torch", "torch", "no_such_adapter")
    monkeypatch.setattr(registry, "PEERS", (absent, broken))
    found, lines = loaded_attacks("constant")
    assert found == []
    assert lines[0] == "no-such-library: not installed (pip install it)."
    assert lines[1].startswith(f"torch {torch.__version__}".split("+")[0]) and "cannot be imported" in lines[1]


def _attacks(*kinds: str) -> list[PeerAttack]:
    return [attack for _, attack in loaded_attacks(*kinds)[0]]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("trainable", [False, True])
def test_a_library_keeps_the_budget_and_the_number_of_passes(peer: Peer, trainable: bool) -> None:
    pytest.importorskip(peer.module, exc_type=Exception)
    for attack in peer.attacks():
        problem = _problem()
        problem.network.requires_grad_(trainable)
        adversarial = attack(problem, PASSES)
        counted: nn.Module = problem.network
        assert counted.with_gradient == PASSES, attack.name
        if attack.kind in ("constant", "adaptive"):
            change = (adversarial - problem.image).abs()
            assert 0.5 * EPSILON < float(change.max()) <= EPSILON * 1.001, attack.name
            assert 0 <= float(adversarial.min()) and float(adversarial.max()) <= 1
            with torch.no_grad():
                before, after = (DenseLossClassifier(problem).loss(one) for one in (problem.image, adversarial))
            assert float(after) > float(before), attack.name


def test_fgsm_and_pgd_are_those_of_torchattacks_to_the_bit() -> None:
    """Sums of these numbers are exact, so that the order in which they are added changes nothing."""
    torchattacks = pytest.importorskip("torchattacks", exc_type=Exception)
    network = unet((4, 8))
    image, label = volume((16, 16, 16), "cpu", batch=2)
    image = ((0.2 + 0.6 * image.clamp(0, 1)) * 1024).round() / 1024
    radius, model = 1 / 64, AttackedModel(network, precision="float32")
    options = {"objective": "cross_entropy", "random_start": False}
    theirs = torchattacks.FGSM(network, eps=radius)(image, label[:, 0])
    assert torch.equal(FGSM(radius, objective="cross_entropy")(model, image, label).adversarial, theirs)
    theirs = torchattacks.PGD(network, eps=radius, alpha=radius / 4, steps=8, random_start=False)(image, label[:, 0])
    assert torch.equal(PGD(radius, steps=8, step_size=radius / 4, **options)(model, image, label).adversarial, theirs)


def test_auto_pgd_with_its_authors_checkpoints_goes_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What their code does otherwise than the paper is the rounding of the checkpoints: after a halving, too, both are
    at the same points. With more moves the last gains are as small as the rounding of float32, which then decides."""
    pytest.importorskip("autoattack.autopgd_base", exc_type=Exception)
    from benchmarks.peers import auto_attack

    losses = []

    class Noting(DenseLossClassifier):
        def loss(self, image: torch.Tensor) -> torch.Tensor:
            found = super().loss(image)
            losses.append(found.detach())
            return found

    monkeypatch.setattr(auto_attack, "DenseLossClassifier", Noting)
    problem, moves = _problem(), 20
    # Theirs stays between 0 and 1, ours where the model has no window does not.
    problem = replace(problem, image=0.2 + 0.6 * problem.image.clamp(0, 1))
    auto_attack.best_point(problem, moves, problem.image)
    search = AutoPGD(schedule="constant", rounding="down")
    attack = Attack(AdditiveNoise(EPSILON), "cross_entropy", search=search, steps=moves, random_start=False)
    ours = attack(AttackedModel(problem.network, precision="float32"), problem.image, problem.label)
    theirs = torch.stack(losses)
    assert len(ours.objective_history) == len(theirs) == moves + 1
    assert torch.allclose(ours.objective_history, theirs, atol=1e-4)


def test_libraries_of_constant_steps_find_our_voxels() -> None:
    attacks = {attack.name: attack for attack in _attacks("constant")}
    names = [name for name in ("torchattacks PGD", "foolbox PGD", "ART PGD") if name in attacks]
    if not names:
        pytest.skip("none of the libraries is installed")
    problem = _problem()
    ours = PGD(EPSILON, steps=PASSES, step_size=EPSILON / 4, objective="cross_entropy", random_start=False)
    problem.network.requires_grad_(False)
    loss = DenseLossClassifier(problem).loss
    best = float(
        loss(ours(AttackedModel(problem.network, precision="float32"), problem.image, problem.label).adversarial)
    )
    images = [attacks[name](problem, PASSES) for name in names]
    for name, image in zip(names, images, strict=True):
        assert torch.allclose(image, images[0], atol=1e-6), name
        assert float(loss(image)) == pytest.approx(best, abs=2e-3), name
