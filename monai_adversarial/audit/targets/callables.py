# SPDX-License-Identifier: Apache-2.0
"""Any Python callable as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.assemble import assemble, device_of, told_size
from monai_adversarial.audit.targets.first_look import Interface, look_at
from monai_adversarial.audit.targets.network_call import ExportedNetwork
from monai_adversarial.audit.targets.queried_network import QueriedNetwork
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from monai_adversarial.utils.hashing import network_hash
from monai_adversarial.utils.modules import describe_callable

__all__ = ["read_callable"]


def read_callable(
    function: Callable[..., Any],
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    takes: str | None = None,
    spatial_dims: int = 3,
    name: str | None = None,
    device: torch.device | str | None = None,
) -> TargetParts:
    """Read a callable from (batch, channel, spatial...) to (batch, class, spatial...).

    A ``torch.nn.Module``, or a callable of tensors that keeps the graph, is attacked by gradients; every other one by
    queries, in float32 whatever the attack's precision.

    Args:
        function: the callable.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        takes: ``"torch"`` (tensors on ``device``) or ``"numpy"`` (float32 arrays in host memory). None: tensors for a
            ``torch.nn.Module``, arrays for everything else.
        spatial_dims: of the image. Default 3.
        name: for the report; None for its own.
        device: where tensors are; None for the GPU where there is one.

    Raises:
        TargetError: for a callable that fails or returns no segmentation.
    """
    if not callable(function):
        raise TargetError(f"the target must be callable, got {type(function).__name__}.")
    options = PipelineOptions.of(options)
    module = isinstance(function, nn.Module)
    takes = ("torch" if module else "numpy") if takes is None else takes
    if takes not in ("torch", "numpy"):
        raise TargetError(f"takes must be 'torch' or 'numpy', got {takes!r}.")
    if module and takes == "numpy":
        raise TargetError("takes is 'numpy', but a torch.nn.Module takes tensors: leave takes out.")
    if isinstance(spatial_dims, bool) or spatial_dims not in (1, 2, 3):
        raise TargetError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims!r}.")
    where = device_of(device)
    name = name or describe_callable(function)
    identity = ""
    if isinstance(function, nn.Module):
        function = function.to(where).eval()
        identity = network_hash(function)
    facts = [Fact("network", f"{name}, called with {'tensors' if takes == 'torch' else 'NumPy arrays'}", "argument")]
    if not identity:
        facts.append(Fact("weights", "not hashed: a callable does not show them", "argument"))
    queried = QueriedNetwork(function, takes=takes, name=name, identity=identity)
    interface = Interface(spatial=(None,) * spatial_dims)
    look = look_at(
        function if takes == "torch" else queried.raw,
        interface,
        name,
        told_size=told_size(options),
        told_channels=options.in_channels,
        output=options.output,
        value_range=options.output_range,
        device=where,
        gradients=takes == "torch",
    )
    network: nn.Module
    if look.differentiable:
        network = ExportedNetwork(function, look.output, look.interface.batch)
    else:
        network = queried
        queried.output, queried.batch = look.output, look.interface.batch
    hashes = {"weights": identity} if identity else {}
    return assemble("callable", name, network, look, options, facts=facts, hashes=hashes)
