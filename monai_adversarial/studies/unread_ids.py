# SPDX-License-Identifier: Apache-2.0
"""Ids of an overlay that nothing reads: MONAI adds what is misspelt, and goes on with the value that it should
replace."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.utils import ensure_tuple

__all__ = ["check_overlays"]

SEPARATOR = "::"
#: read by MONAI itself
OF_MONAI = ("imports", "_meta_", "_requires_")
#: similarity from which one id is taken for another one that is misspelt
ALIKE = 0.8
#: letters that one of them may have more: a word in front of it makes another id
MORE_LETTERS = 2
_DIGITS = re.compile(r"\d+")
_REFERENCE = re.compile(r"[@%](\w+(?:::\w+)*)")


def check_overlays(config_file: Any, parser: ConfigParser, before: str, read: Collection[str] = ()) -> None:
    """Refuse a misspelt id of an overlay.

    An id that the files before do not have, that nothing refers to and that looks like another one is taken for that
    one. What looks like none may be a note, and stays, as does what differs from another one in its digits alone.

    Args:
        config_file: file, or several that are merged in their order, of which all but the first are overlays.
        parser: holds them merged, and parsed.
        before: the merged config as text before it was parsed, with its macros.
        read: ids that are read without a reference.

    Raises:
        ValueError: for such an id, with the other one.
    """
    files = _files_of(config_file)
    if len(files) < 2:
        return
    texts = before + str(parser.get())
    referred = set(_REFERENCE.findall(ReferenceResolver.normalize_id(texts)))
    for count, file in enumerate(files[1:], start=1):
        known = ConfigParser(config=ConfigParser.load_config_files(files[:count]))
        for key in ConfigParser.load_config_file(file):
            name = ReferenceResolver.normalize_id(str(key).lstrip("+"))
            new = _first_new(known, name)
            if new is None or _is_read(parser, new, referred, read):
                continue
            meant = _alike(parser, new)
            if meant:
                raise ValueError(
                    f"{Path(file).name} sets {str(key)!r}, which nothing refers to, so that MONAI would not read it: "
                    f"did you mean {meant!r}?"
                )


def _files_of(config_file: Any) -> list[Any]:
    """Single files, as MONAI finds them in one string or a list."""
    if isinstance(config_file, dict):
        return []
    if isinstance(config_file, str) and not Path(config_file).is_file() and "," in config_file:
        return config_file.split(",")
    return list(ensure_tuple(config_file))


def _first_new(known: ConfigParser, name: str) -> str | None:
    """The outermost part of an id that the files before do not have; None where they have it all."""
    parts = name.split(SEPARATOR)
    for count in range(1, len(parts) + 1):
        part = SEPARATOR.join(parts[:count])
        if part not in known:
            return part
    return None


def _alike(parser: ConfigParser, name: str) -> str:
    """The item beside another one whose id looks like it, as it is written; empty for none."""
    *above, last = name.split(SEPARATOR)
    beside = parser[SEPARATOR.join(above)] if above else parser.get()
    names = [str(one) for one in beside] if isinstance(beside, Mapping) else []
    others = [one for one in names if _DIGITS.sub("", one) != _DIGITS.sub("", last)]
    others = [one for one in others if abs(len(one) - len(last)) <= MORE_LETTERS]
    near = difflib.get_close_matches(last, others, n=1, cutoff=ALIKE)
    return "#".join([*above, near[0]]) if near else ""


def _is_read(parser: ConfigParser, name: str, referred: Collection[str], read: Collection[str]) -> bool:
    """Whether something refers to an item, to one in it, or to one that it is in; or makes what it is in."""
    parts = name.split(SEPARATOR)
    if parts[0] in OF_MONAI or name in read:
        return True
    around = [SEPARATOR.join(parts[:count]) for count in range(1, len(parts) + 1)]
    if any(one == name or one in around or one.startswith(f"{name}{SEPARATOR}") for one in referred):
        return True
    return any(one in parser and ConfigComponent.is_instantiable(parser[one]) for one in around[:-1])
