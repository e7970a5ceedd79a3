# SPDX-License-Identifier: Apache-2.0
"""Makes the notebooks of this folder from their ``.py`` pairs, outputs included.

    python tutorials/render.py                        # all of them, in full
    python tutorials/render.py 02_bias_field_and_elastic --fast
    python tutorials/render.py --text                 # takes over changed text, keeps the outputs

The ``.py`` file of a pair is the one to edit. A notebook is run in an empty folder, so that nothing is left here.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import matplotlib
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FAST = "MONAI_ADVERSARIAL_TUTORIAL_FAST"
#: seconds for one cell
LONGEST_CELL = 3600
# What libraries say about parts of them that are not installed; warnings stay.
NOISE = re.compile(r"^(IProgress not found|nvImageCodec is not available|NvImgCodecPydicomReader:).*\n?", re.MULTILINE)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """The ``.py`` files of the pairs, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read_script(script: Path) -> Any:
    """The notebook of a script, without outputs; the same script gives the same bytes."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{number:02d}", nbformat.from_dict({})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any, fast: bool, data: Path | None = None) -> Any:
    """Run a notebook in an empty folder with this interpreter; its outputs are in it afterwards.

    Args:
        notebook: of :func:`read_script`.
        fast: small data and few steps.
        data: folder of the real data; None to go without.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    changed = {FAST: "1" if fast else "0", "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": None}
    changed["MONAI_ADVERSARIAL_DATA"] = None if data is None else str(data)
    environment = {name: value for name, value in os.environ.items() if name not in changed}
    environment |= {name: value for name, value in changed.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="tutorial_") as folder:
        client = NotebookClient(
            notebook, timeout=LONGEST_CELL, kernel_name="python3", record_timing=False, coalesce_streams=True
        )
        client.execute(cwd=folder, env=environment)
        _without_paths(notebook, {folder: "<working folder>", str(ROOT): "<repository>", **_library_folders()})
    return notebook


def take_over_text(notebook: Any, stored: Any) -> Any:
    """A notebook of a script with the outputs that are stored; only text may have changed since.

    Args:
        notebook: of :func:`read_script`.
        stored: the notebook with outputs.

    Raises:
        ValueError: where code has changed, so that the outputs are those of other code.
    """
    made = [cell for cell in notebook.cells if cell.cell_type == "code"]
    before = [cell for cell in stored.cells if cell.cell_type == "code"]
    if [cell.source for cell in made] != [cell.source for cell in before]:
        raise ValueError("stored must hold the script's code, but code has changed: run the notebook again.")
    for cell, old in zip(made, before, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    return notebook


def _library_folders() -> dict[str, str]:
    """Where installed packages lie."""
    return {str(Path(module.__file__).parents[1]): "<environment>" for module in (nbformat, matplotlib)}


def _without_paths(notebook: Any, names: dict[str, str]) -> None:
    """Outputs are read by others: no folder of this machine stands in them."""

    def clean(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "<temporary folder>", text)

    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                output["text"] = NOISE.sub("", clean(output["text"]))
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = clean(content)
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("text", "...").strip()]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tutorials/render.py", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="tutorials, without ending; all where none is named")
    parser.add_argument("--fast", action="store_true", help="small data and few steps")
    parser.add_argument("--text", action="store_true", help="take over changed text, run nothing")
    given = parser.parse_args(arguments)
    known = {script.stem: script for script in scripts()}
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"names must be among {', '.join(known)}, got {unknown[0]!r}.")
    data = os.environ.get("MONAI_ADVERSARIAL_DATA")
    for name in given.names or known:
        began = time.perf_counter()
        file = known[name].with_suffix(".ipynb")
        if given.text:
            nbformat.write(take_over_text(read_script(known[name]), nbformat.read(file, as_version=4)), file)
            continue
        notebook = run(read_script(known[name]), given.fast, None if data is None else Path(data))
        nbformat.write(notebook, file)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
