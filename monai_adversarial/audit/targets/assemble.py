# SPDX-License-Identifier: Apache-2.0
"""The parts of an exported network: what it shows of itself and what was told, put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from monai_adversarial.audit.facts import Fact, Missing, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.first_look import FirstLook
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions, ToldPipeline, build_pipeline
from monai_adversarial.utils.plain import as_plain

__all__ = ["assemble", "device_of", "plain_prediction", "told_size"]


def device_of(device: torch.device | str | None) -> torch.device:
    """Where a network runs: as told, else the GPU where there is one.

    Raises:
        TargetError: for a device that torch does not know or that is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise TargetError(f"device must be such as 'cpu' or 'cuda:0', got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise TargetError(f"device is {str(found)!r}, but torch finds no CUDA device.")
    return found


def told_size(options: PipelineOptions) -> tuple[int, ...] | None:
    """Voxels of the network's input as told; None where they are not."""
    return options.roi_size or options.whole_size


def assemble(
    kind: str,
    name: str,
    network: Callable[..., Any],
    look: FirstLook,
    options: PipelineOptions,
    *,
    facts: Sequence[Fact] = (),
    hashes: Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    final_activation: str | None = None,
    told: Mapping[str, Any] | None = None,
    resources: ExitStack | None = None,
) -> TargetParts:
    """Put an exported network and what was told of its pipeline together.

    Args:
        kind, name: see ``TargetParts``.
        network: from (batch, channel, spatial...) to (batch, class, spatial...).
        look: what it showed.
        options: what was told.
        facts: what its file says.
        hashes: what -> SHA-256.
        class_names: names that its file holds.
        final_activation: ``"softmax"`` or ``"sigmoid"`` that its file says it ends in.
        told: further arguments of ``AttackedModel``.
        resources: closed when the audit ends.

    Raises:
        TargetError: where what was told contradicts the network.
    """
    options = _with_fixed_size(options, look)
    final = look.final or final_activation
    values, activation, said, missing = _answer(options, look, final)
    pipeline = build_pipeline(options, activation, values, len(look.interface.spatial))
    names, said_of_names, missing_names = _class_names(options, look, class_names)
    further: dict[str, Any] = {"precision": "float32", **(told or {})}
    if names is not None:
        further["class_names"] = list(names)
    if options.pipeline_file is None or options.activation is not None:
        further["activation"] = activation
    if options.output_values is not None or final is not None or look.values is not None:
        further["output_values"] = values
    return TargetParts(
        kind=kind,
        name=name,
        network=network,
        inferer=pipeline.inferer,
        preprocessing=pipeline.preprocessing,
        postprocessing=pipeline.postprocessing,
        image_key=pipeline.image_key,
        pred_key=pipeline.pred_key,
        differentiable=look.differentiable,
        told=further,
        facts=[*facts, *_shown(look), *said, *pipeline.facts, *said_of_names],
        missing=[*pipeline.missing, *missing, *missing_names],
        hashes={**(hashes or {}), **pipeline.hashes},
        reference_prediction=plain_prediction(network, pipeline, activation, values),
        resources=resources or ExitStack(),
    )


def _shown(look: FirstLook) -> list[Fact]:
    interface, source = look.interface, "an image of noise"
    axes = " x ".join("any" if size is None else str(size) for size in interface.spatial)
    batch = "" if interface.batch is None else f", {interface.batch} at a time"
    facts = [Fact("input", f"{interface.channels} channel(s), {axes} voxels{batch}", source)]
    if look.output is not None:
        facts.append(Fact("output", f"{look.output!r} of several is attacked", source))
    facts.append(Fact("output channels", str(look.classes), source))
    if look.differentiable:
        facts.append(Fact("gradients", "yes", source))
    else:
        why = "" if look.why_not is None else f": {look.why_not}"
        facts.append(Fact("gradients", f"no{why}; attacked by queries", source))
    facts.append(Fact("queries while it was read", str(look.forwards), source))
    return facts


def _with_fixed_size(options: PipelineOptions, look: FirstLook) -> PipelineOptions:
    """With windows of the size that the export fixes."""
    interface = look.interface
    for name in ("roi_size", "whole_size"):
        sizes = getattr(options, name)
        if sizes is None:
            continue
        if len(sizes) != len(interface.spatial) or any(
            fixed not in (None, size) for fixed, size in zip(interface.spatial, sizes, strict=True)
        ):
            axes = " x ".join("any" if size is None else str(size) for size in interface.spatial)
            told = " x ".join(map(str, sizes))
            raise TargetError(f"{name} is told as {told}, but the network takes {axes} voxels.")
    if interface.fixed is not None and told_size(options) is None and options.pipeline_file is None:
        return dataclasses.replace(options, roi_size=interface.fixed)
    return options


def _answer(options: PipelineOptions, look: FirstLook, final: str | None) -> tuple[str, str, list[Fact], list[Missing]]:
    """Logits or probabilities, softmax or sigmoid, and where it is known from."""
    seen = "probabilities" if final is not None else look.values
    missing = []
    if options.output_values is not None:
        if seen not in (None, options.output_values):
            low, high = float(look.answer.min()), float(look.answer.max())
            raise TargetError(
                f"output_values is told as {options.output_values}, but the network returns values from {low:.3g} to "
                f"{high:.3g}"
                + (f" from a final {final}" if final else "")
                + f" for an image of noise: they are {seen}."
            )
        values = options.output_values
        facts = [Fact("output values", values, "--output-values", True)]
    elif seen is not None:
        values = seen
        facts = [Fact("output values", values, f"its final {final}" if final else "an image of noise")]
    else:
        # Not a guess in silence: a sigmoid over probabilities makes everything foreground.
        values, facts = "logits", []
        why = "its answer to noise lies within 0 and 1, as that of either may"
        missing.append(Missing("output values", "--output-values logits, or --output-values probabilities", why))
    shown = final or look.activation
    if options.activation is not None:
        if shown not in (None, options.activation):
            raise TargetError(f"activation is told as {options.activation}, but the network ends in a {shown}.")
        activation = options.activation
        facts.append(Fact("activation", activation, "--activation", True))
    elif shown is not None:
        activation = shown
        facts.append(Fact("activation", activation, "its graph" if final else "classes that sum to 1"))
    elif look.classes == 1:
        activation = "sigmoid"
        facts.append(Fact("activation", "sigmoid, as there is one output channel", "default"))
    elif values == "probabilities":
        activation = "sigmoid"
        facts.append(Fact("activation", "sigmoid, as probabilities do not sum to 1", "an image of noise"))
    else:
        activation = "softmax"
        facts.append(Fact("activation", "softmax: output channels are taken for exclusive classes", "default"))
    if activation == "softmax" and look.classes == 1:
        raise TargetError("activation is told as softmax, but the network has one output channel: tell sigmoid.")
    return values, activation, facts, missing


def _class_names(
    options: PipelineOptions, look: FirstLook, own: Sequence[str] | None
) -> tuple[Sequence[str] | None, list[Fact], list[Missing]]:
    for names, source in ((options.class_names, "--class-names"), (own, "its metadata")):
        if names is None:
            continue
        if len(names) != look.classes:
            raise TargetError(
                f"class_names from {source} are {len(names)} ({', '.join(names)}), but the network has {look.classes} "
                "output channels."
            )
        return names, [Fact("classes", ", ".join(names), source, names is options.class_names)], []
    if look.classes <= 2:
        return None, [], []
    why = f"there are {look.classes} output channels"
    return None, [], [Missing("class names", "--class-names NAME NAME ...", why)]


def plain_prediction(
    network: Callable[..., Any], pipeline: ToldPipeline, activation: str, values: str
) -> Callable[[str], torch.Tensor]:
    """The deployment without this package: MONAI's own inferer and transforms around the network.

    Returns:
        from the path of an image to its segmentation on the grid that the postprocessing ends on: class map
        (spatial...), or masks (class, spatial...) for sigmoid.
    """

    def predict(path: str) -> torch.Tensor:
        item = dict(pipeline.preprocessing({pipeline.image_key: path}))
        image = item[pipeline.image_key]
        weights = [*_tensors_of(network)]
        batch = as_plain(image)[None].to(weights[0].device if weights else "cpu")
        inferer = pipeline.inferer or SimpleInferer()
        with torch.no_grad():
            answer = as_plain(inferer(batch, network))[0].cpu()
        if pipeline.postprocessing is None:
            cut = 0.0 if values == "logits" else 0.5
            return answer.argmax(dim=0) if activation == "softmax" else (answer >= cut).to(torch.uint8)
        meta = getattr(image, "meta", None)
        applied = getattr(image, "applied_operations", [])
        item[pipeline.pred_key] = MetaTensor(answer, meta=meta, applied_operations=applied)
        found = as_plain(torch.as_tensor(pipeline.postprocessing(item)[pipeline.pred_key]))
        return found[0] if len(found) == 1 else found

    return predict


def _tensors_of(network: Any) -> Sequence[torch.Tensor]:
    parameters = getattr(network, "parameters", None)
    return list(parameters()) if callable(parameters) else []
