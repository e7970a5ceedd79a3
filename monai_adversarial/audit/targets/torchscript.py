# SPDX-License-Identifier: Apache-2.0
"""TorchScript networks, and pickled ones that the user trusts, as targets."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.archives import archive_kind, check_file, class_names_of, extra_file
from monai_adversarial.audit.targets.assemble import assemble, device_of, told_size
from monai_adversarial.audit.targets.called_as_seen import called_as_seen
from monai_adversarial.audit.targets.final_activation import split_torchscript
from monai_adversarial.audit.targets.first_look import FirstLook, Interface, last_line, look_at
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from monai_adversarial.utils.hashing import file_hash

__all__ = ["input_of_weights", "read_torchscript"]

DEFAULT = Interface()


def read_torchscript(
    path: str | os.PathLike[str],
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    device: torch.device | str | None = None,
    trust: bool = False,
) -> TargetParts:
    """Read a TorchScript archive (``.ts``, ``.pt``), from ``torch.jit.script`` or ``trace``.

    A TorchScript archive is a program: loading and calling it runs its operations, which can read and write files but
    run no Python. Audit one that you would deploy. A pickled ``torch.nn.Module`` runs any Python when it is loaded.

    Args:
        path: of the file.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        device: where it runs; None for the GPU where there is one.
        trust: load a pickled ``torch.nn.Module`` as well.

    Raises:
        TargetError: for a file that cannot be read, a pickle without ``trust``, weights without a network, or a network
            that is no segmentation.
    """
    file = check_file(path)
    options = PipelineOptions.of(options)
    where = device_of(device)
    kind = archive_kind(file)
    facts = [Fact("network", file.name, kind)]
    metadata = None
    network: nn.Module
    if kind == "TorchScript":
        try:
            network = torch.jit.load(str(file), map_location=where).eval()
        except Exception as error:  # damaged archives fail in many ways
            raise TargetError(f"{file.name} cannot be loaded as TorchScript: {last_line(error)}.") from error
        metadata = extra_file(file, "metadata.json")
    else:
        network = _pickled(file, trust).to(where).eval()
        kind = "TorchScript" if isinstance(network, torch.jit.ScriptModule) else "pickled module"
    if metadata is not None:
        version = str(metadata.get("version", "?")) if isinstance(metadata, dict) else "?"
        facts.append(Fact("metadata", f"of a MONAI bundle, version {version}", f"{file.name}#extra/metadata.json"))
    count = sum(weight.numel() for weight in network.parameters())
    facts += [Fact("parameters", f"{count:,}", file.name), Fact("device", str(where), "" if device is None else "told")]
    hashes = {"weights": file_hash(file)}
    interface = input_of_weights(network.parameters())

    def look_through(module: nn.Module) -> FirstLook:
        return look_at(
            module,
            interface,
            file.name,
            told_size=told_size(options),
            told_channels=options.in_channels,
            output=options.output,
            value_range=options.output_range,
            device=where,
        )

    split = split_torchscript(network, len(interface.spatial)) if isinstance(network, torch.jit.ScriptModule) else None
    look = look_through(split or network)
    called = split or network
    if split is not None and not _is_same(split, network, look.image):
        look, called = look_through(network), network
    called = called_as_seen(called, look, file.name, hashes["weights"])
    return assemble(
        kind,
        file.name,
        called.eval(),
        look,
        options,
        facts=facts,
        hashes=hashes,
        class_names=class_names_of(metadata),
    )


def input_of_weights(weights: Iterable[torch.Tensor]) -> Interface:
    """Axes and channels of a network's input, from its first convolution; nothing is fixed without one.

    Args:
        weights: in the order in which they are registered.
    """
    for weight in weights:
        if weight.ndim in (4, 5):
            return Interface(int(weight.shape[1]), (None,) * (weight.ndim - 2))
    return DEFAULT


def _is_same(split: nn.Module, network: nn.Module, image: torch.Tensor) -> bool:
    """Whether a network of two parts answers as the whole one; fused kernels may round differently."""
    with torch.no_grad():
        return torch.allclose(split(image), network(image), rtol=0, atol=1e-6)


def _pickled(file: Any, trust: bool) -> nn.Module:
    """A network that ``torch.save`` wrote as a whole."""
    name = file.name
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if archive_kind(file) != "pickle":
            raise TargetError(f"{name} is neither a TorchScript archive nor a file of torch.save.") from error
        if not trust:
            raise TargetError(
                f"{name} is a pickle that holds more than weights, which runs any Python when it is loaded: export it "
                "with torch.jit or torch.export, or pass --trust if you know where it is from."
            ) from error
    except Exception as error:  # truncated files fail in many ways
        raise TargetError(f"{name} is neither a TorchScript archive nor a file of torch.save that is whole.") from error
    else:
        held = "weights without a network" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise TargetError(
            f"{name} holds {held}: give the bundle or the nnU-Net folder that it belongs to, or export the network "
            "with torch.jit or torch.export."
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # a class that cannot be imported, most of all
        raise TargetError(f"{name} cannot be loaded as a pickle: {last_line(error)}.") from error
    if not isinstance(content, nn.Module):
        raise TargetError(f"{name} holds a {type(content).__name__}, expected a torch.nn.Module.")
    return content
