# SPDX-License-Identifier: Apache-2.0
"""Purification by diffusion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from monai_adversarial.networks.diffusion_denoiser import PURIFICATION_SCHEDULE
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.diffusion import DiffusionPurification, DiffusionPurificationd
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.hashing import describe
from tests.helpers import random_image
from tests.purifiers.learned_networks import WINDOW, make, small_network

CONTEXT = ImageContext(None, (1,))


class NoNoise(nn.Module):
    """Takes every noise for signal, and remembers the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, int]] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.calls.append((x.detach().clone(), int(timesteps[0])))
        return torch.zeros_like(x)


class GaussianDenoiser(nn.Module):
    """The best estimate of the noise where images are Gaussian around ``mean`` with variance ``variance``."""

    def __init__(self, mean: float, variance: float) -> None:
        super().__init__()
        self.mean, self.variance = mean, variance
        self.abar = DDIMScheduler(**PURIFICATION_SCHEDULE).alphas_cumprod.double()

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        abar = self.abar[int(timesteps[0])].to(x.dtype)
        return (x - abar.sqrt() * self.mean) * (1 - abar).sqrt() / (abar * self.variance + 1 - abar)


def calls_of(purifier: DiffusionPurification) -> list[tuple[torch.Tensor, int]]:
    (inner,) = purifier._copies.values()
    return inner.calls  # type: ignore[return-value]


def test_noise_is_in_hounsfield_units() -> None:
    image = torch.full((1, 1, 32, 32, 32), 0.5)
    for noise in (5.0, 12.0, 40.0):
        purifier = DiffusionPurification(noise=noise, network=NoNoise(), intensity=WINDOW)
        # x_t / sqrt(abar) is given back where the network finds no noise
        added = purifier.purify(image, CONTEXT) - image
        assert float(added.std()) * 400 == pytest.approx(noise, rel=0.03)
        assert abs(float(added.mean())) * 400 < 0.1 * noise
        in_hu = DiffusionPurification(noise=noise, network=NoNoise()).purify(image * 400 - 160, CONTEXT)
        assert float(in_hu.std()) == pytest.approx(noise, rel=0.03)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_steps_are_equal_and_end_without_noise(steps: int) -> None:
    purifier = DiffusionPurification(noise=10.0, steps=steps, network=NoNoise(), intensity=WINDOW)
    purifier.purify(torch.full((1, 1, 8, 8, 8), 0.5), CONTEXT)
    times = [time for _, time in calls_of(purifier)]
    assert len(times) == steps
    distances = {a - b for a, b in zip(times, times[1:], strict=False)}
    assert len(distances) <= 1 and (not distances or times[-1] < distances.pop())


@pytest.mark.parametrize("steps", [1, 4])
def test_with_the_best_denoiser_the_result_is_the_posterior_mean(steps: int) -> None:
    image = 0.5 + 0.02 * torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    purifier = DiffusionPurification(noise=10.0, steps=steps, network=GaussianDenoiser(0.5, 0.02**2), intensity=WINDOW)
    out = purifier.purify(image, CONTEXT)
    abar = float(purifier._scheduler.alphas_cumprod[purifier._start])
    level = (1 - abar) / abar
    draw = torch.randn((1, 8, 8, 8), generator=CONTEXT.generators("cpu", 1)[0]).double()
    noisy = image + level**0.5 * draw
    if steps == 1:
        expected = 0.5 + (noisy - 0.5) * 0.02**2 / (0.02**2 + level)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    else:  # many steps follow the probability flow, which shrinks by the ratio of standard deviations
        expected = 0.5 + (noisy - 0.5) * (0.02**2 / (0.02**2 + level)) ** 0.5
        one = 0.5 + (noisy - 0.5) * 0.02**2 / (0.02**2 + level)
        assert float((out - expected).abs().mean()) < 0.5 * float((out - one).abs().mean())


def test_draws_depend_on_the_sample_and_the_draw_in_force() -> None:
    purifier = make(DiffusionPurification)
    image = random_image((1, 1, 8, 8, 8)).expand(2, 1, 8, 8, 8)
    both = purifier.purify(image, ImageContext(None, (1, 2)))
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(purifier.purify(image[:1], ImageContext(None, (2,)))[0], both[1], rtol=1e-4, atol=1e-5)
    with random_draw(7):
        other = purifier.purify(image[:1], CONTEXT)
        assert torch.equal(purifier.purify(image[:1], CONTEXT), other)
    assert not torch.allclose(other[0], both[0])
    before = torch.random.get_rng_state()
    purifier.purify(image[:1], CONTEXT)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_float32_and_float64_see_the_same_draw() -> None:
    purifier, image = make(DiffusionPurification), random_image((1, 1, 8, 8, 8)) * 0.5 + 0.25
    torch.testing.assert_close(
        purifier.purify(image, CONTEXT), purifier.purify(image.double(), CONTEXT).float(), rtol=0, atol=1e-4
    )


