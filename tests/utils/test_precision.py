# SPDX-License-Identifier: Apache-2.0
"""Precision modes, fast kernels and the allocator: same results, less time, nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer
from monai_adversarial.utils import allocator, fast_kernels
from monai_adversarial.utils.allocator import (
    give_back_excess,
    give_back_growth,
    keep_freed_memory,
    keep_no_large_blocks,
)
from monai_adversarial.utils.fast_kernels import FastKernels
from monai_adversarial.utils.precision import (
    FLOAT16_LOSS_SCALE,
    FLOAT32_LOSS_SCALE,
    PRECISIONS,
    Precision,
    has_native_bfloat16,
)
from tests.helpers import random_image, tiny_segmentation_network


def _frozen(network: nn.Module) -> nn.Module:
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network.eval()


def _gradient(network: nn.Module, image: torch.Tensor, precision: Precision, weight: float = 1.0) -> torch.Tensor:
    image = image.clone().requires_grad_(True)
    with precision.autocast():
        logits = network(image)
    objective = functional.log_softmax(logits.to(image.dtype), dim=1)[:, 0].mean()
    return torch.autograd.grad(weight * objective * precision.loss_scale, image)[0] / precision.loss_scale


@pytest.mark.parametrize("mode", ["float64", "bf16", "", "FLOAT32", None, 16])
def test_unknown_mode_is_one_clear_sentence(mode):
    with pytest.raises(ValueError, match=r"precision must be one of 'auto', 'float32', 'bfloat16', 'float16', got"):
        Precision(mode)


@pytest.mark.parametrize("mode", PRECISIONS)
def test_float64_images_run_in_float64_in_every_mode(mode):
    precision = Precision(mode, random_image(dtype=torch.float64))
    assert precision.dtype == torch.float64 and precision.loss_scale == 1.0 and not precision.fast_kernels
    network = _frozen(tiny_segmentation_network().double())
    with precision.autocast():
        assert network(random_image(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "float16"])
def test_convolutions_compute_in_the_chosen_type(mode):
    precision = Precision(mode, random_image())
    with precision.autocast():
        assert _frozen(tiny_segmentation_network())(random_image()).dtype == getattr(torch, mode)
    assert str(precision) == mode
    assert precision.loss_scale == (FLOAT16_LOSS_SCALE if mode == "float16" else 1.0)


def test_float32_overrides_an_autocast_outside():
    with torch.autocast("cpu", dtype=torch.bfloat16), Precision("float32", "cpu").autocast():
        assert _frozen(tiny_segmentation_network())(random_image()).dtype == torch.float32


@pytest.mark.parametrize(
    ("vectors", "tiles", "intel", "native"),
    [
        (True, False, False, True),
        (True, False, True, False),
        (True, True, True, True),
        (False, False, False, False),
        (False, False, True, False),
    ],
    ids=["AMD", "Intel without tiles", "Intel with tiles", "AMD without", "Intel without"],
)
def test_auto_takes_bfloat16_only_where_the_hardware_is_faster_in_it(monkeypatch, vectors, tiles, intel, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr("monai_adversarial.utils.precision._is_intel", lambda: intel)
    assert has_native_bfloat16("cpu") == native
    assert Precision("auto", random_image()).dtype == (torch.bfloat16 if native else torch.float32)


def test_auto_survives_a_torch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert Precision("auto", "cpu").dtype == torch.float32


@pytest.mark.parametrize(("mode", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_reduced_precision_keeps_the_direction_of_the_gradient(mode, tolerance):
    network, image = _frozen(tiny_segmentation_network()), random_image()
    exact = _gradient(network, image, Precision("float32", image))
    found = _gradient(network, image, Precision(mode, image))
    assert found.dtype == torch.float32
    assert (found - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("training", [True, False])
def test_wrapped_network_computes_in_the_chosen_type_and_is_not_touched(training):
    network = tiny_segmentation_network().train(training)
    wrapped = Precision("bfloat16", "cpu").wrap(network)
    assert wrapped(random_image()).dtype == torch.bfloat16
    assert wrapped.training == network.training == training
    assert network(random_image()).dtype == torch.float32


def test_recomputed_windows_run_in_the_same_precision_with_the_same_kernels(monkeypatch):
    slopes = []
    original = functional.leaky_relu
    monkeypatch.setattr(fast_kernels.functional, "leaky_relu", lambda *given: slopes.append(1) or original(*given))
    network, image = _frozen(tiny_segmentation_network()), random_image()
    types = []
    network[2].register_forward_hook(lambda module, given, output: types.append(output.dtype))
    inferer = MemoryBoundedSlidingWindowInferer(roi_size=16, sw_batch_size=1, overlap=0.0, keep_windows_megabytes=0)
    leaf = random_image((1, 1, 32, 16, 16)).requires_grad_(True)
    inferer(leaf, Precision("bfloat16", image).wrap(network)).square().sum().backward()
    assert types == [torch.bfloat16] * 3 and len(slopes) == 3  # two windows, and the first again in the backward pass
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0


def test_compiled_networks_get_the_same_gradient_with_and_without_fast_kernels():
    """Tracing goes through the context; only that it is left out there keeps torch.compile working."""
    image = random_image()
    compiled = torch.compile(_frozen(tiny_segmentation_network()), backend="eager")
    expected = _gradient(compiled, image, Precision("bfloat16", image, fast_kernels=False))
    torch.testing.assert_close(_gradient(compiled, image, Precision("bfloat16", image)), expected, rtol=0, atol=0)


def test_loss_scale_saves_small_float16_gradients_from_underflow():
    network, image = _frozen(tiny_segmentation_network()), random_image()
    as_in_a_large_volume = 16**3 / 160**3
    scaled = Precision("float16", image)
    unscaled = Precision("float16", image)
    unscaled.loss_scale = 1.0
    assert (_gradient(network, image, scaled, as_in_a_large_volume) == 0).float().mean() < 0.01
    assert (_gradient(network, image, unscaled, as_in_a_large_volume) == 0).float().mean() > 0.2


@pytest.mark.parametrize("weight", [1.0, 1e-38])
def test_float32_with_fast_kernels_is_scaled_out_of_subnormal_numbers(monkeypatch, weight):
    """Which CPUs compute with many times more slowly; every other number keeps its bits."""
    monkeypatch.setattr("monai_adversarial.utils.precision.has_native_bfloat16", lambda device: False)
    network, image = _frozen(tiny_segmentation_network()), random_image()
    scaled, unscaled = Precision("auto", image), Precision("auto", image)
    assert scaled.loss_scale == FLOAT32_LOSS_SCALE and Precision("float32", image).loss_scale == 1.0
    unscaled.loss_scale = 1.0
    network[2].register_full_backward_pre_hook(lambda module, given: gradients.append(given[0]))
    gradients: list[torch.Tensor] = []
    found, plain = (_gradient(network, image, one, weight) for one in (scaled, unscaled))
    smallest = torch.finfo(torch.float32).tiny
    subnormal = [bool(((one != 0) & (one.abs() < smallest)).any()) for one in gradients]
    assert subnormal == [False, weight < 1]
    if weight == 1.0:
        assert torch.equal(found, plain)


class _Convolutions(nn.Module):
    """Every kind of 3D convolution, with PReLUs between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv3d(1, 4, 3, padding=1),
                nn.Conv3d(4, 6, 3, stride=2, padding=1),
                nn.Conv3d(6, 6, (1, 3, 5), padding=(0, 1, 2), bias=False),
                nn.Conv3d(6, 4, 3, padding=2, dilation=2, groups=2),
                nn.Conv3d(4, 4, 1),
                nn.Conv3d(4, 4, 3, padding=3),  # padding beyond the kernel
                nn.Conv3d(4, 4, 3, padding="same"),
                nn.Conv3d(4, 4, 3, padding=1, padding_mode="replicate"),
            ]
        )
        self.activations = nn.ModuleList([nn.PReLU(init=slope) for slope in (0.25, 0.1, -0.3, 1.5)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            image = layer(image)
            if number < len(self.activations):
                image = self.activations[number](image)
        return image


@pytest.mark.parametrize("batch", [1, 2])
def test_fast_kernels_equal_torch(batch):
    network, image = _frozen(_Convolutions()), random_image((batch, 1, 12, 13, 14)) - 0.5

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = image.clone().requires_grad_(True)
        logits = network(leaf)
        return logits, torch.autograd.grad(logits.square().sum(), leaf)[0]

    expected, expected_gradient = run()
    with FastKernels():
        found, found_gradient = run()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found_gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


def test_fast_kernels_are_used_and_end_with_the_context(monkeypatch):
    calls = []
    original = fast_kernels._OneDNNConvolution.apply
    monkeypatch.setattr(
        fast_kernels._OneDNNConvolution, "apply", lambda *arguments: calls.append(1) or original(*arguments)
    )
    network = _frozen(tiny_segmentation_network())
    with FastKernels():
        network(random_image())
    assert len(calls) == 2
    network(random_image())
    assert len(calls) == 2
    with Precision("float32", "cpu").autocast():  # the reference keeps torch's own kernels
        network(random_image())
    assert len(calls) == 2


def test_fast_kernels_leave_trainable_weights_their_gradients():
    network = tiny_segmentation_network()
    with FastKernels():
        network(random_image()).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_fast_kernels_keep_torch_errors():
    network = _frozen(tiny_segmentation_network(in_channels=2))
    with FastKernels(), pytest.raises(RuntimeError, match="channels"):
        network(random_image())


def _settings(monkeypatch) -> list[tuple[int, int]]:
    """What the allocator asks glibc for, as (parameter, value)."""
    for name in [*allocator._SETTINGS_OF_THE_USER, "GLIBC_TUNABLES", "MONAI_ADVERSARIAL_ALLOCATOR"]:
        monkeypatch.delenv(name, raising=False)
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return 1

        def malloc_trim(self, pad: int) -> int:
            asked.append((0, pad))
            return 1

    monkeypatch.setattr(allocator, "glibc", Library)
    return asked


_KEEP = [(allocator._MMAP_MAX, 0), (allocator._TRIM_THRESHOLD, -1)]
_RESTORE = [
    (allocator._MMAP_MAX, 65536),
    (allocator._MMAP_THRESHOLD, 32 << 20),
    (allocator._TRIM_THRESHOLD, 64 << 20),
    (0, 0),
]


def test_allocator_is_set_once_when_nested_and_restored_after_an_error(monkeypatch):
    asked = _settings(monkeypatch)
    with pytest.raises(KeyError), keep_freed_memory():
        with keep_freed_memory(torch.device("cpu")):
            assert asked == _KEEP
        assert asked == _KEEP
        raise KeyError
    assert asked == _KEEP + _RESTORE


def test_allocator_is_kept_while_any_thread_is_inside(monkeypatch):
    asked = _settings(monkeypatch)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with keep_freed_memory():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    with keep_freed_memory():
        pass
    assert asked == _KEEP
    leave.set()
    thread.join()
    assert asked == _KEEP + _RESTORE


@pytest.mark.parametrize(
    ("device", "variable", "value"),
    [
        ("cuda:0", None, None),
        ("cpu", "MONAI_ADVERSARIAL_ALLOCATOR", "0"),
        ("cpu", "MALLOC_TRIM_THRESHOLD_", "0"),
        ("cpu", "GLIBC_TUNABLES", "glibc.malloc.mmap_max=0"),
    ],
)
def test_allocator_leaves_cuda_and_the_choices_of_the_user_alone(monkeypatch, device, variable, value):
    asked = _settings(monkeypatch)
    if variable is not None:
        monkeypatch.setenv(variable, value)
    with keep_freed_memory(device):
        pass
    assert asked == []


_COUNT_PAGE_FAULTS = """
import resource, torch
from monai_adversarial.utils.allocator import keep_freed_memory
def faults(repeats=5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.ones(12_000_000).add_(1)  # 46 MiB: above the largest threshold of glibc
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); before = faults()
with keep_freed_memory():
    faults(); inside = faults()
faults(); after = faults()
print(before, inside, after)
"""


@pytest.mark.skipif(allocator.glibc() is None, reason="the C library is not glibc")
def test_memory_is_really_kept_inside_and_really_given_back_outside():
    kept_out = (*allocator._SETTINGS_OF_THE_USER, "GLIBC_TUNABLES", "MONAI_ADVERSARIAL_ALLOCATOR")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    pages = 5 * 48_000_000 // resource.getpagesize()
    for _ in range(3):  # the system may map huge pages at any moment, which saves faults that nobody kept
        output = subprocess.run(
            [sys.executable, "-c", _COUNT_PAGE_FAULTS], env=environment, capture_output=True, text=True, check=True
        ).stdout
        before, inside, after = map(int, output.split())
        if before < pages // 2:
            pytest.skip("this system maps huge pages by itself: there are no page faults to save")
        if inside < before / 20 and after > before / 2:
            return
    assert inside < before / 20
    assert after > before / 2


@pytest.mark.parametrize(("excess", "trims"), [(allocator.EXCESS, 0), (allocator.EXCESS + 1, 1)])
def test_excess_memory_is_given_back_above_a_bound(monkeypatch, excess, trims):
    asked = _settings(monkeypatch)
    monkeypatch.setattr(allocator, "reusable_heap", lambda: excess)
    monkeypatch.setattr(allocator, "_not_to_give_back", 0)
    assert give_back_excess() == bool(trims)
    assert asked == [(0, 0)] * trims
    asked.clear()
    if trims:  # what could not be given back is not tried again
        assert not give_back_excess()
    assert not give_back_excess("cuda:0")
    monkeypatch.setenv("MONAI_ADVERSARIAL_ALLOCATOR", "0")
    assert not give_back_excess()
    assert asked == []


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "given"),
    [
        # Every piece of work until the largest is known, then nothing as long as it does not grow.
        ([500, 800, 700, 800, 800, 700], [1, 1, 0, 0, 0, 0]),
        # Holes made it larger than its need by more than 16 MiB: again as often as that comes back.
        ([800, 816, 817, 700, 816, 817, 815], [1, 0, 1, 0, 0, 1, 0]),
        # Growth by holes is no need: the bound does not creep up with it.
        ([800, 815, 818, 815, 820, 815, 823], [1, 0, 1, 0, 1, 0, 1]),
        # What a compact heap grows to is need.
        ([800, 815, 818, 838, 850, 854], [1, 0, 1, 1, 0, 0]),
    ],
)
def test_growth_beyond_the_need_is_given_back(monkeypatch, sizes, given):
    asked = _settings(monkeypatch)
    monkeypatch.setattr(allocator, "reusable_heap", lambda: 200 * MIB)
    now: list[int] = []
    monkeypatch.setattr(allocator, "private_bytes", lambda: now[-1])
    with keep_freed_memory():
        for size, expected in zip(sizes, given, strict=True):
            monkeypatch.setattr(allocator, "_not_to_give_back", 0)  # as if all of it could be given back the last time
            now.append(size * MIB)
            assert give_back_growth() == bool(expected), now
    assert asked.count((0, 0)) == sum(given) + 1  # and all of it at the end
    now.append(sizes[-1] * MIB)
    with keep_freed_memory():  # another attack has another need
        monkeypatch.setattr(allocator, "_not_to_give_back", 0)
        assert give_back_growth() and not give_back_growth("cuda:0")
        monkeypatch.setenv("MONAI_ADVERSARIAL_ALLOCATOR", "0")
        now.append(2 * now[-1])
        assert not give_back_growth()


