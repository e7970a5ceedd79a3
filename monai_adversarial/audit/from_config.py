# SPDX-License-Identifier: Apache-2.0
"""An audit from a bundle's config: the command's options as keys, and no key that nobody reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_adversarial.audit.command_line import main

__all__ = ["audit_from_config", "check_names"]

#: options of ``python -m monai.bundle run`` itself
RUNNER = {
    *("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"),
    *("bundle_root", "workflow_name", "workflow_type"),
}


def audit_from_config(options: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Run ``python -m monai_adversarial audit`` with options from a config.

    Args:
        options: name without dashes -> value: None and False leave an option out, True sets a switch, a list gives its
            values. Names may have ``_`` for ``-``.
        known: names that the command line may override besides those of ``options``; see ``check_names``.

    Raises:
        ValueError: for a name on the command line that the config does not have.
        SystemExit: with the status of the command, where it is not 0.
    """
    check_names([*options, *known])
    arguments = ["audit"]
    for name, value in options.items():
        if value is None or value is False or value == []:
            continue
        arguments.append(f"--{name.replace('_', '-')}")
        if value is not True:
            arguments += [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    status = main(arguments)
    if status:
        raise SystemExit(status)


def check_names(known: Sequence[str], arguments: Sequence[str] | None = None) -> None:
    """Refuse what a mistyped ``--name`` or key would otherwise do silently: MONAI's runner takes any.

    Args:
        known: names of the config.
        arguments: of the command line, from ``run`` on; None for those of the process, if it is MONAI's runner.

    Raises:
        ValueError: one sentence with the nearest name.
    """
    if arguments is None:
        if not any("monai" in Path(part).parts and "bundle" in part for part in sys.argv[:1]):
            return
        arguments = sys.argv[1:]
    allowed = RUNNER | set(known)
    given = [part[2:].split("=")[0] for part in arguments if part.startswith("--")]
    files = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == "--config_file"]
    for file in files[:1]:
        if Path(file).is_file():
            given += [str(key) for key in ConfigParser.load_config_file(file)]
    for name in given:
        if name.split("#")[0].split("::")[0].lstrip("+~") not in allowed | {"imports", "initialize", "run", "options"}:
            near = get_close_matches(name, sorted(allowed), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"the config has no {name!r}{hint}: it has {', '.join(sorted(set(known)))}.")
