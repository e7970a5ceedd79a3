# SPDX-License-Identifier: Apache-2.0
"""Every command of the pages' bash blocks runs, made small, or says in ``commands.yaml`` why it does not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT, blocks_of, pages
from tests.docs.sandbox import commands, given, make_sandbox, words_of

SAID = yaml.safe_load((Path(__file__).parent / "commands.yaml").read_text(encoding="utf-8"))
RUN: list[dict[str, Any]] = SAID["run"]
EXCUSED: list[dict[str, Any]] = SAID["not run"]
#: commands that no test runs, at most; those of whole pages are not counted
NOT_RUN_AT_MOST = 19


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sandbox") / "made"
    make_sandbox(folder)
    return folder


@pytest.mark.parametrize(
    "entry",
    [pytest.param(one, marks=[pytest.mark.slow] if one.get("slow") else []) for one in RUN],
    ids=[str(number) for number in range(len(RUN))],
)
def test_it_runs(entry: dict[str, Any], source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "sandbox"
    shutil.copytree(source, folder)
    data = folder / "data" if entry.get("data") else None
    said = given(entry["command"], entry.get("options", {}), folder / entry.get("in", "."), data)
    assert entry.get("says", "") in said + caplog.text
    assert "makes" not in entry or list(folder.glob(entry["makes"])), sorted(folder.rglob("*"))


def test_each_command_is_run_or_excused_once() -> None:
    there = commands()
    excused_pages = {one["page"] for one in EXCUSED if "page" in one}
    run = [one[name] for one in RUN for name in ("command", "also") if name in one]
    excused = [command for one in EXCUSED for command in one.get("commands", [])]
    assert len(set(run + excused)) == len(run + excused)
    wanted = {command for command, page in there.items() if page not in excused_pages}
    assert wanted - {*run, *excused} == set(), "say in tests/docs/commands.yaml how it is run, or why not"
    assert {*run, *excused} - wanted == set(), "no page has it any longer"
    assert excused_pages <= set(there.values())
    assert len(excused) <= NOT_RUN_AT_MOST
    assert all(len(one["why"].split()) >= 4 for one in EXCUSED)


def test_what_is_run_once_for_two_commands_is_the_same() -> None:
    for one in RUN:
        assert sorted(words_of(one.get("also", one["command"]))) == sorted(words_of(one["command"]))


@pytest.mark.parametrize("page", [page for page in pages() if any(b.language == "bash" for b in blocks_of(page))])
def test_bash_understands_the_block(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "bash":
            done = subprocess.run(["bash", "-n", "-c", block.code], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
