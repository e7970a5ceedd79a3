# SPDX-License-Identifier: Apache-2.0
"""Two copies of each normalization layer: who works, what each learns, and that nothing leaks."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.networks.dual_normalization import (
    DualNormalization,
    collapse_dual_normalization,
    convert_dual_normalization,
    dual_normalizations,
    has_dual_normalization,
    normalization,
    set_normalization,
)
from monai_adversarial.utils.precision import Precision
from tests.helpers import random_image, tiny_segmentation_network


def unet(norm: object = "batch", seed: int = 0) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm=norm)  # type: ignore[arg-type]
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def dual_unet(norm: object = "batch") -> nn.Module:
    """Branches that differ, so that a mix-up changes the output."""
    network = convert_dual_normalization(unet(norm))
    for number, layer in enumerate(dual_normalizations(network)):
        generator = torch.Generator().manual_seed(number)
        for value in layer.adversarial.state_dict().values():
            if value.is_floating_point():
                value.add_(0.5 * torch.rand(value.shape, generator=generator))
    return network


def branch_state(network: nn.Module, branch: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if f".{branch}." in name}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first and first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


IMAGE = random_image((4, 1, 8, 8, 8))
AFFINE_INSTANCE = ("instance", {"affine": True})


@pytest.mark.parametrize("norm", ["batch", AFFINE_INSTANCE])
def test_conversion_is_in_place_complete_and_changes_no_output_in_any_domain(norm):
    network = unet(norm)
    expected = network(IMAGE)
    layers = sum(isinstance(m, (nn.BatchNorm3d, nn.InstanceNorm3d)) for m in network.modules())
    assert convert_dual_normalization(network) is network
    assert len(dual_normalizations(network)) == layers > 0 and has_dual_normalization(network)
    assert all(layer.domain == "clean" and not layer.training for layer in dual_normalizations(network))
    for domain in ("clean", "adversarial", "split"):
        assert set_normalization(network, domain) == layers
        torch.testing.assert_close(network(IMAGE), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm3d(3, affine=False),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, affine=True),
        nn.InstanceNorm3d(3, track_running_stats=True),
    ],
)
def test_each_kind_of_layer_is_converted_alone_and_in_a_sequence(layer):
    assert isinstance(convert_dual_normalization(copy.deepcopy(layer)), DualNormalization)
    network = convert_dual_normalization(nn.Sequential(nn.Identity(), layer))
    assert isinstance(network[1], DualNormalization) and network[1].clean is layer
    assert network[1].adversarial is not layer and type(network[1].adversarial) is type(layer)


def test_a_shared_layer_stays_shared_and_a_second_conversion_changes_nothing():
    layer = nn.BatchNorm3d(1)
    network = nn.Sequential(layer, nn.Sequential(layer))
    convert_dual_normalization(network)
    assert network[0] is network[1][0]
    before = network[0]
    assert convert_dual_normalization(network)[0] is before and len(dual_normalizations(network)) == 1
    assert isinstance(before.clean, nn.BatchNorm3d)


@pytest.mark.parametrize(("domain", "other"), [("clean", "adversarial"), ("adversarial", "clean")])
def test_training_in_one_domain_leaves_the_other_branch_alone(domain, other):
    network = dual_unet().train()
    mine, others = branch_state(network, domain), branch_state(network, other)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with normalization(network, domain):
        network(IMAGE).square().mean().backward()
    optimizer.step()
    assert same(others, branch_state(network, other))
    after = branch_state(network, domain)
    changed = {name.rsplit(".", 1)[1] for name in mine if not torch.equal(mine[name], after[name])}
    assert changed == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("norm", ["batch", AFFINE_INSTANCE])
def test_split_equals_two_forward_passes(norm):
    network = dual_unet(norm)
    clean, adversarial = IMAGE[:2], IMAGE[2:]
    with normalization(network, "clean"):
        first = network(clean)
    with normalization(network, "adversarial"):
        second = network(adversarial)
        assert not torch.allclose(network(clean), first, atol=1e-3)
    with normalization(network, "split"):
        joint = network(IMAGE)
    torch.testing.assert_close(joint, torch.cat([first, second]), rtol=1e-5, atol=1e-6)


def test_split_in_training_mode_updates_both_statistics_as_two_passes_do():
    joint, separate = dual_unet().train(), dual_unet().train()
    with normalization(joint, "split"):
        loss = joint(IMAGE).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in joint.parameters())
    set_normalization(separate, "clean")
    first = separate(IMAGE[:2]).square().sum()
    set_normalization(separate, "adversarial")
    (first + separate(IMAGE[2:]).square().sum()).backward()
    for (name, ours), (_, theirs) in zip(joint.named_parameters(), separate.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=name)
    torch.testing.assert_close(dict(joint.named_buffers()), dict(separate.named_buffers()), rtol=1e-5, atol=1e-6)


def test_split_works_on_metatensors_and_rejects_an_odd_batch():
    layer = convert_dual_normalization(nn.Sequential(nn.BatchNorm3d(1))).eval()
    with normalization(layer, "split"):
        torch.testing.assert_close(torch.as_tensor(layer(MetaTensor(IMAGE))), layer(IMAGE))
        with pytest.raises(ValueError, match="first half is clean and second half adversarial, got 3 samples"):
            layer(IMAGE[:3])


def test_the_context_restores_what_was_there_also_after_an_exception():
    network = dual_unet()
    first, *rest = dual_normalizations(network)
    first.domain = "split"
    with pytest.raises(RuntimeError, match="inside"), normalization(network, "adversarial") as number:
        assert number == 1 + len(rest)
        assert all(layer.domain == "adversarial" for layer in dual_normalizations(network))
        raise RuntimeError("inside")
    assert first.domain == "split" and all(layer.domain == "clean" for layer in rest)


def test_a_network_without_dual_layers_is_left_alone():
    network = unet()
    assert set_normalization(network, "adversarial") == 0 and not has_dual_normalization(network)
    with normalization(network, "split") as number:
        assert number == 0


def test_two_networks_do_not_share_their_domain_and_a_copy_keeps_it():
    network, other = dual_unet(), dual_unet()
    set_normalization(network, "adversarial")
    twin = copy.deepcopy(network)
    assert {layer.domain for layer in dual_normalizations(other)} == {"clean"}
    assert {layer.domain for layer in dual_normalizations(twin)} == {"adversarial"}
    set_normalization(twin, "split")
    assert {layer.domain for layer in dual_normalizations(network)} == {"adversarial"}


def test_layers_are_found_behind_wrappers_and_callables():
    network = dual_unet()
    number = len(dual_normalizations(network))
    wrapped = [
        nn.DataParallel(network),
        torch.compile(network, backend="eager"),
        lambda image: network(image),
        functools.partial(network),
        network.forward,
        Precision("float32", IMAGE).wrap(lambda image: network(image)),
    ]
    assert [set_normalization(predict, "split") for predict in wrapped] == [number] * len(wrapped)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
def test_split_uses_all_parameters_as_distributed_data_parallel_wants(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, inside = dual_unet().train(), dual_unet().train()
        wrapped = nn.parallel.DistributedDataParallel(inside)
        for _ in range(2):  # unused parameters are an error in the second iteration
            for network in (plain, wrapped):
                with normalization(network, "split") as number:
                    assert number == len(dual_normalizations(inside)) > 0
                    network(IMAGE).square().sum().backward()
        for ours, theirs in zip(inside.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        assert not has_dual_normalization(collapse_dual_normalization(wrapped))
        with pytest.raises(ValueError, match="unknown to DistributedDataParallel"):
            convert_dual_normalization(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def test_switching_under_torch_compile_gives_the_right_numbers():
    network = dual_unet()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    outputs = []
    for domain in ("clean", "adversarial", "split", "clean", "adversarial"):
        with normalization(compiled, domain):
            outputs.append(network(IMAGE))
            torch.testing.assert_close(compiled(IMAGE), outputs[-1])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
    compiled.train()
    before = branch_state(network, "clean")
    with normalization(compiled, "adversarial"):
        compiled(IMAGE)
    assert same(before, branch_state(network, "clean"))


@pytest.mark.parametrize("domain", ["clean", "adversarial"])
@pytest.mark.parametrize("norm", ["batch", AFFINE_INSTANCE])
def test_collapsing_gives_an_ordinary_network_with_one_branch(domain, norm):
    network = dual_unet(norm)
    ordinary = collapse_dual_normalization(nn.DataParallel(network), domain)
    assert isinstance(ordinary, UNet) and not has_dual_normalization(ordinary) and has_dual_normalization(network)
    with normalization(network, domain):
        assert torch.equal(ordinary(IMAGE), network(IMAGE))
    plain = unet(norm, seed=1)
    plain.load_state_dict(ordinary.state_dict(), strict=True)
    assert torch.equal(plain(IMAGE), ordinary(IMAGE))


def test_state_dictionaries_make_the_round_trip():
    network = dual_unet()
    restored = convert_dual_normalization(unet(seed=1))
    restored.load_state_dict(network.state_dict(), strict=True)
    for domain in ("clean", "adversarial"):
        with normalization(network, domain), normalization(restored, domain):
            assert torch.equal(network(IMAGE), restored(IMAGE))
    assert {layer.domain for layer in dual_normalizations(restored)} == {"clean"}


@pytest.mark.parametrize("norm", ["batch", AFFINE_INSTANCE])
def test_a_checkpoint_from_before_the_conversion_fills_both_branches(norm):
    plain, network = unet(norm, seed=1), dual_unet(norm)
    state = plain.state_dict()
    network.load_state_dict(state, strict=True)
    assert state.keys() == plain.state_dict().keys()  # the caller's dictionary stays as it was
    for domain in ("clean", "adversarial"):
        with normalization(network, domain):
            assert torch.equal(network(IMAGE), plain(IMAGE))
    first = dual_normalizations(network)[0]
    assert first.clean.weight.data_ptr() != first.adversarial.weight.data_ptr()
    incomplete = {name: value for name, value in state.items() if not name.endswith("adn.N.weight")}
    with pytest.raises(RuntimeError, match="Missing key.*clean.weight"):
        network.load_state_dict(incomplete, strict=True)


def test_the_optimizer_keeps_the_clean_parameters_and_frozen_ones_stay_frozen():
    network = unet()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before = {id(parameter) for parameter in network.parameters()}
    convert_dual_normalization(network)
    after = {id(parameter) for parameter in network.parameters()}
    assert before < after and not any(parameter.requires_grad for parameter in network.parameters())


def test_bad_use_is_one_sentence():
    with pytest.raises(TypeError, match="network must be a torch.nn.Module, got str"):
        convert_dual_normalization("network")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found no normalization layer at all"):
        convert_dual_normalization(tiny_segmentation_network())
    with pytest.raises(ValueError, match=r"found \d InstanceNorm3d\(affine=False\)"):
        convert_dual_normalization(unet("instance"))
    with pytest.raises(ValueError, match="found 1 GroupNorm, 1 LayerNorm"):
        convert_dual_normalization(nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(4)))
    with pytest.raises(ValueError, match="before it is wrapped: the new parameters would be unknown to DataParallel"):
        convert_dual_normalization(nn.DataParallel(unet()))
    with pytest.raises(ValueError, match="run one batch through it first"):
        convert_dual_normalization(nn.Sequential(nn.LazyBatchNorm3d()))
    with pytest.raises(ValueError, match="domain must be one of 'clean', 'adversarial', 'split', got 'robust'"):
        set_normalization(dual_unet(), "robust")
    with pytest.raises(ValueError, match="domain must be one of"), normalization(unet(), "robust"):
        pass
    with pytest.raises(ValueError, match="domain must be one of 'clean', 'adversarial', got 'split'"):
        collapse_dual_normalization(dual_unet(), "split")
