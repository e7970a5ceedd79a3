# SPDX-License-Identifier: Apache-2.0
"""Normalization layers in two copies, one for clean and one for adversarial images."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from monai_adversarial.utils.modules import modules_of
from monai_adversarial.utils.validation import check_choice

__all__ = [
    "NORMALIZATION_DOMAINS",
    "DualNormalization",
    "collapse_dual_normalization",
    "convert_dual_normalization",
    "dual_normalizations",
    "has_dual_normalization",
    "normalization",
    "set_normalization",
]

NORMALIZATION_DOMAINS = ("clean", "adversarial", "split")
_BRANCHES = ("clean", "adversarial")


class DualNormalization(nn.Module):
    """Two normalization layers of which ``domain`` says who works.

    The state dictionary of the single layer can be loaded into it: both branches take its values.

    >>> import torch
    >>> from monai_adversarial.networks import DualNormalization
    >>> layer = DualNormalization(torch.nn.BatchNorm3d(4))
    >>> layer.domain = "split"
    >>> features = layer(torch.rand(4, 4, 3, 3, 3))
    >>> bool((layer.clean.running_mean != layer.adversarial.running_mean).any())
    True

    Args:
        clean: the layer for clean images.
        adversarial: the layer for adversarial images; None for a copy of ``clean``.

    Attributes:
        domain: ``"clean"`` (the default), ``"adversarial"``, or ``"split"``: the first half of the batch is clean and
            the second adversarial, so that one forward pass uses all parameters, as ``DistributedDataParallel`` wants.
            It belongs to this instance, is no part of the state dictionary, and is a guard under ``torch.compile``:
            each domain is compiled once.

    Raises:
        ValueError: in the forward pass, for a batch of odd size in the domain ``"split"``.
    """

    domain: str = "clean"

    def __init__(self, clean: nn.Module, adversarial: nn.Module | None = None) -> None:
        super().__init__()
        self.clean = clean
        self.adversarial = copy.deepcopy(clean) if adversarial is None else adversarial
        self.domain = "clean"
        self.training = clean.training
        self._register_load_state_dict_pre_hook(_take_single_layer, with_module=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.domain == "clean":
            return self.clean(features)
        if self.domain == "adversarial":
            return self.adversarial(features)
        batch = features.shape[0]
        if batch % 2:
            raise ValueError(
                "normalization 'split' needs a batch whose first half is clean and second half adversarial, "
                f"got {batch} samples."
            )
        first, second = features[: batch // 2], features[batch // 2 :]
        return torch.cat([self.clean(first), self.adversarial(second)])

    def extra_repr(self) -> str:
        return f"domain={self.domain!r}"


def _take_single_layer(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """In the state dictionary of a network before its conversion, give both branches the values of the one layer."""
    names = {name for branch in _BRANCHES for name in getattr(module, branch).state_dict()}
    for name in names:
        if prefix + name in state:
            value = state.pop(prefix + name)
            for branch in _BRANCHES:
                state[f"{prefix}{branch}.{name}"] = value


def convert_dual_normalization(network: nn.Module) -> nn.Module:
    """Give each normalization layer of ``network`` a second copy for adversarial images, in place.

    Every ``BatchNorm1d`` / ``2d`` / ``3d`` and ``SyncBatchNorm`` becomes a :class:`DualNormalization`, and so does
    every ``InstanceNorm`` with something to learn or to track (``affine=True``, whose scale and shift are then what
    differs, or ``track_running_stats=True``). Both copies start with the same values, so that the network computes
    what it computed before. Layers that were converted before stay as they are.

    The parameters of the adversarial copies are new: build the optimizer, ``DistributedDataParallel`` and
    ``torch.compile`` afterwards. Checkpoints from before the conversion can be loaded before or after it.

    >>> import torch
    >>> from monai.networks.nets import UNet
    >>> from monai_adversarial.networks import convert_dual_normalization
    >>> network = UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="batch").eval()
    >>> image, before = torch.rand(1, 1, 8, 8, 8), len(list(network.parameters()))
    >>> logits = network(image)
    >>> converted = convert_dual_normalization(network)
    >>> bool((converted(image) == logits).all()), len(list(converted.parameters())) > before
    (True, True)

    Args:
        network: any network.

    Returns:
        ``network`` itself (its replacement, where it is nothing but a normalization layer).

    Raises:
        TypeError: when ``network`` is not a module.
        ValueError: when nothing can be converted, or the network is wrapped or not yet initialized.

    Source: Han et al. 2021, "Advancing diagnostic performance and clinical usability of neural networks via adversarial
    training and dual batch normalization" (BatchNorm); the affine parameters of InstanceNorm are an extension.

    Survey entry: D08 (adapted).
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}.")
    if _unwrapped(network) is not network:
        raise ValueError(
            "convert the network before it is wrapped: the new parameters would be unknown to "
            f"{type(network).__name__}."
        )
    single = [layer for layer in _outside_dual(network) if _convertible(layer)]
    if not single and not has_dual_normalization(network):
        raise ValueError(
            "network must have BatchNorm or affine InstanceNorm layers to get dual normalization, "
            f"found {_normalizations_found(network)}."
        )
    if any(is_lazy(weight) for layer in single for weight in (*layer.parameters(), *layer.buffers())):
        raise ValueError(
            "network has lazy normalization layers without parameters yet: run one batch through it first."
        )
    return _replace(network, {id(layer): DualNormalization(layer) for layer in single})


