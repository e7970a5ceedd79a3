# SPDX-License-Identifier: Apache-2.0
"""ONNX networks, run by onnxruntime, as targets: by queries alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.archives import check_file
from monai_adversarial.audit.targets.assemble import assemble, device_of, told_size
from monai_adversarial.audit.targets.first_look import Interface, last_line, look_at
from monai_adversarial.audit.targets.queried_network import QueriedNetwork
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from monai_adversarial.utils.hashing import file_hash

__all__ = ["read_onnx"]

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class _Session:
    """An onnxruntime session as a callable from a float32 array to a dictionary of arrays.

    Args:
        session: ``onnxruntime.InferenceSession`` with one input.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        entry = session.get_inputs()[0]
        self.input, self.kind = entry.name, FLOATS[entry.type]
        self.outputs = [output.name for output in session.get_outputs()]

    def __call__(self, image: np.ndarray) -> Any:
        answers = self.session.run(self.outputs, {self.input: image.astype(self.kind, copy=False)})
        return answers[0] if len(answers) == 1 else dict(zip(self.outputs, answers, strict=True))


def read_onnx(
    path: str | os.PathLike[str],
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    device: torch.device | str | None = None,
) -> TargetParts:
    """Read an ONNX model (extra ``onnx``), with its files of external data.

    It is run in float32 by onnxruntime, on the CPU or by its CUDA provider where that is installed, and attacked by
    queries: ``network.samples`` counts them. Axes of fixed length become the size of its windows.

    Args:
        path: of the ``.onnx`` file.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        device: ``"cpu"`` or ``"cuda"``; None for the GPU where torch and onnxruntime have one.

    Raises:
        TargetError: where the extra is not installed, for a file that cannot be read, several inputs, or a network that
            is no segmentation.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise TargetError('ONNX models need onnxruntime: pip install "monai-adversarial[onnx]".') from error
    file = check_file(path)
    options = PipelineOptions.of(options)
    where = device_of(device)
    try:
        model = onnx.load(str(file), load_external_data=False)
        external = _external_files(model, file)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.use_deterministic_compute = True
        settings.log_severity_level = 3
        cuda = where.type == "cuda" and CUDA in onnxruntime.get_available_providers()
        providers = [(CUDA, {"device_id": where.index or 0}), CPU] if cuda else [CPU]
        session = onnxruntime.InferenceSession(str(file), settings, providers=providers)
    except TargetError:
        raise
    except Exception as error:  # protobuf and onnxruntime have their own
        raise TargetError(f"{file.name} cannot be loaded as ONNX: {last_line(error)}.") from error
    interface, said = _interface(session, file.name)
    hashes = {"weights": file_hash(file), **{f"weights in {one.name}": file_hash(one) for one in external}}
    identity = "".join(hashes.values())
    network = QueriedNetwork(_Session(session), name=file.name, identity=identity, batch=interface.batch)
    final = _final_activation(model, [output.name for output in session.get_outputs()])
    facts = [
        Fact("network", file.name, "ONNX"),
        *said,
        Fact("onnxruntime", f"{onnxruntime.__version__}, {session.get_providers()[0]}", "installed"),
    ]
    if external:
        facts.append(Fact("external data", ", ".join(one.name for one in external), file.name))
    look = look_at(
        network.raw,
        interface,
        file.name,
        told_size=told_size(options),
        told_channels=options.in_channels,
        output=options.output,
        value_range=options.output_range,
        device="cpu",
        gradients=False,
    )
    network.output, network.batch = look.output, look.interface.batch
    return assemble(
        "ONNX",
        file.name,
        network.eval(),
        look,
        options,
        facts=facts,
        hashes=hashes,
        final_activation=final if look.output is None else None,
    )


def _external_files(model: Any, file: Path) -> list[Path]:
    """The files beside a model that hold its weights.

    Raises:
        TargetError: for one that is absent or lies outside of the model's folder.
    """
    names = set()
    for tensor in model.graph.initializer:
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    folder = file.parent.resolve()
    found = []
    for name in sorted(names):
        one = (folder / name).resolve()
        if folder not in one.parents:
            raise TargetError(f"{file.name} names external data outside of its folder: {name!r}.")
        if not one.is_file():
            raise TargetError(f"{file.name} needs its external data {name!r} beside it, which is not there.")
        found.append(one)
    return found


def _interface(session: Any, name: str) -> tuple[Interface, list[Fact]]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        named = ", ".join(one.name for one in inputs)
        raise TargetError(f"{name} takes {len(inputs)} inputs ({named}), expected one image.")
    image = inputs[0]
    if image.type not in FLOATS:
        raise TargetError(f"{name} takes {image.type}, expected a floating point image.")
    if not 3 <= len(image.shape) <= 5:
        raise TargetError(
            f"{name} takes an input with {len(image.shape)} axes, expected (batch, channel, 1 to 3 spatial)."
        )
    sizes = [size if isinstance(size, int) and size > 0 else None for size in image.shape]

    def words(entry: Any) -> str:
        return f"{entry.name!r} {entry.type} {' x '.join(map(str, entry.shape))}"

    facts = [Fact("input shape", words(image), "the model's inputs")]
    facts += [Fact("output shape", words(entry), "the model's outputs") for entry in outputs]
    return Interface(sizes[1], tuple(sizes[2:]), sizes[0]), facts


def _final_activation(model: Any, outputs: list[str]) -> str | None:
    """The softmax or sigmoid that the graph's only output comes from."""
    if len(outputs) != 1:
        return None
    for node in model.graph.node:
        if outputs[0] in node.output:
            if node.op_type == "Sigmoid":
                return "sigmoid"
            if node.op_type == "Softmax":
                axis = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
                rank = len(model.graph.input[0].type.tensor_type.shape.dim)
                return "softmax" if axis and axis[0] in (1, 1 - rank) else None
    return None
