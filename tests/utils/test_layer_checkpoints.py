# SPDX-License-Identifier: Apache-2.0
"""Layers that are computed again change no bit of a gradient, and hold the memory down."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch
from monai.networks.nets import DynUNet, UNet
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from monai_adversarial.utils import layer_checkpoints
from monai_adversarial.utils.fast_kernels import FastKernels
from monai_adversarial.utils.layer_checkpoints import LayerCheckpoints, with_layer_checkpoints
from tests.peak_bytes import PeakBytes


def chain(layers: int = 12, channels: int = 4, inplace: bool = True, dropout: float = 0.1) -> nn.Module:
    """Dilated convolutions one after the other, as in MeshNet."""
    parts: list[nn.Module] = []
    for number in range(layers):
        dilation = 2 ** (number % 3)
        parts.append(
            nn.Sequential(
                nn.Conv3d(channels if number else 1, channels, 3, padding=dilation, dilation=dilation),
                nn.BatchNorm3d(channels),
                nn.ReLU(inplace),
                nn.Dropout3d(dropout),
            )
        )
    return nn.Sequential(*parts, nn.Conv3d(channels, 2, 1))


class Unusual(nn.Module):
    """Operations in place, on views, on memory that nobody sees being written, and with numbers read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = self.first(image).relu_()
        joined = torch.empty_like(wide)
        joined[:, :2] = wide[:, 2:].tanh()
        joined[:, 2:].copy_(wide[:, :2] * wide.abs().max().item())
        mask = torch.empty_like(wide.detach())
        mask.view(torch.uint8).numpy()[:] = (wide.detach() > 0.1).to(wide.dtype).view(torch.uint8).numpy()
        narrow = self.second(joined * mask)
        narrow = narrow + torch.linspace(0, 1, narrow.shape[-1])
        narrow[..., 1:] *= 0.5
        return self.second(narrow.transpose(2, 3).sigmoid())[:, :2]


class Fourier(nn.Module):
    """Complex numbers, which the tape does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = chain(3), nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfftn(self.before(image), dim=(2, 3, 4))
        return self.after(torch.fft.irfftn(spectrum * 0.5, s=image.shape[2:], dim=(2, 3, 4))).tanh()


class Checkpointed(nn.Module):
    """Checkpoints a part by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Conv3d(1, 4, 1), nn.Sequential(nn.Conv3d(4, 4, 3), nn.Tanh()), chain(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = checkpoint(self.part, self.first(image).tanh(), use_reentrant=False)
        return self.last(inner.mean(1, keepdim=True))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image):
        ctx.save_for_backward(image)
        return image**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = chain(3), nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.after(Cube.apply(self.before(image).tanh())).tanh()


NETWORKS = {
    "chain": chain,
    "chain, not in place": lambda: chain(inplace=False),
    "unet": lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2),
    "deep supervision": lambda: DynUNet(
        3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8], deep_supervision=True, deep_supr_num=1
    ),
    "unusual": Unusual,
    "fourier": Fourier,
    "checkpointed": Checkpointed,
    "own function": OwnFunction,
}
ARITHMETIC = {
    "float32": contextlib.nullcontext,
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "fast kernels": FastKernels,
}