def test_several_steps_keep_one_step_in_memory_and_have_the_same_gradient() -> None:
    image = (random_image((1, 1, 8, 8, 8), dtype=torch.float64) * 0.5 + 0.25).requires_grad_()
    purifier = make(DiffusionPurification, steps=3)

    def saved_bytes(run) -> tuple[int, torch.Tensor]:
        sizes = []

        def saved(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            out = run()
        return sum(sizes), torch.autograd.grad(out.square().sum(), image)[0]

    checkpointed, gradient = saved_bytes(lambda: purifier.purify(image, CONTEXT))

    def plain(sample: torch.Tensor, network) -> torch.Tensor:
        for time in purifier.times:  # type: ignore[attr-defined]
            sample = purifier._step(sample, time, network)  # type: ignore[attr-defined]
        return sample

    purifier._reverse = plain  # type: ignore[attr-defined]
    full, expected = saved_bytes(lambda: purifier.purify(image, CONTEXT))
    torch.testing.assert_close(gradient, expected)
    assert checkpointed < full / 5


def test_patches_agree_with_the_whole_volume_for_a_local_network() -> None:
    image = (random_image((2, 1, 20, 12, 14)) * 0.5 + 0.25).requires_grad_()
    context = ImageContext(None, (1, 2))
    network = GaussianDenoiser(0.5, 0.02**2)
    whole, patches = (
        DiffusionPurification(steps=2, patch_size=size, network=network, intensity=WINDOW) for size in (None, 8)
    )
    expected = whole.purify(image, context)
    out = patches.purify(image, context)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    weights = random_image((2, 1, 20, 12, 14), seed=5)
    gradients = [torch.autograd.grad((result * weights).sum(), image)[0] for result in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_a_patch_larger_than_the_volume() -> None:
    purifier = make(DiffusionPurification, patch_size=16)
    image = random_image((1, 1, 8, 18, 10))
    assert purifier.purify(image, CONTEXT).shape == image.shape


def test_as_a_transform_it_follows_its_random_state() -> None:
    form: Any = DiffusionPurificationd("image", network=small_network(DiffusionPurification), intensity=WINDOW)
    item = {"image": random_image((1, 8, 8, 8))}
    first = form.set_random_state(3)(item)["image"]
    second = form(item)["image"]
    assert torch.equal(form.set_random_state(3)(item)["image"], first) and not torch.equal(first, second)


def test_a_shared_scheduler_is_neither_changed_nor_shared() -> None:
    scheduler = DDIMScheduler(**PURIFICATION_SCHEDULE, clip_sample=False)
    before = scheduler.num_inference_steps
    image = torch.full((1, 1, 8, 8, 8), 0.5, dtype=torch.float64)
    options: dict[str, Any] = {"network": GaussianDenoiser(0.5, 0.02**2), "intensity": WINDOW, "noise": 10.0}
    first = DiffusionPurification(steps=4, scheduler=scheduler, **options)
    expected = first.purify(image, CONTEXT)
    second = DiffusionPurification(steps=1, scheduler=scheduler, **options)
    assert scheduler.num_inference_steps == before
    assert torch.equal(first.purify(image, CONTEXT), expected)
    assert not torch.allclose(second.purify(image, CONTEXT), expected)
    assert torch.equal(DiffusionPurification(steps=4, **options).purify(image, CONTEXT), expected)


def test_descriptions_tell_schedules_and_times_apart() -> None:
    def described(steps: int = 1, **changed: Any) -> Any:
        scheduler = DDIMScheduler(**{**PURIFICATION_SCHEDULE, "clip_sample": False, **changed})
        return describe(DiffusionPurification(network=NoNoise(), steps=steps, scheduler=scheduler))

    plain = described()
    assert plain == described() == describe(DiffusionPurification(network=NoNoise()))
    # 1e-7 more noise at the end of the schedule; how the network's output is read; the end of the reverse process
    others = [
        described(beta_end=4.46e-5),
        described(prediction_type="sample"),
        described(set_alpha_to_one=False),
        described(clip_sample=True),
    ]
    assert len({str(other["schedule_hash"]) for other in (plain, *others)}) == 5
    three = described(steps=3)
    assert three["schedule_hash"] == plain["schedule_hash"] and len(three["times"]) == 3
    assert plain["times"] == three["times"][:1]


def test_patch_sizes_that_cannot_be_are_one_sentence() -> None:
    for wrong in (0, -8, 8.0, True, "8", (8, 0), (), (8, 8, 8, 8), (8, "8")):
        with pytest.raises(
            ValueError, match="patch_size must be an integer >= 1, or one per spatial dimension"
        ) as info:
            make(DiffusionPurification, patch_size=wrong)
        assert str(info.value).endswith(f"got {wrong!r}.")
    with pytest.raises(ValueError, match=r"patch_size must be .* of the image \(3\), got \(8, 8\)\."):
        make(DiffusionPurification, patch_size=[8, 8]).purify(random_image((1, 1, 8, 8, 8)), CONTEXT)
    assert make(DiffusionPurification, patch_size=[8, 8, 4]).patch_size == (8, 8, 4)  # type: ignore[attr-defined]


def test_bad_arguments_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="noise must be at most 60 HU, where the schedule ends, got 100"):
        make(DiffusionPurification, noise=100)
    with pytest.raises(ValueError, match="noise must be a finite number > 0, got 0"):
        make(DiffusionPurification, noise=0)
    with pytest.raises(TypeError, match="scheduler must be a DDIMScheduler such as .*, got 'ddim'"):
        make(DiffusionPurification, scheduler="ddim")
    with pytest.raises(TypeError, match="scheduler must be a DDIMScheduler such as .*, got the class DDIMScheduler"):
        make(DiffusionPurification, scheduler=DDIMScheduler)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        make(DiffusionPurification, steps=0)
    with pytest.raises(ValueError, match="seeds must have one integer per sample"):
        make(DiffusionPurification).purify(random_image((2, 1, 8, 8, 8)), CONTEXT)
