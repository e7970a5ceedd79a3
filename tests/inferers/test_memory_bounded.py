# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer, ScannerSpaceInferer, memory_bounded
from tests.peak_bytes import PeakBytes

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Network(torch.nn.Module):
    """Two convolutions with a wide receptive field, counting its forward passes."""

    def __init__(self, rank: int = 3, head: torch.nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        convolution = (torch.nn.Conv2d, torch.nn.Conv3d)[rank - 2]
        self.first = convolution(1, 3, 3, padding=2, dilation=2)
        self.norm = torch.nn.GroupNorm(1, 3)
        self.dropout = torch.nn.Dropout(dropout)
        self.last = convolution(3, 2, 3, padding=1)
        self.head = head or torch.nn.Identity()
        self.forwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        return self.head(self.last(self.dropout(torch.tanh(self.norm(self.first(x))))))


class Several(Network):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor):
        y = super().forward(x)
        if self.kind == "dict":
            return {"b": y, "a": y[:, :1].exp() + 1}
        return (y, y[:, :1].exp() + 1) if self.kind == "tuple" else [y, y[:, :1].exp() + 1]


def build(factory, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return factory().to(dtype).eval()


def volume(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def run(inferer, network, image):
    """Flat outputs, and the gradient of a fixed nonlinear function of all of them."""
    leaf = image.detach().clone().requires_grad_()
    outputs = tree_leaves(inferer(leaf, network))
    loss = sum(
        (number + 1) * (output.sin() * volume(*output.shape, dtype=output.dtype)).sum()
        for number, output in enumerate(outputs)
    )
    return [output.detach() for output in outputs], torch.autograd.grad(loss, leaf)[0]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def assert_same(ours, reference, tolerance):
    assert len(ours[0]) == len(reference[0])
    for a, b in zip(ours[0], reference[0], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert difference(a, b) < tolerance
    assert reference[1].abs().max() > 0
    assert difference(ours[1], reference[1]) < tolerance


GEOMETRIES = {
    "plain": ((1, 1, 9, 7, 6), (6, 5, 4)),
    "padding": ((1, 1, 9, 5, 6), (6, 8, 4)),
    "batch": ((2, 1, 7, 6, 6), (5, 4, 5)),
    "2d": ((2, 1, 13, 11), (6, 6)),
    "open_roi": ((1, 1, 9, 5, 6), (6, -1, 4)),
}


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, "per axis"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_output_and_gradient_equal_backpropagation_through_monai(geometry, overlap, mode):
    shape, roi = GEOMETRIES[geometry]
    overlap = tuple([0.5, 0.25, 0.6][: len(roi)]) if overlap == "per axis" else overlap
    for dtype, batch, keep in [(torch.float64, 1, 0), (torch.float64, 3, 0.05), (torch.float32, 3, 0)]:
        settings_ = {"roi_size": roi, "sw_batch_size": batch, "overlap": overlap, "mode": mode}
        network = build(lambda: Network(len(roi)), dtype)
        image = volume(*shape, dtype=dtype)
        reference = run(SlidingWindowInferer(**settings_), network, image)
        ours = run(MemoryBoundedSlidingWindowInferer(**settings_, keep_windows_megabytes=keep), network, image)
        assert_same(ours, reference, TOLERANCE[dtype])
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0, 0.5])
def test_several_outputs_equal_monai(kind, overlap, mode):
    network = build(lambda: Several(kind))
    arguments = {"roi_size": (5, 6, 4), "sw_batch_size": 2, "overlap": overlap, "mode": mode}
    image = volume(2, 1, 9, 5, 7)
    reference = run(SlidingWindowInferer(**arguments), network, image)
    for keep in (0, 0.05, 100):
        ours = MemoryBoundedSlidingWindowInferer(**arguments, keep_windows_megabytes=keep)
        assert_same(run(ours, network, image), reference, 1e-10)
    outputs, expected = ours(image.requires_grad_(), network), SlidingWindowInferer(**arguments)(image, network)
    assert type(outputs) is type(expected)
    if kind == "dict":
        assert outputs.keys() == expected.keys()


def test_gradient_of_one_of_several_outputs_ignores_the_others():
    network = build(lambda: Several("tuple"))
    image = volume(1, 1, 8, 8, 8).requires_grad_()
    arguments = {"roi_size": 5, "overlap": 0.5}
    expected = torch.autograd.grad(SlidingWindowInferer(**arguments)(image, network)[1].pow(2).sum(), image)[0]
    got = torch.autograd.grad(MemoryBoundedSlidingWindowInferer(**arguments)(image, network)[1].pow(2).sum(), image)[0]
    assert difference(got, expected) < 1e-10


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_geometries_equal_monai(data):
    rank = data.draw(st.sampled_from([2, 3]))
    size = st.integers(3, 9)
    shape = [data.draw(st.integers(1, 2)), 1, *[data.draw(size) for _ in range(rank)]]
    padding_mode = data.draw(st.sampled_from(["constant", "replicate"]))
    arguments = {
        "roi_size": [data.draw(size) for _ in range(rank)],
        "sw_batch_size": data.draw(st.integers(1, 4)),
        "overlap": [data.draw(st.floats(0, 0.8)) for _ in range(rank)],
        "mode": data.draw(st.sampled_from(["constant", "gaussian"])),
        "padding_mode": padding_mode,
        "cval": data.draw(st.floats(-1, 1)) if padding_mode == "constant" else 0,
    }
    keep = data.draw(st.sampled_from([0, 0.02, 10]))
    network = build(lambda: Network(rank))
    reference = run(SlidingWindowInferer(**arguments), network, volume(*shape))
    ours = run(MemoryBoundedSlidingWindowInferer(**arguments, keep_windows_megabytes=keep), network, volume(*shape))
    assert_same(ours, reference, 1e-10)


@pytest.mark.parametrize(
    "head", [torch.nn.Softmax(1), torch.nn.Sigmoid(), torch.nn.ReLU(), torch.nn.ReLU(inplace=True)]
)
def test_networks_that_end_in_an_activation_work(head):
    network = build(lambda: Network(head=head))
    image = volume(1, 1, 9, 9, 9)
    # MONAI multiplies the output in place, which autograd refuses after these; a copy of the output is the reference
    reference = run(SlidingWindowInferer(5, 2, 0.5, "gaussian"), lambda x: network(x).clone(), image)
    assert_same(run(MemoryBoundedSlidingWindowInferer(5, 2, 0.5, "gaussian"), network, image), reference, 1e-10)


@pytest.mark.parametrize(
    "network", [lambda x: x, torch.nn.Identity(), lambda x: x.mul_(2), torch.nn.ReLU(inplace=True)]
)
@pytest.mark.parametrize("gradient", [True, False])
def test_input_is_never_modified(network, gradient):
    image = volume(1, 1, 7, 7, 7)
    before = image.clone()
    leaf = image.requires_grad_(gradient)
    output = MemoryBoundedSlidingWindowInferer(4, 1, 0.5, "gaussian")(leaf, network)
    if gradient:
        output.sum().backward()
    assert torch.equal(image, before)
    assert torch.allclose(output, network(before.clone()))


def test_identity_network_gives_the_gradient_of_the_identity():
    image = volume(1, 1, 7, 7, 7).requires_grad_()
    MemoryBoundedSlidingWindowInferer(4, 1, 0.5, "gaussian")(image, torch.nn.Identity()).sum().backward()
    assert torch.allclose(image.grad, torch.ones_like(image))


@pytest.mark.parametrize("keep,expected", [(0, 15), (100, 8)])  # the last of 8 windows is kept in any case
def test_number_of_forward_passes(keep, expected):
    network = build(Network)
    image = volume(1, 1, 8, 8, 8).requires_grad_()
    output = MemoryBoundedSlidingWindowInferer(4, overlap=0, keep_windows_megabytes=keep)(image, network)
    assert network.forwards == 8
    output.sum().backward()
    assert network.forwards == expected


def test_a_small_budget_keeps_some_windows():
    counts = []
    for keep in (0, 0.001, 0.03, 0.06, 0.1, 100):
        network = build(Network)
        image = volume(1, 1, 8, 8, 8).requires_grad_()
        inferer = MemoryBoundedSlidingWindowInferer(4, overlap=0.5, keep_windows_megabytes=keep)
        inferer(image, network).sum().backward()
        counts.append(network.forwards)
    assert counts[0] == counts[1] == 53 and counts[-1] == 27
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 3


@pytest.mark.parametrize("keep", [0, 0.1, 100])
def test_second_backward_pass_through_the_same_output(keep):
    network = build(lambda: Network(dropout=0.5)).train()
    image = volume(1, 1, 8, 8, 8).requires_grad_()
    output = MemoryBoundedSlidingWindowInferer(4, overlap=0.5, keep_windows_megabytes=keep)(image, network)
    first = torch.autograd.grad(output.sin().sum(), image, retain_graph=True)[0]
    second = torch.autograd.grad(output.sin().sum(), image)[0]
    assert torch.equal(first, second)


def test_only_first_derivatives():
    image = volume(1, 1, 8, 8, 8).requires_grad_()
    output = MemoryBoundedSlidingWindowInferer(4)(image, build(Network)).pow(2).sum()
    gradient = torch.autograd.grad(output, image, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("keep", [0, 0.1])
def test_dropout_is_replayed_and_random_state_left_as_one_forward_leaves_it(keep, hide):
    network = build(lambda: Network(dropout=0.5)).train()
    predict = (lambda x: network(x)) if hide else network
    arguments = {"roi_size": 5, "sw_batch_size": 2, "overlap": 0.5}
    results, states = [], []
    for inferer in (
        SlidingWindowInferer(**arguments),
        MemoryBoundedSlidingWindowInferer(**arguments, keep_windows_megabytes=keep),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            results.append(run(inferer, predict, volume(1, 1, 9, 9, 9)))
            states.append(torch.get_rng_state())
    assert_same(results[1], results[0], 1e-10)
    assert torch.equal(*states)


def test_autocast_of_the_forward_pass_holds_in_the_backward_pass():
    network = build(Network, torch.float32)
    image = volume(1, 1, 9, 9, 9, dtype=torch.float32)
    seen = []
    network.last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    gradients, outputs = [], []
    arguments = {"roi_size": 5, "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
    for inferer in (SlidingWindowInferer(**arguments), MemoryBoundedSlidingWindowInferer(**arguments)):
        leaf = image.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = inferer(leaf, network)
        assert output.dtype == torch.float32
        output.pow(2).sum().backward()
        outputs.append(output.detach())
        gradients.append(leaf.grad)
    assert set(seen) == {torch.bfloat16}
    assert difference(outputs[1], outputs[0]) < 1e-2
    assert difference(gradients[1], gradients[0]) < 2e-2
    exact = run(SlidingWindowInferer(**arguments), network, image)[0][0]
    assert difference(outputs[1], exact) <= 1.05 * difference(outputs[0], exact)  # no less precise than MONAI


@pytest.mark.parametrize("keep", [0, 100])
def test_parameters_are_frozen_wherever_a_graph_is_built(keep):
    seen = []
    network = build(Network)
    network.register_forward_pre_hook(
        lambda module, inputs: seen.append((torch.is_grad_enabled(), module.first.weight.requires_grad))
    )
    image = volume(1, 1, 8, 8, 8).requires_grad_()
    MemoryBoundedSlidingWindowInferer(4, overlap=0, keep_windows_megabytes=keep)(image, network).sum().backward()
    assert (True, False) in seen and (True, True) not in seen
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_metatensor_is_returned_as_monai_returns_it():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(volume(1, 1, 8, 8, 8, dtype=torch.float32), affine=affine).requires_grad_()
    network = build(Network, torch.float32)
    expected = SlidingWindowInferer(5, overlap=0.5)(image, network)
    got = MemoryBoundedSlidingWindowInferer(5, overlap=0.5)(image, network)
    assert type(got) is type(expected) is MetaTensor
    assert torch.equal(got.affine, affine) and got.meta.keys() == expected.meta.keys()
    assert difference(got.detach().as_tensor(), expected.detach().as_tensor()) < 1e-6
    wanted = torch.autograd.grad(expected.pow(2).sum(), image)[0]
    assert difference(torch.autograd.grad(got.pow(2).sum(), image)[0].as_tensor(), wanted.as_tensor()) < 1e-5


def test_without_a_gradient_it_runs_in_the_callers_mode():
    network = build(Network)
    image = volume(1, 1, 8, 8, 8)
    with torch.no_grad():
        output = MemoryBoundedSlidingWindowInferer(5)(image.clone().requires_grad_(), network)
    assert not output.requires_grad and network.forwards == 8
    with torch.inference_mode():
        assert MemoryBoundedSlidingWindowInferer(5)(image, network).is_inference()
    # training through the inferer still reaches the parameters
    MemoryBoundedSlidingWindowInferer(5, overlap=0.5)(image, network).pow(2).sum().backward()
    got = network.first.weight.grad.clone()
    network.zero_grad()
    SlidingWindowInferer(5, overlap=0.5)(image, network).pow(2).sum().backward()
    assert difference(got, network.first.weight.grad) < 1e-10


def test_condition_and_coordinates_reach_the_network():
    image, condition = volume(1, 1, 8, 7, 9), volume(1, 1, 8, 7, 9).flip(2)
    inner = build(Network)

    def predict(x, where, scale, condition=None):
        starts = torch.tensor([[part.start for part in index[2:]] for index in where], dtype=x.dtype).sum(1)
        return inner(x * condition) * scale + starts.reshape(-1, 1, 1, 1, 1) * x

    results = []
    for kind in (SlidingWindowInferer, MemoryBoundedSlidingWindowInferer):
        leaf = image.clone().requires_grad_()
        output = kind((4, 8, 5), 2, with_coord=True)(leaf, predict, 2.0, condition=condition)
        results.append(([output.detach()], torch.autograd.grad(output.sin().sum(), leaf)[0]))
    assert_same(results[1], results[0], 1e-10)


@pytest.mark.parametrize("option", [{"buffer_steps": 1}, {"device": "cpu"}, {"sw_device": "cpu"}, {"cpu_thresh": 1}])
def test_other_options_change_nothing(option):
    network = build(Network)
    arguments = {"roi_size": (5, 5, 5), "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
    reference = run(SlidingWindowInferer(**arguments, **option), network, volume(1, 1, 9, 9, 9))
    ours = MemoryBoundedSlidingWindowInferer(**arguments, **option, cache_roi_weight_map=True)
    assert_same(run(ours, network, volume(1, 1, 9, 9, 9)), reference, 1e-10)


def test_parameters_are_unfrozen_after_an_exception():
    network = build(lambda: Network(head=torch.nn.Flatten(2)))
    with pytest.raises(ValueError, match="spatial axes for windows"):
        MemoryBoundedSlidingWindowInferer(4)(volume(1, 1, 8, 8, 8).requires_grad_(), network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_bad_input_is_refused_with_one_sentence():
    image, network = volume(1, 1, 8, 8, 8).requires_grad_(), build(Network)
    with pytest.raises(ValueError, match="keep_windows_megabytes"):
        MemoryBoundedSlidingWindowInferer(4, keep_windows_megabytes=-1)
    with pytest.raises(ValueError, match="keep_windows_megabytes"):
        memory_bounded(SlidingWindowInferer(4), keep_windows_megabytes=float("nan"))
    with pytest.raises(ValueError, match="3 spatial axes|2 spatial axes"):
        MemoryBoundedSlidingWindowInferer((4, 4))(image, network)
    with pytest.raises(ValueError, match="overlap"):
        MemoryBoundedSlidingWindowInferer(4, overlap=1.0)(image, network)
    with pytest.raises(ValueError, match="condition"):
        MemoryBoundedSlidingWindowInferer(4)(image, network, condition=image[..., :4])
    with pytest.raises(ValueError, match="only inputs may require a gradient"):
        MemoryBoundedSlidingWindowInferer(4)(image, lambda x, y: x * y, torch.ones(1, requires_grad=True))
    with pytest.raises(RuntimeError, match="does not depend differentiably"):
        MemoryBoundedSlidingWindowInferer(4)(image, lambda x: x.detach() * 2).sum().backward()


def test_conversion_keeps_the_settings_and_leaves_other_inferers_alone():
    class Custom(SlidingWindowInferer):
        pass

    for kind in (SlidingWindowInferer, SlidingWindowInfererAdapt):
        plain = kind((4, 4, 4), 3, 0.5, "gaussian", cval=-1.0, cache_roi_weight_map=True)
        converted = memory_bounded(plain, 7)
        assert type(converted) is MemoryBoundedSlidingWindowInferer and type(plain) is kind
        assert {**vars(plain), "keep_windows_megabytes": 7.0} == vars(converted)
        network = build(Network)
        assert_same(run(converted, network, volume(1, 1, 7, 7, 7)), run(plain, network, volume(1, 1, 7, 7, 7)), 1e-10)
    for other in (Custom(4), SimpleInferer(), None, memory_bounded(SlidingWindowInferer(4))):
        assert memory_bounded(other) is other
    outer = ScannerSpaceInferer(SlidingWindowInferer(4))
    assert type(memory_bounded(outer).inferer) is MemoryBoundedSlidingWindowInferer
    assert type(outer.inferer) is SlidingWindowInferer
    outer = ScannerSpaceInferer()
    assert memory_bounded(outer) is outer


def saved_bytes(inferer, network, image) -> int:
    """Bytes autograd keeps between forward and backward, one count per storage, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = inferer(image.clone().requires_grad_(), network)
    del output
    return sum(seen.values())


def test_saved_memory_does_not_grow_with_the_number_of_windows():
    network, image = build(Network), volume(1, 1, 16, 16, 16)
    ours = {
        overlap: saved_bytes(
            MemoryBoundedSlidingWindowInferer(8, overlap=overlap, keep_windows_megabytes=0), network, image
        )
        for overlap in (0.25, 0.5, 0.75)
    }  # 27, 27 and 125 windows
    naive = {overlap: saved_bytes(SlidingWindowInferer(8, overlap=overlap), network, image) for overlap in ours}
    assert len(set(ours.values())) == 1
    assert naive[0.75] > 4 * naive[0.5] > 20 * ours[0.5]
    window = saved_bytes(SimpleInferer(), network, image[..., :8, :8, :8]) + 3 * 8**3 * 8  # its input and output
    assert ours[0.5] <= 2 * image.nbytes + window  # the image, the sum of weights, and the graph of the last window


def test_peak_memory_is_that_of_one_window_and_a_few_volumes():
    network, image = build(Network, torch.float32), volume(1, 1, 24, 24, 24, dtype=torch.float32)
    network.requires_grad_(False)

    def peak(inferer, tensor):
        leaf = tensor.clone().requires_grad_()
        with PeakBytes() as tracker:
            output = inferer(leaf, network)
            output.sum().backward()
        assert tracker.live > 0  # the output and the gradient are still there: storages are followed
        return tracker.peak

    window = peak(SimpleInferer(), image[..., :8, :8, :8])
    ours = peak(MemoryBoundedSlidingWindowInferer(8, overlap=0.5, mode="gaussian", keep_windows_megabytes=0), image)
    naive = peak(SlidingWindowInferer(8, overlap=0.5, mode="gaussian"), image)
    # output and its gradient (2 channels each), sum of weights, gradient of the image
    volumes = (2 + 2 + 1 + 1) * image.nbytes
    assert ours <= 1.3 * (window + volumes)
    assert naive > 4 * ours
