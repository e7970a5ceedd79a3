# SPDX-License-Identifier: Apache-2.0
"""The notebooks of ``tutorials/``: equal to their pairs, readable as stored, and running in fast mode."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY, find_shared_data

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = REPOSITORY / "tutorials"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
#: sections that a reader of MONAI's notebooks looks for
SECTIONS = ("## Setup environment", "## Setup imports")
#: bytes of a notebook with its outputs
LARGEST = 600_000


def load_render() -> ModuleType:
    """``tutorials/render.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("tutorials_render", FOLDER / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RENDER = load_render()


def stored(script: Path) -> Any:
    import nbformat

    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def outputs(notebook: Any, kind: str) -> list[str]:
    """Contents of one kind (a stream's name, or a MIME type) of all outputs, in order."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == kind:
                found.append(output["text"])
            if kind in output.get("data", {}):
                found.append(output["data"][kind])
    return found


def each(function: Any) -> Any:
    return pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)(function)


def test_there_are_tutorials_and_no_notebook_without_a_pair() -> None:
    assert len(SCRIPTS) >= 8
    assert [file.stem for file in sorted(FOLDER.glob("*.ipynb"))] == [script.stem for script in SCRIPTS]


@each
def test_the_notebook_holds_the_cells_of_its_pair(script: Path) -> None:
    pair, notebook = RENDER.read_script(script), stored(script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in pair.cells]


@each
def test_it_has_the_form_of_monai_notebooks(script: Path) -> None:
    notebook = stored(script)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert "Licensed under the Apache License" in first.source and re.search(r"^# \S", first.source, re.MULTILINE)
    headings = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert all(section in headings for section in SECTIONS)
    assert any("print_config()" in cell.source for cell in notebook.cells)
    assert RENDER.FAST in first.source


@each
def test_its_stored_outputs_are_whole(script: Path) -> None:
    """Every cell was run in order, none failed, and the end is a picture and a conclusion."""
    notebook = stored(script)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert any("mode: " in text for text in outputs(notebook, "stdout"))
    conclusions = outputs(notebook, "text/markdown")
    assert conclusions and conclusions[-1].startswith("**Conclusion.**")
    last = next(cell for cell in reversed(code) if outputs_of(cell, "text/markdown"))
    assert outputs_of(last, "image/png")


def outputs_of(cell: Any, kind: str) -> bool:
    return any(kind in output.get("data", {}) for output in cell.outputs)


@each
def test_it_can_be_shown_to_others(script: Path) -> None:
    """No folder of the machine that made it, and no more bytes than a web page should have."""
    text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.findall(r"(?:/work|/home|/tmp|/root)/[\w.]+", re.sub(r'"image/png": "[^"]*"', "", text))


@each
def test_sentences_of_its_text_are_short(script: Path) -> None:
    for cell in stored(script).cells[1:]:
        if cell.cell_type == "markdown":
            for sentence in re.split(r"(?<=[.!?:])\s+|\n\n|\n- ", cell.source):
                assert len(sentence.split()) <= 40, sentence


def test_the_table_names_every_tutorial() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\((\d\d_\w+)\.ipynb\)", text))) == [script.stem for script in SCRIPTS]


def test_tutorials_and_pages_lead_to_each_other() -> None:
    rows = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if ".ipynb)" in line]
    for row in rows:
        number, *_ = re.findall(r"\[(\d+) ", row)
        named = re.findall(r"\(\.\./(docs/\w+\.md)\)", row)
        assert named
        for page in named:
            text = (REPOSITORY / page).read_text(encoding="utf-8")
            assert f"[Tutorial {number}](../tutorials/README.md)" in text, page


def test_paths_and_noise_are_left_out_of_outputs() -> None:
    import nbformat

    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = [
        nbformat.v4.new_output("stream", text="IProgress not found. Please update\nUserWarning: kept /a/b/c\n"),
        nbformat.v4.new_output("stream", text="nvImageCodec is not available; skipping\n"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    RENDER._without_paths(notebook, {"/a/b": "<folder>"})
    assert [output.text for output in notebook.cells[0].outputs] == ["UserWarning: kept <folder>/c\n"]


def test_text_is_taken_over_and_changed_code_is_not() -> None:
    import nbformat

    def notebook(text: str, code: str, **outputs: Any) -> Any:
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell(code, **outputs)]
        return nbformat.v4.new_notebook(cells=cells)

    output = nbformat.v4.new_output("stream", text="1")
    stored = notebook("before", "print(1)", outputs=[output], execution_count=1)
    made = RENDER.take_over_text(notebook("after", "print(1)"), stored)
    assert made.cells[0].source == "after" and made.cells[1].outputs == [output]
    assert made.cells[1].execution_count == 1
    with pytest.raises(ValueError, match="code has changed"):
        RENDER.take_over_text(notebook("after", "print(2)"), stored)


@pytest.mark.slow
@each
def test_it_runs_in_fast_mode(script: Path) -> None:
    notebook = RENDER.run(RENDER.read_script(script), fast=True, data=find_shared_data())
    assert "mode: fast" in "".join(outputs(notebook, "stdout"))
    assert outputs(notebook, "text/markdown")[-1].startswith("**Conclusion.**")
    assert outputs(notebook, "image/png")


@pytest.mark.slow
def test_a_bundle_that_is_named_is_audited_beside_that_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tutorial 5 on a folder as the Model Zoo has them, with an override and scans without labels."""
    from monai_adversarial.data import write_ct_phantoms

    bundle = tmp_path / "named_bundle"
    shutil.copytree(REPOSITORY / "bundles" / "ct_abdomen_unet", bundle, ignore=shutil.ignore_patterns("data", "eval"))
    phantoms = tmp_path / "phantoms"
    write_ct_phantoms(phantoms, count=1, seed=1001, progress=False, size=(32, 32, 24), spacing=(6.0, 6.0, 6.0))
    shutil.rmtree(phantoms / "labels")
    (phantoms / "datalist.json").unlink()
    script = next(script for script in SCRIPTS if script.stem.startswith("05_"))
    for name, value in (("BUNDLE", bundle), ("SCANS", phantoms), ("OVERRIDES", '{"inferer#overlap": 0.1}')):
        monkeypatch.setenv(f"MONAI_ADVERSARIAL_TUTORIAL_{name}", str(value))
    notebook = RENDER.run(RENDER.read_script(script), fast=True)
    printed = "".join(outputs(notebook, "stdout"))
    assert "bundle that you named: named_bundle" in printed and "override: inferer#overlap = 0.1" in printed
    assert "skipped" not in printed and "stability 1.00 →" in printed
    conclusion = outputs(notebook, "text/markdown")[-1]
    assert "inferer#overlap overridden: " in conclusion and "1 scan(s) behind those about the bundle" in conclusion