def collapse_dual_normalization(network: nn.Module, domain: str = "clean") -> nn.Module:
    """An ordinary network that has one branch of each :class:`DualNormalization`, for deployment.

    Its state dictionary fits the architecture from before :func:`convert_dual_normalization`.

    >>> from monai.networks.nets import UNet
    >>> from monai_adversarial.networks import collapse_dual_normalization, convert_dual_normalization
    >>> plain = UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="batch")
    >>> names = list(plain.state_dict())
    >>> network = convert_dual_normalization(plain)
    >>> list(collapse_dual_normalization(network, "adversarial").state_dict()) == names
    True

    Args:
        network: a converted network, also inside ``DistributedDataParallel`` or ``torch.compile``; it stays as it is.
        domain: the branch to keep, ``"clean"`` (accuracy on clean images) or ``"adversarial"`` (robustness).

    Returns:
        a copy without the wrappers.

    Raises:
        ValueError: for another ``domain``.
    """
    check_choice("domain", domain, _BRANCHES)
    ordinary = copy.deepcopy(_unwrapped(network))
    return _replace(ordinary, {id(layer): getattr(layer, domain) for layer in dual_normalizations(ordinary)})


def dual_normalizations(network: Any) -> list[DualNormalization]:
    """The :class:`DualNormalization` layers of a network, of what wraps it, or of a callable that holds one."""
    return list({id(part): part for part in _all_modules(network) if isinstance(part, DualNormalization)}.values())


def has_dual_normalization(network: Any) -> bool:
    """Whether ``network`` has a :class:`DualNormalization`, also behind wrappers.

    >>> import torch
    >>> from monai_adversarial.networks import convert_dual_normalization, has_dual_normalization
    >>> network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    >>> has_dual_normalization(network), has_dual_normalization(convert_dual_normalization(network))
    (False, True)
    """
    return bool(dual_normalizations(network))


def set_normalization(network: Any, domain: str) -> int:
    """Choose which copies of the normalization layers work from now on.

    >>> import torch
    >>> from monai_adversarial.networks import convert_dual_normalization, set_normalization
    >>> network = convert_dual_normalization(torch.nn.Sequential(torch.nn.BatchNorm3d(2)))
    >>> set_normalization(network, "adversarial"), set_normalization(torch.nn.ReLU(), "adversarial")
    (1, 0)
    >>> set_normalization(network, "noisy")
    Traceback (most recent call last):
    ValueError: domain must be one of ...

    Args:
        network: a network, also inside ``DistributedDataParallel`` or ``torch.compile``, or a callable that holds one.
        domain: ``"clean"``, ``"adversarial"`` or ``"split"``, see :class:`DualNormalization`.

    Returns:
        number of layers that were set: 0 for a network without dual normalization.

    Raises:
        ValueError: for another ``domain``.
    """
    check_choice("domain", domain, NORMALIZATION_DOMAINS)
    layers = dual_normalizations(network)
    for layer in layers:
        layer.domain = domain
    return len(layers)


@contextmanager
def normalization(network: Any, domain: str) -> Iterator[int]:
    """Choose which copies of the normalization layers work for a while; afterwards each layer's domain is as before,
    exceptions included.

    A backward pass that computes activations again (``torch.utils.checkpoint``) has to run inside, too.

    >>> import torch
    >>> from monai_adversarial.networks import convert_dual_normalization, normalization
    >>> network = convert_dual_normalization(torch.nn.Sequential(torch.nn.BatchNorm3d(2)))
    >>> with normalization(network, "adversarial") as layers:
    ...     features = network(torch.rand(2, 2, 3, 3, 3))
    >>> layers, network[0].domain, int(network[0].adversarial.num_batches_tracked)
    (1, 'clean', 1)

    Args:
        network: as in :func:`set_normalization`; a network without dual normalization is left alone.
        domain: ``"clean"``, ``"adversarial"`` or ``"split"``.

    Yields:
        number of layers that were set.

    Raises:
        ValueError: for another ``domain``.
    """
    before = [(layer, layer.domain) for layer in dual_normalizations(network)]
    try:
        yield set_normalization(network, domain)
    finally:
        for layer, earlier in before:
            layer.domain = earlier


def _all_modules(network: Any) -> Iterator[nn.Module]:
    for module in modules_of(network):
        for part in module.modules():
            yield part
            inner = vars(part).get("network")  # a thin wrapper of something that is no module
            if callable(inner):
                yield from _all_modules(inner)


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel``, in any order."""
    while True:
        if isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            network = network.module
        elif isinstance(compiled := getattr(network, "_orig_mod", None), nn.Module):
            network = compiled
        else:
            return network


def _convertible(layer: nn.Module) -> bool:
    if isinstance(layer, _InstanceNorm):
        return layer.affine or layer.track_running_stats
    return isinstance(layer, _BatchNorm)


def _outside_dual(network: nn.Module) -> Iterator[nn.Module]:
    """All modules except :class:`DualNormalization` and what is inside."""
    inside = {id(part) for layer in dual_normalizations(network) for part in layer.modules()}
    return (module for module in network.modules() if id(module) not in inside)


def _replace(network: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """Put each replacement in all places of the module whose id it is filed under; a shared layer stays shared."""
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
    return replacements.get(id(network), network)


def _normalizations_found(network: nn.Module) -> str:
    """For an error message: what normalization there is instead."""
    counts: Counter[str] = Counter()
    for module in network.modules():
        name = type(module).__name__
        if isinstance(module, _InstanceNorm):
            counts[f"{name}(affine=False)"] += 1
        elif "norm" in name.lower() and not list(module.children()):
            counts[name] += 1
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "no normalization layer at all"
