# SPDX-License-Identifier: Apache-2.0
"""Networks from ``torch.export`` (``.pt2``) as targets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.archives import (
    archive_kind,
    check_file,
    class_names_of,
    extra_file,
    pickled_entries,
)
from monai_adversarial.audit.targets.assemble import assemble, device_of, told_size
from monai_adversarial.audit.targets.called_as_seen import called_as_seen
from monai_adversarial.audit.targets.final_activation import show_activations
from monai_adversarial.audit.targets.first_look import Interface, last_line, look_at
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from monai_adversarial.utils.hashing import file_hash

__all__ = ["read_torch_export"]


def read_torch_export(
    path: str | os.PathLike[str],
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    device: torch.device | str | None = None,
    trust: bool = False,
) -> TargetParts:
    """Read an archive that ``torch.export.save`` wrote (``.pt2``).

    It is a program, as TorchScript is: audit one that you would deploy. Axes that the export fixes become the size of
    its windows.

    Args:
        path: of the file.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        device: where it runs; None for the GPU where there is one.
        trust: load archives that hold pickled objects, which run any Python when they are loaded.

    Raises:
        TargetError: for a file that cannot be read, one that holds pickled objects without ``trust``, several inputs,
            or a network that is no segmentation.
    """
    file = check_file(path)
    options = PipelineOptions.of(options)
    where = device_of(device)
    if archive_kind(file) != "torch.export":
        raise TargetError(f"{file.name} is no archive of torch.export.save.")
    pickled = pickled_entries(file)
    if pickled and not trust:
        raise TargetError(
            f"{file.name} holds pickled objects ({', '.join(pickled[:3])}), which run any Python when they are loaded: "
            "export it anew with plain tensors, or pass --trust if you know where it is from."
        )
    try:
        program = torch.export.load(file)
    except Exception as error:  # damaged archives, and those of another version, fail in many ways
        raise TargetError(
            f"{file.name} cannot be loaded by torch.export of torch {torch.__version__}: {last_line(error)}."
        ) from error
    interface, shape = _input_of(program, file.name)
    if where.type != "cpu":
        program = move_to_device_pass(program, where)
    network = program.module()
    if isinstance(network, torch.fx.GraphModule):
        show_activations(network)
    for module in network.modules():
        module.training = False  # eval() refuses: the mode is fixed in the graph, and this is its name alone
    hashes = {"weights": file_hash(file)}
    facts = [
        Fact("network", file.name, "torch.export"),
        Fact("input shape", shape, "the graph's signature"),
        Fact("parameters", f"{sum(weight.numel() for weight in network.parameters()):,}", file.name),
        Fact("device", str(where), "" if device is None else "told"),
    ]
    look = look_at(
        network,
        interface,
        file.name,
        told_size=told_size(options),
        told_channels=options.in_channels,
        output=options.output,
        value_range=options.output_range,
        device=where,
    )
    called = called_as_seen(network, look, file.name, hashes["weights"])
    called.training = False
    return assemble(
        "torch.export",
        file.name,
        called,
        look,
        options,
        facts=facts,
        hashes=hashes,
        class_names=class_names_of(extra_file(file, "metadata.json")),
    )


def _input_of(program: torch.export.ExportedProgram, name: str) -> tuple[Interface, str]:
    """The input as the graph's signature says it, and in words."""
    names = program.graph_signature.user_inputs
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    values = [node.meta.get("val") for node in placeholders]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise TargetError(f"{name} takes {len(names)} inputs ({', '.join(map(str, names))}), expected one image.")
    image = values[0]
    if not 3 <= image.ndim <= 5:
        raise TargetError(f"{name} takes an input with {image.ndim} axes, expected (batch, channel, 1 to 3 spatial).")
    if image.dtype != torch.float32:
        raise TargetError(f"{name} takes {image.dtype}, expected float32.")
    sizes = [size if isinstance(size, int) else None for size in image.shape]
    shape = " x ".join(str(size) for size in image.shape)
    return Interface(sizes[1], tuple(sizes[2:]), sizes[0]), shape