_TURNS = """
import resource, sys, torch
from monai_adversarial.utils import allocator
give_back = getattr(allocator, sys.argv[1])
# Two kinds of work that take turns, each with blocks of its own sizes, and small ones that stay.
stays = []
def work(size, count):
    blocks = []
    for _ in range(count):
        blocks.append(torch.ones(size))
        stays.append(torch.ones(5_000))
    del blocks, stays[:-100]
    give_back()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with allocator.keep_freed_memory():
    for turn in range(12):
        if turn == 4:
            before = faults()
        work(3_000_000, 16)
        work(5_000_000, 9)
print((faults() - before) * resource.getpagesize() / 8 / 2**20)
"""


@pytest.mark.skipif(allocator.glibc() is None, reason="the C library is not glibc")
def test_work_that_takes_turns_keeps_its_memory():
    kept_out = (*allocator._SETTINGS_OF_THE_USER, "GLIBC_TUNABLES", "MONAI_ADVERSARIAL_ALLOCATOR")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}

    def megabytes_cleared_per_turn(give_back: str) -> float:
        command = [sys.executable, "-c", _TURNS, give_back]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    each_time = megabytes_cleared_per_turn("give_back_excess")
    if each_time < 100:
        pytest.skip("this system maps huge pages by itself: there are no page faults to save")
    # How much less depends on where the system lays the heap, which differs from process to process.
    assert any(megabytes_cleared_per_turn("give_back_growth") < 0.9 * each_time for _ in range(5))


