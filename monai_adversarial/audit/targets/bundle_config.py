# SPDX-License-Identifier: Apache-2.0
"""The config of a MONAI bundle: which files, what is run, where its data come in, and what an audit replaces."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_adversarial.audit.facts import TargetError

__all__ = [
    "BundleConfig",
    "choose_config_files",
    "contents",
    "follow",
    "is_saver",
    "open_config",
    "plain_parser",
]

SUFFIXES = (".json", ".yaml", ".yml")
INITIALIZE = "initialize"
#: an item of a run list that starts an engine: its config identifier
RUNS = re.compile(r"@(\w+(?:(?:#|::)\w+)*)\.run\(")
REFERENCE = re.compile(r"\$?@(\w+(?:(?:#|::)\w+)*)")
WRITES = re.compile(r"^(Save|Write|TensorBoard|MLFlow|ClearML|Logfile)|(Saver|Writer)(d|D|Dict)?$")
#: what needs a label in the evaluator, and what an audit measures itself
METRICS = ("key_val_metric", "additional_metrics")


def is_saver(name: str) -> bool:
    """Whether a class, by its name, writes files: ``SaveImaged``, ``MetricsSaver``, ``TensorBoardStatsHandler``."""
    return WRITES.search(name.rsplit(".", 1)[-1]) is not None


def choose_config_files(root: Path, named: Sequence[str] | str | None = None) -> list[Path]:
    """The config files of a bundle, in the order in which they are read.

    Args:
        root: folder of the bundle.
        named: paths, or names in its ``configs``; None for ``inference``, or else ``train`` and ``evaluate``.

    Raises:
        TargetError: where there are none.
    """
    if not root.is_dir():
        raise TargetError(f"there is no bundle at {root}: give the folder that holds configs/ and models/.")
    folder = root / "configs"
    if named is not None:
        found = []
        for name in [named] if isinstance(named, (str, Path)) else named:
            places = [folder / name, root / name, Path(name)]
            file = next((place.resolve() for place in places if place.is_file()), None)
            if file is None:
                raise TargetError(f"the bundle {root.name} has no config file {name}: it has {_names(folder)}.")
            found.append(file)
        if not found:
            raise TargetError("config_files must name at least one file, got none.")
        return found
    inference, train, evaluate = (_one(folder, stem) for stem in ("inference", "train", "evaluate"))
    if inference is not None:
        return [inference]
    if evaluate is not None:
        return [*([] if train is None else [train]), evaluate]
    raise TargetError(
        f"{root.name} has no configs/inference.json or .yaml, and no evaluate: it has {_names(folder)}; name the "
        "config files if they are called otherwise."
    )


def _one(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{end}" for end in SUFFIXES if (folder / f"{stem}{end}").is_file()), None)


def _names(folder: Path) -> str:
    found = sorted(p.name for p in folder.glob("*") if p.suffix in SUFFIXES) if folder.is_dir() else []
    return ", ".join(found) or "no configs"


@dataclass
class BundleConfig:
    """A config that is ready to be run up to its evaluator.

    Args:
        parser: MONAI's, with everything replaced.
        evaluator: config identifier of the engine.
        before: identifiers of the items that are run before it.
        not_run: text of the items of the run list from the evaluator on.
        dataset: identifier of the evaluator's dataset.
        replaced: identifier -> what stands there instead, in words.
        savers: classes that write files and were left out.
    """

    parser: ConfigParser
    evaluator: str
    before: list[str]
    not_run: list[str]
    dataset: str
    replaced: dict[str, str] = field(default_factory=dict)
    savers: list[str] = field(default_factory=list)


def open_config(
    files: Sequence[Path],
    metadata: Path | None,
    overrides: Mapping[str, Any],
    root: Path,
    device: str | None,
    work: Path,
    run_id: str | None = None,
) -> BundleConfig:
    """Read a bundle's config and replace what ties it to its data and its output.

    Args:
        files: config files, in order.
        metadata: its metadata file; None without.
        overrides: identifier -> content, as MONAI's runner takes them.
        root: folder of the bundle.
        device: what its ``device`` becomes; None leaves it.
        work: folder for what the bundle writes.
        run_id: identifier of the run list; None for ``run``, or the only one that starts an engine.

    Raises:
        TargetError: for an override of something that is not there, and for a config without an evaluator or dataset
            that can be found.
    """
    parser = plain_parser(files, metadata, overrides)
    found = _run_list(parser, run_id)
    before = _items(parser, INITIALIZE) + found.before
    made = BundleConfig(parser, found.evaluator, [name for name, _ in before], found.not_run, "")
    keep = {name.replace("::", "#") for name in overrides}
    where = {"bundle_root": str(root), "output_dir": str(work / "output"), "dataset_dir": str(work / "no_data")}
    said = {"bundle_root": "the bundle's folder", "output_dir": "a work folder", "dataset_dir": "an empty folder"}
    for name, value in where.items():
        if name in contents(parser) and name not in keep:
            parser[name] = _literal(value)
            made.replaced[name] = said[name]
    if device is not None:
        name = "device" if "device" in contents(parser) else f"{follow(parser, found.evaluator)[0]}#device"
        parser[name] = f"$torch.device({device!r})"
        made.replaced[name] = device
    _leave_out_savers(parser, contents(parser), made)
    _replace_data(parser, made)
    return made


def plain_parser(files: Sequence[Path], metadata: Path | None, overrides: Mapping[str, Any]) -> ConfigParser:
    """The config as it stands, with overrides and nothing else replaced."""
    parser = ConfigParser()
    try:
        parser.read_config([str(file) for file in files])
        if metadata is not None:
            parser.read_meta(str(metadata))
    except Exception as error:
        raise TargetError(f"{', '.join(f.name for f in files)} cannot be read as a config: {_line(error)}") from error
    if not isinstance(parser.config, dict):
        raise TargetError(f"{files[0].name} must hold keys and values, got {type(parser.config).__name__}.")
    _check_overrides(parser, overrides)
    parser.update(dict(overrides))
    try:
        parser.parse(True)
    except Exception as error:
        raise TargetError(f"{', '.join(f.name for f in files)} cannot be parsed: {_line(error)}") from error
    return parser


def contents(parser: ConfigParser) -> dict[str, Any]:
    """The keys of a config and what stands there, as text and numbers."""
    return parser.config if isinstance(parser.config, dict) else {}


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _literal(text: str) -> str:
    """A string that the parser gives back as it is, whatever its first character."""
    return f"${text!r}"


def _check_overrides(parser: ConfigParser, overrides: Mapping[str, Any]) -> None:
    for name in overrides:
        parts = re.split("#|::", name)
        there: Any = parser.config
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            if isinstance(there, list) and part.isdigit() and int(part) < len(there):
                there = there[int(part)]
            elif isinstance(there, dict) and part in there:
                there = there[part]
            elif isinstance(there, dict) and last and "_target_" in there:
                break  # a further argument of a component
            else:
                known = [str(key) for key in there] if isinstance(there, dict) else []
                near = difflib.get_close_matches(part, known, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise TargetError(f"override {name!r}: the config has no {'#'.join(parts[: position + 1])!r}{hint}.")


@dataclass
class _Run:
    evaluator: str
    before: list[tuple[str, str]]
    not_run: list[str]


def _items(parser: ConfigParser, name: str) -> list[tuple[str, str]]:
    """Identifier and text of the items of a run list."""
    content = contents(parser).get(name)
    if content is None:
        return []
    if isinstance(content, list):
        return [(f"{name}#{number}", str(item)) for number, item in enumerate(content)]
    return [(name, str(content))]


def _run_list(parser: ConfigParser, named: str | None) -> _Run:
    lists = [name for name in contents(parser) if any(RUNS.search(text) for _, text in _items(parser, str(name)))]
    if named is not None and named not in contents(parser):
        raise TargetError(f"the config has no run list {named!r}: {', '.join(lists) or 'none'} start an engine.")
    if named is None:
        named = "run" if "run" in lists else next(iter(lists), None)
        if named is None:
            raise TargetError("the config starts no engine (no item such as '$@evaluator.run()'): nothing to audit.")
        if named != "run" and len(lists) > 1:
            raise TargetError(f"the config has several run lists ({', '.join(lists)}): name one with run_id.")
    items = _items(parser, named)
    for number, (_, text) in enumerate(items):
        match = RUNS.search(text)
        if match is not None:
            return _Run(match[1].replace("::", "#"), items[:number], [text for _, text in items[number:]])
    raise TargetError(f"the run list {named!r} starts no engine (no item such as '$@evaluator.run()').")


def _leave_out_savers(parser: ConfigParser, content: Any, made: BundleConfig) -> None:
    """Disable the members of lists that write files."""
    for members in _lists(content):
        for member in members:
            target = member.get("_target_") if isinstance(member, dict) else None
            if isinstance(target, str) and is_saver(target) and member.get("_disabled_") is not True:
                member["_disabled_"] = True
                made.savers.append(target.rsplit(".", 1)[-1])
    parser.parse(True)


def _lists(content: Any) -> Iterator[list[Any]]:
    if isinstance(content, list):
        yield content
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _lists(inner)


def follow(parser: ConfigParser, name: str) -> tuple[str, Any]:
    """The identifier and content that an identifier stands for, through references."""
    for _ in range(20):
        content = parser[name]
        match = REFERENCE.fullmatch(content.strip()) if isinstance(content, str) else None
        if match is None:
            return name, content
        name = match[1].replace("::", "#")
    raise TargetError(f"the config's {name!r} refers to itself.")


def _section(parser: ConfigParser, name: str, what: str) -> tuple[str, dict[str, Any]]:
    try:
        place, content = follow(parser, name)
    except (KeyError, ValueError, IndexError) as error:
        raise TargetError(f"the config says nothing at {name!r}, where its {what} is expected.") from error
    if not isinstance(content, dict) or "_target_" not in content:
        raise TargetError(
            f"the config's {what} ({place!r}) is not a component with a _target_: its data cannot be replaced."
        )
    return place, content


def _replace_data(parser: ConfigParser, made: BundleConfig) -> None:
    engine, evaluator = _section(parser, made.evaluator, "evaluator")
    loader_key = "val_data_loader" if "val_data_loader" in evaluator else "data_loader"
    loader_place, loader = _section(parser, f"{engine}#{loader_key}", "data loader")
    place, dataset = _section(parser, f"{loader_place}#dataset", "dataset")
    if dataset.get("transform") is None:
        raise TargetError(f"the config's dataset ({place!r}) has no transform: nothing says how an image is prepared.")
    made.dataset = place
    parser[place] = {"_target_": "monai.data.Dataset", "data": [{}], "transform": dataset["transform"]}
    made.replaced[f"{place}#data"] = "the audit's cases"
    if str(dataset["_target_"]).rsplit(".", 1)[-1] != "Dataset":
        made.replaced[f"{place}#_target_"] = f"Dataset for {dataset['_target_']}"
    parser[loader_place] = {
        "_target_": "monai.data.DataLoader",
        "dataset": loader["dataset"] if isinstance(loader["dataset"], str) else parser[place],
        "batch_size": 1,
        "num_workers": 0,
        **({"collate_fn": loader["collate_fn"]} if "collate_fn" in loader else {}),
    }
    made.replaced[loader_place] = "one case at a time, in this process"
    for name in METRICS:
        if evaluator.get(name) is not None:
            parser[f"{engine}#{name}"] = None
            made.replaced[f"{engine}#{name}"] = "none: an audit measures"
    parser.parse(True)
