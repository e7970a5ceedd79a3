# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: loaded, or said in one sentence why not; saved whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from monai_adversarial.utils.files import replace_when_complete

__all__ = ["load_weights", "save_weights"]


def load_weights(network: nn.Module, path: str | os.PathLike[str], key: str = "model") -> nn.Module:
    """Load a checkpoint into ``network`` with ``weights_only=True`` and return the network.

    >>> import tempfile
    >>> import torch
    >>> from monai_adversarial.studies import load_weights
    >>> trained, fresh = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": trained.state_dict()}, f"{folder}/model.pt")
    ...     network = load_weights(fresh, f"{folder}/model.pt")
    >>> network is fresh, bool((network.weight == trained.weight).all())
    (True, True)

    Args:
        network: receives the weights on its own device.
        path: file with a state dictionary, or with a dictionary that holds one under ``key`` (as MONAI's
            ``CheckpointSaver`` writes).
        key: see ``path``.

    Raises:
        TypeError: for something that is no path.
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that is no checkpoint, or one of another network.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"weights must be the path of a checkpoint, got {path!r}.")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there are no weights at {path}: train the network first or set the path of its checkpoint."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise what the unpickler trips over: OSError, IndexError, struct.error
        reason = "" if not isinstance(error, OSError) or error.strerror is None else f": {error.strerror}"
        raise RuntimeError(
            f"cannot read {path} as a checkpoint of weights (loaded with weights_only=True){reason}."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
        state = state[key]
    if not isinstance(state, Mapping):
        raise RuntimeError(f"{path} holds a {type(state).__name__}, expected a state dictionary.")
    own = network.state_dict()
    wrong = [name for name in own if name not in state or getattr(state[name], "shape", None) != own[name].shape]
    unknown = [name for name in state if name not in own]
    if wrong or unknown:
        raise RuntimeError(
            f"the weights at {path} belong to another network: {len(wrong)} of {len(own)} tensors are missing "
            "or of another shape"
            f"{f' (first: {wrong[0]!r})' if wrong else ''} and {len(unknown)} are unknown"
            f"{f' (first: {unknown[0]!r})' if unknown else ''}."
        )
    complex_ones = [name for name in own if state[name].is_complex() and not own[name].is_complex()]
    if complex_ones:
        raise RuntimeError(f"the weights at {path} are complex where the network's are real ({complex_ones[0]!r}).")
    broken = [name for name in own if state[name].is_floating_point() and not bool(torch.isfinite(state[name]).all())]
    if broken:
        raise RuntimeError(
            f"the weights at {path} hold NaN or infinite values in {len(broken)} of {len(own)} tensors (first: "
            f"{broken[0]!r}): the training that wrote them has failed."
        )
    network.load_state_dict(dict(state))
    return network


def save_weights(network: nn.Module, path: str | os.PathLike[str]) -> str:
    """Write the state dictionary of ``network``: to a temporary name first, which then takes the place of ``path``.

    Raises:
        OSError: one sentence that names ``path``.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replace_when_complete(path) as temporary:
        try:
            with open(temporary, "wb") as stream:  # given a name, torch writes it into the file
                torch.save(state, stream)
        except RuntimeError as error:  # torch's writer says "enforce fail" where a disk is full
            raise OSError(errno.EIO, "not everything could be written (is the disk full?)") from error
    return str(path)
