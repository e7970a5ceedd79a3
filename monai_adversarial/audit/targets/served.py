# SPDX-License-Identifier: Apache-2.0
"""Models behind a server as targets: by queries alone."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.assemble import assemble, told_size
from monai_adversarial.audit.targets.first_look import Interface, look_at
from monai_adversarial.audit.targets.kserve import ServedModel, split_url
from monai_adversarial.audit.targets.queried_network import QueriedNetwork
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions

__all__ = ["read_served"]


def read_served(
    url: str,
    model_name: str | None = None,
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    model_version: str = "",
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    retries: int = 3,
    first_wait: float = 0.5,
) -> TargetParts:
    """Read a model that a server offers over KServe's protocol, version 2 (Triton's HTTP; extra ``served``).

    Names, shapes and types come from the server's metadata. It is attacked by queries: ``network.samples`` counts those
    that were answered, ``network.function.requests`` the requests that were sent, retries included.

    Args:
        url: ``http://HOST:PORT`` or ``https://HOST:PORT``, also with ``/v2/models/NAME`` behind it.
        model_name: of the model; None for the one that the URL names.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        model_version: of the model; empty for the server's choice, which may change while an audit runs.
        headers: of each request, such as an access token; they are neither shown nor stored.
        timeout: seconds until an answer is given up. Default 60.
        retries: the most times that a request without an answer is sent again. Default 3.
        first_wait: seconds before the first retry; each further one waits twice as long, at most 8 s. Default 0.5.

    Raises:
        TargetError: where the extra is not installed, for a server that is away, a model that is not there, one that
            takes no image, or a network that is no segmentation.
    """
    if importlib.util.find_spec("tritonclient") is None or importlib.util.find_spec("geventhttpclient") is None:
        raise TargetError('served models need Triton\'s client: pip install "monai-adversarial[served]".')
    options = PipelineOptions.of(options)
    _check_patience(timeout, retries, first_wait)
    address, encrypted, named, version = split_url(url)
    if model_name is not None and named not in (None, model_name):
        raise TargetError(f"model_name is {model_name!r}, but the URL names {named!r}: leave one out.")
    name = model_name or named
    if not name:
        raise TargetError("model_name is not told, and the URL names none: pass HOST:PORT/v2/models/NAME.")
    resources = ExitStack()
    model = ServedModel(
        address,
        name,
        model_version or version or "",
        encrypted=encrypted,
        headers=headers,
        timeout=timeout,
        retries=retries,
        first_wait=first_wait,
    )
    resources.callback(model.close)
    try:
        return _read(model, options, resources)
    except BaseException:
        resources.close()
        raise


def _read(model: ServedModel, options: PipelineOptions, resources: ExitStack) -> TargetParts:
    sizes = [size if size > 0 else None for size in model.shape]
    interface = Interface(sizes[1], tuple(sizes[2:]), sizes[0], model.most)
    metadata = hashlib.sha256(json.dumps(model.metadata, sort_keys=True).encode()).hexdigest()
    network = QueriedNetwork(model, name=model.name, identity=metadata, batch=interface.batch, most=model.most)
    look = look_at(
        network.raw,
        interface,
        model.name,
        told_size=told_size(options),
        told_channels=options.in_channels,
        output=options.output,
        value_range=options.output_range,
        gradients=False,
    )
    network.output, network.batch = look.output, look.interface.batch
    versions = ", ".join(map(str, model.metadata.get("versions") or ["?"]))
    source = "the server's metadata"
    facts = [
        Fact("network", model.name, "served"),
        Fact("server", model.server, source),
        Fact("model version", model.version or f"the server's choice of {versions}", source),
        *(Fact("tensor", said, source) for said in model.said),
        Fact("tensors are sent", "binary" if model.binary else "as JSON", source),
        Fact("weights", "not hashed: the server does not show them and may change them", ""),
    ]
    if model.most is not None:
        facts.append(Fact("largest batch", str(model.most), "the server's configuration"))
    return assemble(
        "served",
        model.name,
        network.eval(),
        look,
        options,
        facts=facts,
        hashes={"metadata": metadata},
        resources=resources,
    )


def _check_patience(timeout: float, retries: int, first_wait: float) -> None:
    for name, value in (("timeout", timeout), ("first_wait", first_wait)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise TargetError(f"{name} must be a number of seconds above 0, got {value!r}.")
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 20:
        raise TargetError(f"retries must be an integer from 0 to 20, got {retries!r}.")
