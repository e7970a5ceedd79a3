# SPDX-License-Identifier: Apache-2.0
"""A documented installation can be made: no command names two versions of one package."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from benchmarks.doc_tables import DOCS
from benchmarks.peers.registry import PEERS
from tests.docs.pages import pages

ROOT = DOCS.parent
MINOR_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
#: what torchattacks wants in another version than the tests have
REPLACED = {"requests", "idna", "urllib3"}


def pins(files: list[str], python: str) -> dict[str, set[str]]:
    """Package -> versions that some files pin it to."""
    found: dict[str, set[str]] = {}
    for file in files:
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                one = Requirement(line)
                if one.marker is None or one.marker.evaluate({"python_version": python}):
                    found.setdefault(one.name.lower().replace("_", "-"), set()).add(str(one.specifier))
    return found


def commands() -> dict[str, list[str]]:
    """Every command of pip with a constraints file that is documented or printed -> its files."""
    texts = [peer.install for peer in PEERS]
    texts += [(ROOT / page).read_text(encoding="utf-8") for page in pages()]
    texts += [(ROOT / file).read_text(encoding="utf-8") for file in ("constraints.txt", "benchmarks/constraints.txt")]
    found = {one for text in texts for one in re.findall(r"pip install [^`\n&#]* -c [^`\n&#]*", text)}
    return {command: re.findall(r" -c ([\w./]+?txt)", command) for command in found}


def test_the_commands_are_found() -> None:
    assert {tuple(files) for files in commands().values()} >= {("constraints.txt",), ("benchmarks/constraints.txt",)}


@pytest.mark.parametrize("python", MINOR_VERSIONS)
def test_no_command_names_two_versions_of_one_package(python: str) -> None:
    for command, files in commands().items():
        twice = {name: versions for name, versions in pins(files, python).items() if len(versions) > 1}
        assert not twice, f"pip cannot do this: {command}"


def test_what_the_second_step_replaces_is_documented() -> None:
    """The two files in one command would be that error; the page names what the second one changes."""
    both = pins(["constraints.txt", "benchmarks/constraints.txt"], "3.11")
    assert {name for name, versions in both.items() if len(versions) > 1} == REPLACED
    text = " ".join((DOCS / "benchmarks.md").read_text(encoding="utf-8").split())
    assert "which replaces requests, idna and urllib3 of the first" in text
    assert "torchattacks" in pins(["benchmarks/constraints.txt"], "3.11")
