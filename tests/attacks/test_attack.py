# SPDX-License-Identifier: Apache-2.0
"""The loop: strength against closed forms, budgets, isolated samples, and a network that is left as it was found."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.attacks import (
    APGD,
    BIM,
    FGSM,
    MIFGSM,
    PGD,
    AdditiveNoise,
    Attack,
    AutoPGD,
    BackwardPassSubstitute,
    ExactGradient,
    ExpectationOverTransformation,
    ProjectedAdam,
)
from monai_adversarial.attacks.gradients import GradientEstimator
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.models import AttackedModel
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 8, 9, 7)
EVEN = (2, 1, 8, 8, 8)


def exact(network, inferer=None, **options) -> AttackedModel:
    """The model in float32 with torch's own kernels: what closed forms are compared with."""
    return AttackedModel(network, inferer, precision="float32", **options)


def trained_like_network(seed: int = 0) -> nn.Module:
    """A small U-Net with batch normalization and dropout, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 1, 3, (4, 8), (2,), num_res_units=1, norm="BATCH", dropout=0.3)
    return network.train()


def snapshot(network: nn.Module) -> dict:
    return {
        "state": copy.deepcopy(network.state_dict()),
        "modes": [module.training for module in network.modules()],
        "needs": [weight.requires_grad for weight in network.parameters()],
        "grads": [None if weight.grad is None else weight.grad.clone() for weight in network.parameters()],
        "rng": torch.get_rng_state(),
    }


def assert_unchanged(network: nn.Module, before: dict) -> None:
    after = snapshot(network)
    assert all(torch.equal(before["state"][key], after["state"][key]) for key in before["state"])
    assert before["modes"] == after["modes"]
    assert before["needs"] == after["needs"]
    assert all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(before["grads"], after["grads"], strict=True)
    )
    assert torch.equal(before["rng"], after["rng"])


def test_one_sign_step_is_optimal_on_a_linear_model():
    image = torch.full(SHAPE, 0.1)
    label = torch.ones(SHAPE, dtype=torch.long)
    result = FGSM(0.25, objective=Margin(math.inf))(exact(LinearNetwork((-1.0, 2.0))), image, label)
    torch.testing.assert_close(result.adversarial, image - 0.25)
    # margin = (-1 - 2) * voxel, at voxel -0.15
    torch.testing.assert_close(result.objective, torch.full((2,), 0.45))
    assert result.success.all()


@pytest.mark.parametrize("recipe", [PGD, BIM, MIFGSM, APGD])
def test_every_recipe_finds_the_optimum_of_a_linear_model(recipe):
    image = random_image(SHAPE)
    label = random_label(SHAPE, classes=2)
    result = recipe(0.125, steps=12, objective="ce")(exact(LinearNetwork()), image, label)
    optimum = image + 0.125 * torch.where(label == 1, -1.0, 1.0)
    torch.testing.assert_close(result.adversarial, optimum, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_euclidean_ball_optimum_of_a_linear_objective_is_along_the_gradient(norm):
    weights = torch.linspace(0.5, 2.0, 9)

    def predict(image):
        score = image * weights.view(1, 1, 1, 9, 1)
        return torch.cat([-score, score], dim=1)

    image = random_image(SHAPE, dtype=torch.float64)
    label = torch.ones(SHAPE, dtype=torch.long)
    attack = PGD(0.5, norm=norm, steps=30, objective=Margin(math.inf), random_start=True)
    noise = attack(predict, image, label).adversarial - image
    direction = -weights.double().view(1, 1, 1, 9, 1).expand(SHAPE)
    radius = 0.5 * (image[0].numel() ** 0.5 if norm == "rms" else 1.0)
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((2,), radius, dtype=torch.float64))
    assert (nn.functional.cosine_similarity(noise.flatten(1), direction.flatten(1)) > 0.9999).all()


@pytest.mark.parametrize("search", [None, ProjectedAdam(0.2), ProjectedAdam(0.2, amsgrad=True)])
def test_quadratic_objective_is_solved_inside_the_ball(search):
    """Logit difference -(x - center)^2 of the wrong class: the best voxel is the center itself, not a corner of the
    box."""
    center = random_image(SHAPE, seed=3) * 0.1

    def predict(image):
        score = -((image - center) ** 2)
        return torch.cat([torch.zeros_like(score), score], dim=1)

    image = torch.zeros(SHAPE)
    label = torch.zeros(SHAPE, dtype=torch.long)
    attack = PGD(0.2, steps=60, step_size=0.004, objective=Margin(math.inf)) if search is None else None
    attack = attack or Attack(AdditiveNoise(0.2), Margin(math.inf), search, steps=80)
    result = attack(predict, image, label)
    assert (result.adversarial - center).abs().mean() < 0.02
    assert (result.adversarial - center).abs().mean() < 0.5 * (center - image).abs().mean()


def test_stronger_with_budget_steps_and_restarts_and_than_random():
    network = tiny_segmentation_network()
    image, label = random_image(SHAPE), random_label(SHAPE)

    def value(**options):
        return APGD(**{"epsilon": 0.05, "steps": 8, "seed": 1, "objective": "ce", **options})(
            exact(network), image, label
        ).objective

    small, middle, large = (value(epsilon=e) for e in (0.01, 0.03, 0.1))
    assert (small < middle).all() and (middle < large).all()
    assert (value(steps=1) <= value(steps=25) + 1e-6).all()
    assert (value(restarts=1) <= value(restarts=3) + 1e-6).all()

    result = PGD(0.05, objective="ce")(exact(network), image, label)
    loss = nn.CrossEntropyLoss(reduction="none")
    random = loss(network(result.random_control()[0]), label[:, 0]).flatten(1).mean(1)
    clean = loss(network(image), label[:, 0]).flatten(1).mean(1)
    attacked = loss(network(result.adversarial), label[:, 0]).flatten(1).mean(1)
    assert ((attacked - clean) > 3 * (random - clean).abs()).all()
    torch.testing.assert_close(attacked, result.objective)


@pytest.mark.parametrize("objective", ["ce", "balanced_masked_cross_entropy"])
def test_search_judges_its_steps_by_what_may_be_compared_between_them(objective):
    # The masked loss shrinks when more voxels are wrong: Auto-PGD would halve its step for doing well.
    seen = []

    class Watched(AutoPGD):
        def begin(self, bound, steps):
            run = super().begin(bound, steps)
            advance = run.advance
            run.advance = lambda p, g, values, step: (seen.append(values.clone()), advance(p, g, values, step))[1]
            return run

    result = Attack(AdditiveNoise(0.05), objective, Watched(), steps=6)(
        exact(tiny_segmentation_network()), random_image(SHAPE), random_label(SHAPE)
    )
    torch.testing.assert_close(torch.stack(seen), result.objective_history[:-1])


def test_best_iterate_is_kept_per_sample():
    result = PGD(0.5, steps=12, step_size=0.45, objective="ce")(
        exact(tiny_segmentation_network(seed=2)), random_image(SHAPE), random_label(SHAPE)
    )
    torch.testing.assert_close(result.objective, result.objective_history.amax(dim=0))
    assert result.objective_history.shape == (13, 2)


@pytest.mark.parametrize("fail", [False, True])
def test_network_is_left_exactly_as_found(fail):
    network = trained_like_network()
    network(random_image(EVEN)).sum().backward()
    next(network.parameters()).requires_grad_(False)
    before = snapshot(network)
    attack = PGD(0.05, steps=3, objective=ExplodingObjective() if fail else "dice_ce")
    if fail:
        with pytest.raises(RuntimeError, match="exploded"):
            attack(network, random_image(EVEN), random_label(EVEN))
    else:
        attack(network, random_image(EVEN), random_label(EVEN))
    assert_unchanged(network, before)


def ExplodingObjective():
    from monai_adversarial.attacks import Objective

    class Exploding(Objective):
        def value(self, logits, target, progress, targeted=False):
            if progress.step == 1:
                raise RuntimeError("exploded")
            return logits.flatten(1).mean(dim=1)

    return Exploding()


@pytest.mark.parametrize("recipe", [PGD, APGD, MIFGSM])
@pytest.mark.parametrize("early_stop", [False, True])
def test_result_does_not_depend_on_batch_size_or_order(recipe, early_stop):
    network = exact(tiny_segmentation_network())
    image, label = random_image((3, *SHAPE[1:])), random_label((3, *SHAPE[1:]))
    attack = recipe(0.08, steps=6, early_stop=early_stop, success_threshold=0.9, random_start=True)
    together = attack(network, image, label)
    for order in ([0], [2, 1], [1, 2, 0]):
        some = attack(network, image[order], label[order])
        torch.testing.assert_close(some.adversarial, together.adversarial[order], atol=1e-6, rtol=0)


def test_early_stop_saves_work_and_agrees_on_success():
    network = tiny_segmentation_network()
    image = random_image((3, *SHAPE[1:]))
    label = network(image).argmax(dim=1, keepdim=True)
    options = {"epsilon": 0.5, "steps": 20, "success_threshold": 0.8}
    full = PGD(**options)(exact(network), image, label)
    early = PGD(**options, early_stop=True)(exact(network), image, label)
    assert full.success.all() and early.success.all()
    assert early.backwards < full.backwards


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_works_for_callers_without_gradients(caller):
    network = tiny_segmentation_network()
    with caller():
        image = random_image(SHAPE) + 0.0
        result = PGD(0.05, steps=2)(exact(network), image, random_label(SHAPE))
    assert (result.adversarial - image).abs().max() <= 0.05 + 1e-6
    assert (result.adversarial != image).any()
    assert not result.adversarial.requires_grad


def test_metatensor_keeps_its_metadata_and_type():
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(random_image((1, 1, 8, 8, 8)), affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    label = MetaTensor(random_label((1, 1, 8, 8, 8)).to(torch.uint8), affine=affine)
    result = PGD(0.05, steps=2)(tiny_segmentation_network(), image, label)
    assert isinstance(result.adversarial, MetaTensor) and isinstance(result.label, MetaTensor)
    assert result.adversarial.meta["filename_or_obj"] == "case.nii.gz"
    assert torch.equal(result.adversarial.affine, affine)
    assert result.label.dtype == torch.uint8 and torch.equal(result.label.as_tensor(), label.as_tensor())


def test_batch_of_metatensors_with_their_own_affines():
    affine = torch.stack([torch.diag(torch.tensor([s, s, 3.0, 1.0], dtype=torch.float64)) for s in (1.0, 2.0)])
    image = MetaTensor(random_image(SHAPE), affine=affine)
    result = PGD(0.05, steps=2)(tiny_segmentation_network(), image)
    assert result.bound.scene.spacing.tolist() == [[1.0, 1.0, 3.0], [2.0, 2.0, 3.0]]


def test_budget_in_hu_is_the_same_attack_in_both_domains():
    """The map inside the attacked function (images in HU) and the map that only converts (images in network values)
    agree."""
    network = tiny_segmentation_network()
    window = {"a_min": -160.0, "a_max": 240.0}
    hounsfield = random_image(SHAPE) * 300 - 100  # inside the window
    label = random_label(SHAPE)
    attack = PGD(8.0, "HU", random_start=False)
    in_hounsfield = attack(exact(network, intensity=window, image_units="HU"), hounsfield, label)
    in_network = attack(exact(network, intensity=window, image_units="network"), (hounsfield + 160) / 400, label)
    assert float(in_hounsfield.budgets["noise_linf"].values.max()) == pytest.approx(8.0, abs=1e-3)
    assert float(in_network.budgets["noise_linf"].values.max()) == pytest.approx(8.0, abs=1e-3)
    torch.testing.assert_close(in_network.adversarial * 400 - 160, in_hounsfield.adversarial, atol=0.05, rtol=0)


def test_whole_numbers_stay_inside_a_fractional_budget():
    image = (random_image(SHAPE) * 300 - 100).round()
    model = AttackedModel(
        tiny_segmentation_network(),
        intensity={"a_min": -160, "a_max": 240},
        image_units="HU",
        round_to_integer=True,
    )
    result = PGD(2.5, "HU", steps=3)(model, image, random_label(SHAPE))
    change = result.adversarial - image
    assert torch.equal(result.adversarial, result.adversarial.round())
    assert change.abs().max() == 2.0


@settings(max_examples=20, deadline=None)
@given(
    epsilon=st.floats(0, 0.5),
    steps=st.integers(1, 4),
    step=st.floats(0.01, 1.0),
    norm=st.sampled_from(["linf", "l2", "rms"]),
    shape=st.lists(st.integers(2, 6), min_size=1, max_size=3),
    batch=st.integers(1, 3),
)
def test_no_budget_is_ever_exceeded(epsilon, steps, step, norm, shape, batch):
    image, label = random_image((batch, 1, *shape)), random_label((batch, 1, *shape), classes=2)
    result = PGD(epsilon, norm=norm, steps=steps, step_size=step)(LinearNetwork(), image, label)
    change = (result.adversarial - image).double().flatten(1)
    size = {"linf": change.abs().amax(1), "l2": change.norm(dim=1), "rms": change.square().mean(1).sqrt()}[norm]
    assert (size <= epsilon * (1 + 1e-4) + 1e-6).all()


def test_epsilon_zero_is_the_identity():
    image = random_image(SHAPE)
    assert torch.equal(PGD(0.0, steps=2)(LinearNetwork(), image).adversarial, image)


def test_without_label_the_clean_prediction_is_the_reference():
    network = tiny_segmentation_network()
    image = random_image(SHAPE)
    free = PGD(0.05, steps=3)(exact(network), image)
    prediction = network(image).argmax(dim=1, keepdim=True)
    given_label = PGD(0.05, steps=3)(exact(network), image, prediction)
    assert free.reference_is_prediction and not given_label.reference_is_prediction
    assert torch.equal(free.label, prediction)
    assert torch.equal(free.adversarial, given_label.adversarial)
    assert (free.clean_dice == 1).all()


def test_targeted_attack_reaches_the_wanted_segmentation():
    network = LinearNetwork()
    image = random_image(SHAPE) - 0.5
    wanted = (random_image(SHAPE, seed=5) > 0.5).long()
    result = PGD(1.0, steps=20, targeted=True, objective="ce", success_threshold=0.95)(exact(network), image, wanted)
    assert result.success.all()
    assert torch.equal(network(result.adversarial).argmax(dim=1, keepdim=True), wanted)


def test_region_limits_where_voxels_change_and_objective_region_where_they_count():
    network, image = LinearNetwork(), random_image(SHAPE)
    label = torch.ones(SHAPE, dtype=torch.long)
    region = torch.zeros(SHAPE, dtype=torch.bool)
    region[:, :, :3] = True
    attack = PGD(0.1, steps=4, objective="ce", random_start=False)
    change = (attack(exact(network), image, label, region=region).adversarial - image).abs()
    assert (change[~region] == 0).all() and (change[region] > 0.09).all()
    change = (attack(exact(network), image, label, objective_region=region).adversarial - image).abs()
    assert (change[~region] == 0).all() and (change[region] > 0.09).all()


def test_attack_through_a_sliding_window_is_the_attack_on_the_stitched_function():
    network, image, label = (
        tiny_segmentation_network(),
        random_image((1, 1, 12, 12, 12)),
        random_label((1, 1, 12, 12, 12)),
    )
    inferer = SlidingWindowInferer(8, 2, 0.5, mode="gaussian")
    attack = PGD(0.05, steps=3, gradient=ExactGradient())
    bounded = attack(exact(network, inferer), image, label)
    naive = attack(exact(lambda x: inferer(x, network)), image, label)
    torch.testing.assert_close(bounded.adversarial, naive.adversarial, atol=1e-6, rtol=0)
    torch.testing.assert_close(bounded.objective_history, naive.objective_history)


def test_counts_of_forwards_and_backwards():
    result = PGD(0.05, steps=4, restarts=2)(tiny_segmentation_network(), random_image(SHAPE), random_label(SHAPE))
    assert result.backwards == 2 * 8
    # per sample: clean, 8 gradients, the last point of each restart; the last of them is the finished image where it is
    # the best
    again = int(not torch.equal(result.objective_history[-1], result.objective))
    assert result.forwards == 2 * (1 + 8 + 2 + again)
    assert result.queries == result.forwards - result.backwards


def test_frozen_voxels_are_reported():
    image, label = random_image(SHAPE), torch.ones(SHAPE, dtype=torch.long)

    def half_blind(x):
        seen = x * (torch.arange(SHAPE[2]) < 4).view(1, 1, -1, 1, 1)
        return torch.cat([-seen, seen], dim=1)

    result = PGD(0.1, steps=2, objective="ce")(half_blind, image, label)
    torch.testing.assert_close(result.zero_gradient_fraction, torch.full((2,), 0.5))


def test_bfloat16_finds_the_same_damage():
    network, image = trained_like_network(), random_image((1, 1, 16, 16, 16))
    label = network.eval()(image).argmax(dim=1, keepdim=True)
    full = PGD(0.05, steps=8)(exact(network), image, label)
    half = PGD(0.05, steps=8)(AttackedModel(network, precision="bfloat16"), image, label)
    assert half.adversarial.dtype == torch.float32
    assert abs(float(half.adversarial_dice - full.adversarial_dice)) < 0.05


def test_a_second_gradient_estimator_can_be_plugged_in():
    class Counting(GradientEstimator):
        calls = 0

        def evaluate(self, function, parameters, scale=1.0):
            self.calls += 1
            return ExactGradient().evaluate(function, parameters, scale)

    counting = Counting()
    Attack(AdditiveNoise(0.1), gradient=counting, steps=5)(LinearNetwork(), random_image(SHAPE))
    assert counting.calls == 5


def test_hand_written_loop_is_matched_bit_for_bit():
    network, image, label = tiny_segmentation_network(), random_image(SHAPE, dtype=torch.float64), random_label(SHAPE)
    network = network.double()
    attack = PGD(0.05, steps=4, step_size=0.02, objective="ce", random_start=False)
    result = attack(network, image, label)
    delta = torch.zeros_like(image)
    for _ in range(4):
        delta.requires_grad_()
        loss = nn.functional.cross_entropy(network(image + delta), label[:, 0], reduction="none").flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(loss.sum(), delta)
        delta = (delta.detach() + 0.02 * gradient.sign()).clamp(-0.05, 0.05)
    torch.testing.assert_close(result.adversarial, image + delta, atol=1e-12, rtol=0)


IMAGE, LABEL = random_image((1, 1, 6, 6, 6)), random_label((1, 1, 6, 6, 6))


def nan_image():
    image = IMAGE.clone()
    image[0, 0, 0, 0, 0] = float("nan")
    return image


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda a, n: a(n, IMAGE[0, 0, 0]), ValueError, "image must have shape"),
        (lambda a, n: a(n, IMAGE[None]), ValueError, "image must have shape"),
        (lambda a, n: a(n, nan_image()), ValueError, "image must be finite, got 1 NaN"),
        (lambda a, n: a(n, IMAGE > 0.5), TypeError, "image must hold numbers, got True and False"),
        (lambda a, n: a(n, IMAGE.to(torch.complex64)), TypeError, "image must hold real numbers"),
        (lambda a, n: a(n, IMAGE.tolist()), TypeError, "image must be a torch.Tensor, MetaTensor or NumPy array"),
        (lambda a, n: a(n, IMAGE, LABEL + 1), ValueError, "class indices 0 to 2 for a network with 3"),
        (lambda a, n: a(n, IMAGE, LABEL - 1), ValueError, "class indices >= 0, got -1"),
        (lambda a, n: a(n, IMAGE, LABEL + 0.5), ValueError, "whole numbers"),
        (lambda a, n: a(n, IMAGE, LABEL[..., :4]), ValueError, "label must have shape"),
        (lambda a, n: a(n, IMAGE, LABEL.repeat(1, 2, 1, 1, 1)), ValueError, "one-hot with 2 channels"),
        (lambda a, n: a(n, IMAGE, region=torch.zeros_like(IMAGE)), ValueError, "region must select at least one voxel"),
        (lambda a, n: a(n, IMAGE, region=torch.ones(1, 1, 3, 3, 3)), ValueError, "region must have shape"),
        (lambda a, n: a(lambda x: n(x)[..., :3], IMAGE), ValueError, "must return logits of shape"),
        (lambda a, n: a(lambda x: {"logits": n(x)}, IMAGE), TypeError, "pass output="),
        (lambda a, n: a(lambda x: n(x).argmax(1, keepdim=True), IMAGE), TypeError, "floating point logits"),
        (lambda a, n: a(lambda x: n(x).detach(), IMAGE), RuntimeError, "differentiable"),
        (lambda a, n: a(lambda x: n(x) * float("nan"), IMAGE), ValueError, "NaN or infinite logits"),
        (lambda a, n: a(n.half(), IMAGE), ValueError, "weights must be float32, got torch.float16"),
        (lambda a, n: a("network", IMAGE), TypeError, "must be a torch.nn.Module or a callable"),
        (lambda a, n: a(n, IMAGE, spacing=(1.0, 2.0)), ValueError, "spacing must give 3 values"),
        (lambda a, n: a(n, IMAGE, spacing=(1.0, 0.0, 1.0)), ValueError, "spacing must be finite and > 0"),
        (lambda a, n: a(n, IMAGE, spacing="4"), ValueError, "spacing must be numbers in mm, got '4'."),
    ],
)
def test_bad_input_stops_early_with_one_sentence(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call(PGD(0.1, steps=1), tiny_segmentation_network())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": -1.0}, "epsilon must be a finite number >= 0"),
        ({"epsilon": float("nan")}, "epsilon must be"),
        ({"epsilon": "4"}, "epsilon must be a finite number >= 0, got '4'"),
        ({"epsilon": True}, "epsilon must be a finite number >= 0, got True"),
        ({"epsilon": 1.0, "units": "hounsfield"}, "units must be one of 'HU', 'network', 'fraction'"),
        ({"epsilon": 1.0, "norm": "l3"}, "norm must be one of"),
        ({"epsilon": 1.0, "steps": 0}, "steps must be an integer >= 1"),
        ({"epsilon": 1.0, "restarts": 0}, "restarts must be an integer >= 1"),
        ({"epsilon": 1.0, "step_size": 0.0}, "step_size must be"),
        ({"epsilon": 1.0, "objective": "nonsense"}, "objective"),
        ({"epsilon": 1.0, "seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_bad_arguments_stop_at_construction(options, says):
    with pytest.raises(ValueError, match=says):
        PGD(**options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PGD(1.0, gradient="bpda"), "gradient must be a GradientEstimator .*, got 'bpda'."),
        (
            lambda: PGD(1.0, gradient=BackwardPassSubstitute),
            r"gradient must be a GradientEstimator such as BackwardPassSubstitute\(\), got the class "
            r"BackwardPassSubstitute\.",
        ),
        (lambda: PGD(1.0, gradient=AutoPGD()), "gradient must be a GradientEstimator .*, got AutoPGD."),
        (
            lambda: Attack(AdditiveNoise(1.0), search=AutoPGD),
            r"search must be a Search such as AutoPGD\(\), got the class AutoPGD\.",
        ),
        (
            lambda: ExpectationOverTransformation(20, BackwardPassSubstitute),
            "estimator must be a GradientEstimator .*, got the class BackwardPassSubstitute.",
        ),
        (
            lambda: BackwardPassSubstitute("declared", ExactGradient),
            "estimator must be a GradientEstimator .*, got the class ExactGradient.",
        ),
    ],
)
def test_parts_that_are_something_else_stop_at_construction(make, says):
    with pytest.raises(TypeError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_budget_in_hu_on_a_scaled_image_is_refused():
    with pytest.raises(ValueError, match="looks already scaled"):
        PGD(8.0, "HU", steps=1)(tiny_segmentation_network(), IMAGE)


def test_units_need_the_map():
    with pytest.raises(ValueError, match="pass intensity="):
        PGD(8.0, "HU", steps=1)(AttackedModel(tiny_segmentation_network(), image_units="network"), IMAGE)
    with pytest.raises(ValueError, match="fraction of the intensity window"):
        PGD(0.02, "fraction", steps=1)(tiny_segmentation_network(), IMAGE)
