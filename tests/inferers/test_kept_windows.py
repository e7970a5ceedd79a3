# SPDX-License-Identifier: Apache-2.0
"""Graphs that are kept change nothing but the work: same bits, and never more graphs in memory than were asked for."""

from __future__ import annotations

import weakref

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch.utils.checkpoint import checkpoint

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer, kept_windows, memory_bounded
from monai_adversarial.utils.fast_kernels import FastKernels

SIDE = {8: 14, 27: 20, 64: 26}  # windows of 8 with overlap 0.25: an interval of 6


class LiveGraphs:
    """How many windows' graphs are in memory now, and at most."""

    def __init__(self) -> None:
        self.live = self.most = 0

    def come(self) -> None:
        self.live += 1
        self.most = max(self.most, self.live)

    def go(self) -> None:
        self.live -= 1


class _Recorded(torch.autograd.Function):
    """The identity, whose node counts as a graph in memory."""

    @staticmethod
    def forward(ctx, image, graphs):
        marker = image.new_empty(1)  # lives as long as the node
        ctx.marker = marker
        graphs.come()
        weakref.finalize(marker, graphs.go)
        return image.view_as(image)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Network(torch.nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.last = torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Conv3d(8, 2, 3, padding=1)
        self.norm, self.dropout = torch.nn.BatchNorm3d(8), torch.nn.Dropout3d(dropout)
        self.graphs, self.forwards = LiveGraphs(), 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        if torch.is_grad_enabled():
            image = _Recorded.apply(image, self.graphs)
        return self.last(self.dropout(torch.tanh(self.norm(self.first(image)))))


def volume(side: int) -> torch.Tensor:
    return torch.randn((1, 1, side, side, side), generator=torch.Generator().manual_seed(2))


def run(network: torch.nn.Module, image: torch.Tensor, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Stitched output, and the gradient of a nonlinear function of it."""
    leaf = image.clone().requires_grad_()
    inferer = MemoryBoundedSlidingWindowInferer(8, overlap=0.25, **settings)
    output = inferer(leaf, network)
    return output.detach(), torch.autograd.grad(output.sin().pow(2).sum(), leaf)[0]


@pytest.fixture
def free(monkeypatch):
    """Sets what the machine says is free; what the allocator says is not asked, so that costs are exact."""
    monkeypatch.setattr(kept_windows, "allocated_bytes", lambda device: None)
    return lambda value: monkeypatch.setattr(kept_windows, "free_bytes", lambda device: value)


def megabytes_of_a_graph() -> float:
    # image, normalization's input, its mean and scale, tanh's output, the logits
    return (8**3 * (1 + 8 + 8 + 2) + 8) * 4 / 2**20


@pytest.mark.parametrize("windows", [27, 64])
@pytest.mark.parametrize("kept", [0, 3])
def test_no_more_graphs_are_in_memory_than_were_asked_for(windows, kept, free):
    network = Network().eval()
    megabytes = (kept + 0.5) * megabytes_of_a_graph() if kept else 0
    run(network, volume(SIDE[windows]), keep_windows_megabytes=megabytes)
    assert network.forwards == 2 * windows - kept - 1
    # those that were asked for and one more: the last, or one that is being computed again
    assert network.graphs.most == kept + 1
    assert network.graphs.live == 0


@pytest.mark.parametrize("windows", [27, 64])
def test_by_itself_it_takes_a_third_of_the_free_memory(windows, free):
    network = Network().eval()
    graph = megabytes_of_a_graph() * 2**20
    later = 6 * 2 * SIDE[windows] ** 3 * 4
    free(int(3.2 * 5 * graph - graph + later))
    run(network, volume(SIDE[windows]))
    assert network.graphs.most == 5 + 1 and network.forwards == 2 * windows - 5 - 1


def test_the_last_graph_too_goes_where_the_objective_needs_its_memory(free):
    network = Network().eval()
    free(1000)
    run(network, volume(SIDE[8]))
    assert network.forwards == 16 and network.graphs.most == 1


def test_with_unknown_free_memory_the_last_is_kept(free):
    network = Network().eval()
    free(None)
    run(network, volume(SIDE[8]))
    assert network.forwards == 15 and network.graphs.most == 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("fast", [False, True])
def test_outputs_and_gradients_are_the_same_to_the_bit_whatever_is_kept(batch, mode, fast, free):
    network, image = Network().eval().requires_grad_(False), volume(SIDE[27])

    def predict(image):  # as an attack calls it: fast kernels around the network alone
        if not fast:
            return network(image)
        with FastKernels():
            return network(image)

    class Around(torch.nn.Module):
        def forward(self, image):
            return predict(image)

    results = []
    for keep, left in [(0, 0), (0, 10**9), (0.5, 0), (1000, 0), (None, 10**9), (None, 10**6), (None, 0)]:
        free(left)
        results.append(run(Around().eval(), image, keep_windows_megabytes=keep, sw_batch_size=batch, mode=mode))
    for output, gradient in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_random_layers_are_repeated_and_the_machine_does_not_decide_what_normalization_counts(free):
    results, counted = [], []
    for left in (0, 10**9):
        free(left)
        network = Network(dropout=0.5).train()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            results.append(run(network, volume(SIDE[8])))
        counted.append(network.norm.num_batches_tracked.item())
        assert network.forwards == 15
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert counted == [15, 15]


def test_memory_that_checkpointing_hides_from_autograd_is_counted():
    """Autograd saves nothing of a checkpointed part, which keeps its input all the same."""

    class Checkpointed(Network):
        def forward(self, image):
            wide = image.expand(-1, 64, -1, -1, -1)
            for _ in range(4):
                wide = checkpoint(torch.tanh, wide * 1.0, use_reentrant=False)
            return super().forward(wide.mean(1, keepdim=True))

    network = Checkpointed().eval()
    if kept_windows.allocated_bytes("cpu") is None:
        pytest.skip("the C library does not tell what is allocated")
    hidden = 4 * 64 * 8**3 * 4 / 2**20  # 0.5 MB a window, against 0.04 that autograd sees
    run(network, volume(SIDE[27]), keep_windows_megabytes=1.5 * hidden)
    assert network.forwards >= 2 * 27 - 2


def test_conversion_chooses_by_memory_unless_told():
    assert memory_bounded(SlidingWindowInferer(4)).keep_windows_megabytes is None
    assert memory_bounded(SlidingWindowInferer(4), 0).keep_windows_megabytes == 0