def build(factory, train: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return factory().train(train).requires_grad_(False)


def volume(size: int = 12) -> torch.Tensor:
    return torch.rand((1, 1, size, size, size), generator=torch.Generator().manual_seed(2))


def gradient(network, image, arithmetic="float32", repeats=1):
    """The answer, and the gradient of a nonlinear function of it."""
    leaf = image.clone().requires_grad_()
    with ARITHMETIC[arithmetic]():
        answer = tree_leaves(network(leaf))[0].float()
    loss = answer.sin().sum()
    for _ in range(repeats - 1):
        torch.autograd.grad(loss, leaf, retain_graph=True)
    return answer.detach(), torch.autograd.grad(loss, leaf)[0]


def assert_equal(found, expected):
    assert expected[1].abs().max() > 0
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that are computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_to_the_bit(name, arithmetic):
    network, image = build(NETWORKS[name]), volume()
    expected = gradient(network, image, arithmetic)
    checkpointed = LayerCheckpoints(network, always=True)
    for _ in range(3):  # the second call holds restarts from its forward pass
        assert_equal(gradient(checkpointed, image, arithmetic), expected)
    assert_equal(gradient(checkpointed, image, arithmetic, repeats=2), expected)


def test_another_shape_and_another_way_through_the_network():
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short = chain(9), chain(4)

        def forward(self, image):
            return self.long(image) if image.mean() > 0.5 else self.short(image)

    network = build(Chooses)
    checkpointed = LayerCheckpoints(network, always=True)
    for image in (volume(), volume() + 1, volume(8), volume(), volume() + 1):
        assert_equal(gradient(checkpointed, image), gradient(network, image))


def test_modules_are_called_once_and_the_network_stays_as_it_was():
    network = build(chain)
    before = {name: dict(vars(module)) for name, module in network.named_modules()}
    calls = []
    hook = network[3][0].register_forward_hook(lambda *given: calls.append(1))
    gradient(LayerCheckpoints(network, always=True), volume())
    assert len(calls) == 1
    hook.remove()
    after = {name: dict(vars(module)) for name, module in network.named_modules()}
    assert all(after[name].keys() == attributes.keys() for name, attributes in before.items())
    assert all(after[name][key] is value for name, parts in before.items() for key, value in parts.items())


def test_random_layers_and_normalization_in_training_mode():
    found, states, counted = [], [], []
    for wrap in (lambda network: network, lambda network: LayerCheckpoints(network, always=True)):
        network = build(lambda: chain(dropout=0.5), train=True)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found.append(gradient(wrap(network), volume()))
            states.append(torch.get_rng_state())
        counted.append([buffer.clone() for buffer in network.buffers()])
    assert_equal(*found)
    assert torch.equal(*states)
    assert all(map(torch.equal, *counted))


def test_a_network_that_changed_in_between_is_refused():
    network = build(chain)
    leaf = volume().requires_grad_()
    answer = LayerCheckpoints(network, always=True)(leaf)
    network[1][0].weight.data.mul_(1.5)
    with pytest.raises(RuntimeError, match="pass checkpoint_layers=False"):
        torch.autograd.grad(answer.sum(), leaf)


def test_an_error_in_the_network_leaves_nothing_behind():
    class Fails(nn.Module):
        def forward(self, image):
            raise KeyError("in the network")

    network = build(chain)
    with pytest.raises(KeyError, match="in the network"):
        LayerCheckpoints(nn.Sequential(network, Fails()), always=True)(volume().requires_grad_())
    with Convolutions() as counter:
        gradient(network, volume())
    assert counter.count == 13


def test_a_step_needs_three_times_the_memory_of_a_prediction_and_frees_it_at_once():
    network, image = build(lambda: chain(24, 8)), volume(16)
    with torch.no_grad(), PeakBytes(network) as inference:
        network(image)
    with PeakBytes(network) as plain:
        gradient(network, image)
    checkpointed = LayerCheckpoints(network, always=True)
    gc.disable()
    try:
        for _ in range(2):
            with PeakBytes(network) as ours:
                found = gradient(checkpointed, image)
            assert ours.live == sum(tensor.nbytes for tensor in found)
            del found
            assert ours.live == 0
            assert ours.peak <= 3 * inference.peak
    finally:
        gc.enable()
    assert plain.peak > 15 * inference.peak


def test_layers_run_as_often_as_the_schedule_says():
    network, image = build(lambda: chain(24, 8)), volume(16)
    checkpointed = LayerCheckpoints(network, always=True)
    counts = []
    for _ in range(3):
        with Convolutions() as counter:
            gradient(checkpointed, image)
        counts.append(counter.count)
    # 25 convolutions: forward, and again up to six times with two restarts for 24 stages
    assert 25 < counts[1] == counts[2] < counts[0] < 7 * 25


@pytest.mark.parametrize(("free", "again"), [(10**12, False), (None, False), (3 * 10**6, True)])
def test_by_itself_it_acts_only_where_the_graph_would_not_fit(monkeypatch, free, again):
    monkeypatch.setattr(layer_checkpoints, "free_bytes", lambda device: free)
    network, image = build(lambda: chain(24, 8)), volume(16)  # a graph of 6.3 MB, in a third of the memory
    sizes: dict = {}
    expected = gradient(network, image)
    for _ in range(2):
        checkpointed = LayerCheckpoints(network, known_sizes=sizes)
        with Convolutions() as counter:
            assert_equal(gradient(checkpointed, image), expected)
        assert (counter.count > 25) == again
    if again:
        assert sizes[(torch.float32, None)] == pytest.approx(24 * 2 * 8 * 4, rel=0.1)


def test_what_fits_is_watched_once(monkeypatch):
    monkeypatch.setattr(layer_checkpoints, "free_bytes", lambda device: 60 * 10**6)
    network, image = build(lambda: chain(24, 8)), volume(16)
    watched = []
    original = layer_checkpoints.OperationTape
    monkeypatch.setattr(layer_checkpoints, "OperationTape", lambda **given: watched.append(1) or original(**given))
    sizes: dict = {}
    for _ in range(3):
        gradient(LayerCheckpoints(network, known_sizes=sizes), image)
    assert len(watched) == 1


def test_without_a_gradient_the_network_is_called_as_it_is():
    network, image = build(chain), volume()
    checkpointed = LayerCheckpoints(network, always=True)
    with torch.no_grad():
        assert not checkpointed(image.requires_grad_()).requires_grad
    assert not checkpointed(volume()).requires_grad


def test_compiled_and_scripted_networks_are_left_alone():
    network = build(chain)
    for closed in (torch.jit.script(network), torch.compile(network), nn.Sequential(torch.jit.script(network))):
        assert with_layer_checkpoints(closed) is closed
        with pytest.raises(ValueError, match="checkpoint_layers=True needs"):
            with_layer_checkpoints(closed, True)
    assert with_layer_checkpoints(network, False) is network
    assert isinstance(with_layer_checkpoints(network), LayerCheckpoints)


@pytest.mark.parametrize("always", [False, True])
def test_a_call_inside_a_checkpoint_of_somebody_else_saves_the_same_again(
    monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    # Too large for the room by the bound for unknown graphs, small enough once its size is known.
    network, image = chain(3).eval().requires_grad_(False), torch.rand(1, 1, 16, 16, 16)
    monkeypatch.setattr(layer_checkpoints, "free_bytes", lambda device: 3 * 10**7)
    checkpointed = LayerCheckpoints(network, always=always)

    def outside(image: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda part: checkpointed(part).sigmoid(), image, use_reentrant=False)

    expected = gradient(lambda image: network(image).sigmoid(), image)
    for _ in range(2):
        assert_equal(gradient(outside, image), expected)