def test_large_blocks_are_kept_no_more_until_the_context_ends(monkeypatch):
    asked = _settings(monkeypatch)
    keep_no_large_blocks()
    assert asked == []
    with keep_freed_memory():
        keep_no_large_blocks("cuda:0")
        assert asked == _KEEP
        keep_no_large_blocks()
        assert asked == [*_KEEP, (allocator._MMAP_MAX, 65536), (allocator._MMAP_THRESHOLD, 8 << 20)]
    assert asked[-4:] == _RESTORE


_HOLES = """
import resource, torch
from monai_adversarial.utils.allocator import give_back_excess, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
with keep_freed_memory():
    # Blocks that are freed between blocks that stay: the heap cannot shrink from its end.
    blocks = [torch.ones(4_000_000) for _ in range(20)]
    del blocks[::2]
    before = resident()
    given = give_back_excess()
    print(before, given, resident(), float(sum(block.sum() for block in blocks)))
"""


@pytest.mark.skipif(allocator.glibc() is None, reason="the C library is not glibc")
def test_holes_in_the_heap_are_given_back():
    kept_out = (*allocator._SETTINGS_OF_THE_USER, "GLIBC_TUNABLES", "MONAI_ADVERSARIAL_ALLOCATOR")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    output = subprocess.run(
        [sys.executable, "-c", _HOLES], env=environment, capture_output=True, text=True, check=True
    ).stdout
    before, given, after, total = output.split()
    assert given == "True" and float(total) == 4e7
    assert int(after) < int(before) - 9 * 16_000_000
