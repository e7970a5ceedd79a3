# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial run``: what ``python -m monai.bundle run`` does, unless nothing would be attacked.

MONAI makes of a config what its run needs and says nothing of the rest. An overlay whose ``+initialize`` was forgotten,
or a misspelt option, leaves an evaluation of clean images that passes for one under attack.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.bundle import run as run_bundle
from monai.bundle.scripts import update_kwargs
from monai.utils import optional_import

from monai_adversarial.engines.unmet import forget_unmet, unmet_sentence
from monai_adversarial.studies.command_line import TRACEBACK_VARIABLE, USER_ERRORS, root_sentence
from monai_adversarial.studies.unread_ids import check_overlays

__all__ = ["check_config", "main"]

PACKAGE = "monai_adversarial."
#: makes images, and attacks none
DATA = f"{PACKAGE}data"
#: lists of expressions that a run evaluates, by the option that names another one
LISTS = {"init_id": "initialize", "run_id": "run", "final_id": "finalize"}
#: options of ``monai.bundle.run`` that its signature does not name
FURTHER = ("workflow_type", "workflow_name", "bundle_root", "properties_path")
SEPARATOR = "::"
#: exit status where nothing is run, or nothing was attacked
REFUSED = 2


def check_config(config_file: Any, options: Mapping[str, Any] | None = None) -> list[str]:
    """Refuse a config, with its overlays, whose run would attack nothing.

    Args:
        config_file: file, or several that are merged in their order.
        options: of the command: ids of the config and their values, and ``init_id``, ``run_id`` and ``final_id``.

    Returns:
        ids of what the run makes of this package, and of nothing else of it.

    Raises:
        ValueError: for an option that no file has an id for, for a misspelt id of an overlay, and where nothing of this
            package would be made.
    """
    given = dict(options or {})
    starts = [given.pop(option, None) or default for option, default in LISTS.items()]
    parser = ConfigParser()
    parser.read_config(config_file)
    for name in given:
        _check_option(parser, name)
    parser.update({name: value for name, value in given.items() if name not in FURTHER or name in parser})
    before = str(parser.get())
    parser.parse()
    ours, reached = _of_package(parser), _reached(parser, starts)
    made = [name for name in ours if name in reached and not _is_left_for_later(parser[name])]
    if ours and not made:
        raise ValueError(
            f"{ours[0]!r} ({parser[ours[0]]['_target_']}) would never be made, and clean images be scored: "
            f"{_why(parser, ours[0], starts)}."
        )
    if not made and not _mentioned(parser, starts):
        raise ValueError(
            "no config file makes anything of monai_adversarial, so that this run would attack nothing: add the "
            "overlay to config_file, or run it by python -m monai.bundle."
        )
    check_overlays(config_file, parser, before, (*starts, *FURTHER))
    return made


def _why(parser: ConfigParser, name: str, starts: Sequence[str]) -> str:
    """Why a component would not be made, and what makes it."""
    config, written = parser[name], name.replace(SEPARATOR, "#")
    if ConfigComponent(config, name).is_disabled():
        return "it is disabled"
    if _is_left_for_later(config):
        return f"_mode_ is {config['_mode_']!r}; leave it out"
    if config["_target_"].startswith(f"{PACKAGE}handlers."):
        advice = "put it into the handlers that the engine is made with, such as +validate#handlers"
    else:
        advice = f'write +initialize: ["@{written}"]'
    evaluated = " and ".join(start for start in starts if start in parser) or "the config"
    return f"nothing in {evaluated} refers to it; {advice}"


def _is_left_for_later(config: Mapping[str, Any]) -> bool:
    """Whether an attack of an engine would be a function that makes it, which no engine calls."""
    rooms = tuple(f"{PACKAGE}{room}." for room in ("engines", "handlers"))
    return config.get("_mode_", "default") != "default" and config["_target_"].startswith(rooms)


