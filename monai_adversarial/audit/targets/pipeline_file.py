# SPDX-License-Identifier: Apache-2.0
"""Preprocessing, inferer and postprocessing from a MONAI config file that a user wrote for an exported model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.transforms import Compose, SaveImage, SaveImaged

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.utils.hashing import file_hash
from monai_adversarial.utils.modules import describe_callable

__all__ = ["PipelineFile", "read_pipeline_file"]

#: what is read, and names that are
PARTS = ("preprocessing", "inferer", "postprocessing")
SETTINGS = ("image_key", "pred_key")
_OF_CONFIGS = ("imports", "_meta_")


@dataclass(frozen=True)
class PipelineFile:
    """What a pipeline file holds.

    Args:
        preprocessing: dictionary transform from a path to the network's input.
        inferer: MONAI inferer; None where the file has none: the network gets the whole image.
        postprocessing: dictionary transform of the network's answer, without transforms that write files; None where
            the file has none.
        image_key, pred_key: keys of the item: ``image`` and ``pred`` unless the file says otherwise.
        hash: SHA-256 of the file.
        facts: what was read.
    """

    preprocessing: Callable[..., Any]
    inferer: Callable[..., Any] | None
    postprocessing: Callable[..., Any] | None
    image_key: str
    pred_key: str
    hash: str
    facts: list[Fact] = field(default_factory=list)


def read_pipeline_file(path: str | os.PathLike[str]) -> PipelineFile:
    """Read a MONAI config in YAML or JSON.

    It holds ``preprocessing``, and ``inferer`` and ``postprocessing`` where there are any; ``image_key`` and
    ``pred_key`` name the keys of the item. Further entries must be referred to (``@name``) by others. Expressions in it
    (``$...``) are Python and run.

    Raises:
        TargetError: for a file that is absent, cannot be read, lacks ``preprocessing``, or holds an entry that nothing
            uses: a mistyped one would be left out in silence.
    """
    file = Path(path)
    name = file.name
    if not file.is_file():
        raise TargetError(f"pipeline_file {name}: there is no such file.")
    if file.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise TargetError(f"pipeline_file must be YAML or JSON (.yaml, .yml, .json), got {name}.")
    parser = ConfigParser()
    try:
        parser.read_config(str(file))
        config = parser.get()
    except Exception as error:  # whatever a parser raises over a broken file
        raise TargetError(f"pipeline_file {name} cannot be read: {_line(error)}") from error
    _check_entries(config, name)
    found: dict[str, Any] = {}
    for part in (*PARTS, *SETTINGS):
        if part not in config:
            continue
        try:
            found[part] = parser.get_parsed_content(part)
        except Exception as error:  # a component that does not exist, an argument it does not know, ...
            raise TargetError(f"pipeline_file {name}: {part} cannot be made: {_line(error)}") from error
    for part in PARTS:
        if found.get(part) is not None and not callable(found[part]):
            raise TargetError(f"pipeline_file {name}: {part} must be a transform, got {type(found[part]).__name__}.")
    postprocessing, left_out = _without_savers(found.get("postprocessing"))
    facts = [Fact(part, _described(found.get(part)), f"{name}#{part}", True) for part in PARTS if part in found]
    if left_out:
        facts.append(Fact("savers left out", ", ".join(left_out), f"{name}#postprocessing"))
    return PipelineFile(
        found["preprocessing"],
        found.get("inferer"),
        postprocessing,
        str(found.get("image_key", "image")),
        str(found.get("pred_key", "pred")),
        file_hash(file),
        facts,
    )


def _check_entries(config: Any, name: str) -> None:
    if not isinstance(config, dict) or "preprocessing" not in config:
        raise TargetError(f"pipeline_file {name} must hold 'preprocessing', a MONAI transform.")
    for entry in config:
        if entry in (*PARTS, *SETTINGS, *_OF_CONFIGS):
            continue
        others = str({key: value for key, value in config.items() if key != entry})
        if f"@{entry}" not in others and f"%{entry}" not in others:
            raise TargetError(
                f"pipeline_file {name}: nothing uses {entry!r}; what is read are {', '.join((*PARTS, *SETTINGS))} and "
                "what they refer to."
            )


def _without_savers(postprocessing: Any) -> tuple[Any, list[str]]:
    """The transform without those that write files, and their names."""
    if not isinstance(postprocessing, Compose):
        saver = isinstance(postprocessing, (SaveImage, SaveImaged))
        return (None, [type(postprocessing).__name__]) if saver else (postprocessing, [])
    kept = [step for step in postprocessing.transforms if not isinstance(step, (SaveImage, SaveImaged))]
    left_out = [type(step).__name__ for step in postprocessing.transforms if step not in kept]
    return (Compose(kept) if left_out else postprocessing), left_out


def _described(part: Any) -> str:
    if isinstance(part, Compose):
        return ", ".join(describe_callable(step) for step in part.transforms)
    return "none" if part is None else describe_callable(part)


def _line(error: BaseException) -> str:
    """The first cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
