# SPDX-License-Identifier: Apache-2.0
"""A folder like that of a reader of the pages, and commands that are given in it, in this process."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from monai.utils import set_determinism

from monai_adversarial.data.phantom import write_ct_phantoms
from tests.docs.pages import ROOT, blocks_of, pages
from tests.hippocampus import CASES, write_invented_scans
from tests.readme_parts import blocks, write_bundle

__all__ = ["commands", "given", "make_sandbox", "words_of"]

ASSIGNMENT = re.compile(r"^[A-Z_]+=\S*$")


def make_sandbox(folder: Path) -> None:
    """The repository's bundles, two small sets of phantoms, invented scans of the hippocampus, and ``toy``: the folder
    of a bundle with the overlay of the README."""
    shutil.copytree(ROOT / "bundles", folder / "bundles", ignore=shutil.ignore_patterns("eval", "data", "__pycache__"))
    small = {"progress": False, "size": (32, 32, 24)}
    write_ct_phantoms(folder / "phantoms" / "test", 1, seed=1000, section="test", **small)
    write_ct_phantoms(folder / "phantoms" / "training", 5, seed=0, validation=1, **small)
    write_invented_scans(folder / "data" / "hippocampus_mri", count=4)
    (folder / "weights").mkdir()
    shutil.copyfile(ROOT / "bundles" / "ct_abdomen_unet" / "models" / "model.pt", folder / "weights" / "model.pt")
    (folder / "toy").mkdir()
    config = write_bundle(folder / "toy", "evaluator")
    config.rename(config.with_name("inference.yaml"))  # JSON is YAML
    (overlay,) = blocks("README.md", "yaml")
    (folder / "toy" / "overlay.yaml").write_text(overlay, encoding="utf-8")


def commands() -> dict[str, str]:
    """Every command of the pages' bash blocks, on one line and without its comment -> its first page."""
    found: dict[str, str] = {}
    for page in pages():
        for block in blocks_of(page):
            if block.language == "bash" and block.reason is None:
                for line in block.code.replace("\\\n", " ").splitlines():
                    command = " ".join(re.sub(r"(^|\s)#\s.*", "", line).split())
                    if command and not command.startswith("export "):
                        found.setdefault(command, page)
    return found


def words_of(command: str) -> list[str]:
    """The words of a command as the shell hands them on, without assignments of variables before it."""
    words = shlex.split(command)
    while ASSIGNMENT.match(words[0]):
        del words[0]
    return words


def given(command: str, options: dict[str, Any], folder: Path, data: Path | None = None) -> str:
    """What a command prints.

    Args:
        command: starts with ``python -m``, perhaps after assignments of variables, which are left out.
        options: replaced where the command has them, else appended; None is a flag, a text with spaces several words.
        folder: where it is given.
        data: what ``MONAI_ADVERSARIAL_DATA`` names; None for nothing.

    Raises:
        Exception: what the command raises.
        AssertionError: for an exit status that is not 0.
    """
    words = words_of(command)
    assert words[:2] == ["python", "-m"], command
    module, arguments = words[2], words[3:]
    for name, value in options.items():
        values = [] if value is None else [CASES] if value == "CASES" else str(value).split(" ")
        if str(value).startswith("{"):
            values = [str(value)]
        if name in arguments:
            place = arguments.index(name) + 1
            arguments[place : place + 1] = values
        else:
            arguments += [name, *values]
    said, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    with (
        contextlib.redirect_stdout(said),
        patch.object(sys, "argv", [module, *arguments]),
        patch.object(sys, "excepthook", sys.__excepthook__),
        patch.dict(os.environ),
    ):
        os.environ.pop("MONAI_ADVERSARIAL_DATA", None)
        if data is not None:
            os.environ["MONAI_ADVERSARIAL_DATA"] = str(data)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as end:
            assert not end.code, end.code
        finally:
            os.chdir(before)
            set_determinism(None)  # configs make torch deterministic for the whole process
    return said.getvalue()
