# SPDX-License-Identifier: Apache-2.0
"""Time of one attack step on a 3D U-Net and a 96 x 96 x 96 volume, against the floor.

The floor is one forward and one backward pass to the input only, frozen weights, float32, torch's own memory handling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import nn
from torch.nn import functional

from benchmarks.timing import Job, StepClock, Stopwatch
from monai_adversarial.attacks import PGD, BiasFieldAttack, ElasticAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.precision import Precision

__all__ = ["step_jobs", "window_jobs"]

CLASSES = 3
SPACING = (1.5, 1.5, 1.5)
STEPS = 6


def unet(channels: tuple[int, ...] = (16, 32, 64, 128, 256), seed: int = 0) -> nn.Module:
    """The U-Net of the benchmarks: random weights, two residual units, frozen, in eval mode."""
    torch.manual_seed(seed)
    network = UNet(3, 1, CLASSES, channels, (2,) * (len(channels) - 1), num_res_units=2).eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network


def volume(shape: tuple[int, ...], device: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform image in [0, 1) and a random class map."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((1, 1, *shape), generator=generator)
    return image.to(device), torch.randint(0, CLASSES, (1, 1, *shape), generator=generator).to(device)


def timed(work: Callable[[], Any], repeats: int = 1) -> Callable[[], list[tuple[float, float]]]:
    """A job's ``run`` that calls ``work`` and takes its time."""

    def run() -> list[tuple[float, float]]:
        samples = []
        for _ in range(repeats):
            watch = Stopwatch()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            samples.append(watch.seconds())
        return samples

    return run


def input_gradient(
    network: nn.Module, image: torch.Tensor, label: torch.Tensor, precision: Precision | None = None
) -> torch.Tensor:
    """One forward and one backward pass to the input only."""
    leaf = image.clone().requires_grad_(True)
    with (precision or Precision("float32", image)).autocast():
        logits = network(leaf)
    return torch.autograd.grad(functional.cross_entropy(logits.float(), label[:, 0]), leaf)[0]


def step_jobs(device: str, size: int, compiled: bool) -> list[Job]:
    """Rows: floor, trainable weights, and the steps of the attacks in their precision modes."""
    network = unet().to(device)
    trainable = unet().to(device).requires_grad_(True)
    image, label = volume((size,) * 3, device)

    def with_weight_gradients() -> None:
        leaf = image.clone().requires_grad_(True)
        functional.cross_entropy(trainable(leaf), label[:, 0]).backward()
        for weight in trainable.parameters():
            weight.grad = None

    def steps(
        attack: Callable[..., Any], *arguments: Any, model: AttackedModel, **options: Any
    ) -> Callable[[], list[tuple[float, float]]]:
        clock = StepClock()
        prepared = attack(*arguments, steps=STEPS, gradient=clock, **options)

        def run() -> list[tuple[float, float]]:
            prepared(model, image, label, spacing=SPACING)
            return clock.steps()

        return run

    automatic, float32 = AttackedModel(network), AttackedModel(network, precision="float32")
    ten = PGD(0.02, steps=10)
    bias: dict[str, Any] = {"max_gain": 0.3, "domain": "image"}
    jobs = [
        Job("floor", timed(lambda: input_gradient(network, image, label), repeats=2)),
        Job("trainable weights and backward(), as most libraries do", timed(with_weight_gradients)),
        Job("PGD step, float32", steps(PGD, 0.02, model=float32), 1.05),
        Job("PGD step, default (auto)", steps(PGD, 0.02, model=automatic), 0.45),
        Job("bias-field step, float32", steps(BiasFieldAttack, model=float32, **bias), 1.1),
        Job("bias-field step, default", steps(BiasFieldAttack, model=automatic, **bias)),
        Job("diffeomorphic elastic step, float32", steps(ElasticAttack, 5.0, model=float32), 1.5),
        Job("diffeomorphic elastic step, default", steps(ElasticAttack, 5.0, model=automatic)),
        Job("whole call of PGD-10, default, / 10", _tenth(timed(lambda: ten(automatic, image, label)))),
    ]
    if compiled:
        compiled_model = AttackedModel(network, compile_network=True)
        best = Job("PGD step, best (auto, compiled)", steps(PGD, 0.02, model=compiled_model), 0.3)
        jobs.insert(4, best)
    return jobs


def _tenth(run: Callable[[], list[tuple[float, float]]]) -> Callable[[], list[tuple[float, float]]]:
    return lambda: [(wall / 10, cpu / 10) for wall, cpu in run()]


def window_jobs(device: str, window: int) -> list[Job]:
    """Rows: a whole-volume step through eight windows, against two forwards and one backward pass per window."""
    network = unet((8, 16, 32, 64)).to(device)
    side = window + window * 3 // 4
    image, label = volume((side,) * 3, device)
    patch, patch_label = volume((window,) * 3, device, seed=1)
    windows = 8
    precision = Precision("float32", image)

    def reference() -> None:
        # Under the same memory handling, so that the ratio is what the method itself adds.
        with keep_freed_memory(device):
            for _ in range(windows):
                with torch.no_grad(), precision.autocast():
                    network(patch)
                input_gradient(network, patch, patch_label, precision)

    def attack_with(inferer: Any) -> Callable[[], list[tuple[float, float]]]:
        clock = StepClock()
        attack = PGD(0.02, steps=4, gradient=clock)
        model = AttackedModel(network, inferer, precision="float32")

        def run() -> list[tuple[float, float]]:
            attack(model, image, label)
            return clock.steps()

        return run

    ours = SlidingWindowInferer(window, sw_batch_size=1, overlap=0.25)
    reference_name = "2 forwards + 1 backward per window"
    return [
        Job(reference_name, timed(reference, repeats=2), reference=reference_name),
        Job("whole-volume step, 8 windows", attack_with(ours), 1.1, reference_name),
        Job("  the same, autograd through the inferer", attack_with(PlainInferer(ours)), None, reference_name),
    ]


class PlainInferer:
    """Hides a MONAI inferer's type, so that the attack differentiates through it as it is."""

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer

    def __call__(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        return self.inferer(image, network)