def _check_option(parser: ConfigParser, name: str) -> None:
    """MONAI adds an id that no file has, and nobody reads it.

    Raises:
        ValueError: for an option whose first part is no id and is referred to by none.
    """
    first = ReferenceResolver.normalize_id(str(name)).split(SEPARATOR)[0]
    if first in parser or first in FURTHER or f"@{first}" in str(parser.get()):
        return
    known = [identity for identity, _ in _items(parser.get())]
    wanted = str(name).rsplit("#", 1)[-1]
    near = [identity for identity in known if identity.rsplit(SEPARATOR, 1)[-1] == wanted]
    if not near:
        leaves = {identity.rsplit(SEPARATOR, 1)[-1]: identity for identity in known}
        near = [leaves[leaf] for leaf in difflib.get_close_matches(wanted, list(leaves), n=1)]
    hint = f": did you mean --{near[0].replace(SEPARATOR, '#')!r}?" if near else "."
    raise ValueError(f"--{name} is an id of none of the config files, and MONAI would not read it{hint}")


def _items(config: Any, above: str = "") -> list[tuple[str, Any]]:
    """Every item of a config with its id, the outer ones first."""
    found: list[tuple[str, Any]] = []
    if isinstance(config, (dict, list)):
        for _, name, value in ReferenceResolver.iter_subconfigs(above, config):
            found += [(name, value), *_items(value, name)]
    return found


def _of_package(parser: ConfigParser) -> list[str]:
    """Ids of the components of this package that are in no other of them."""
    found: list[str] = []
    for name, value in _items(parser.get()):
        target = value.get("_target_") if isinstance(value, dict) else None
        inside = any(name.startswith(f"{other}{SEPARATOR}") for other in found)
        if isinstance(target, str) and target.startswith(PACKAGE) and not target.startswith(DATA) and not inside:
            found.append(name)
    return found


def _reached(parser: ConfigParser, starts: Sequence[str]) -> set[str]:
    """Ids of what the expressions of some lists make."""
    waiting, reached = [start for start in starts if start in parser], set[str]()
    while waiting:
        name = waiting.pop()
        if name in reached or name not in parser:
            continue
        config = parser[name]
        if isinstance(config, dict) and ConfigComponent.is_instantiable(config):
            if ConfigComponent(config, name).is_disabled():
                continue
        reached.add(name)
        waiting += ReferenceResolver.find_refs_in_config(config, name)
    return reached


def _mentioned(parser: ConfigParser, starts: Sequence[str]) -> bool:
    """Whether an expression of a list names this package, or a module that the config imports from it."""
    names = {PACKAGE}
    for line in parser.get("imports", []):
        if PACKAGE.rstrip(".") in str(line) and DATA not in str(line):
            names.add(f"{str(line).split()[-1]}.")
    texts = [str(parser[name]) for name in _reached(parser, starts) if isinstance(parser[name], (str, list))]
    return any(name in text for text in texts for name in names)


@functools.wraps(run_bundle)
def _run(*arguments: Any, **options: Any) -> None:
    told = inspect.signature(run_bundle).bind(*arguments, **options)
    given = {**told.arguments, **told.arguments.get("override", {})}
    given.pop("override", None)
    whole = update_kwargs(given.pop("args_file", None), **given)
    for name in ("meta_file", "logging_file", "tracking"):
        whole.pop(name, None)
    config = whole.pop("config_file", None)
    if config is None:
        raise ValueError("config_file is missing: pass --config_file, or args_file with one.")
    check_config(config, whole)
    forget_unmet()
    run_bundle(*arguments, **options)
    sentence = unmet_sentence()
    forget_unmet()
    if sentence:
        raise RuntimeError(sentence)


def main(arguments: Sequence[str]) -> int:
    """Run a bundle, or say why not.

    Args:
        arguments: as those of ``python -m monai.bundle run``.

    Returns:
        The exit status: 0, or 2 where nothing is run or nothing was attacked.
    """
    fire, _ = optional_import("fire")
    try:
        fire.Fire(_run, command=list(arguments), name="python -m monai_adversarial run")
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
            raise
        print(f"error: {root_sentence(error)}", file=sys.stderr)
        return REFUSED
    return 0
