# SPDX-License-Identifier: Apache-2.0
"""Every ``>>>`` example of the package runs and shows what it prints, each module in an empty folder.

Examples are written so that they can be copied: they import what they use, and take network, image and label from
``monai_adversarial.data.example.example_case()``.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from tests.docs.pages import ROOT

# An error's sentence counts: it is part of what the example shows.
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: modules of the package whose text has an example
WITH_EXAMPLES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted((ROOT / "monai_adversarial").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]
#: extras that the examples of a module may need
EXTRAS = ("einops", "itk", "pydicom", "highdicom", "nnunetv2", "onnx", "onnxruntime", "torchio", "ptwt", "pywt")
#: extras that are imported when a class is made, not when its module is imported
EXTRA_OF = {"monai_adversarial.purifiers.n4": ("itk",), "monai_adversarial.purifiers.wavelet": ("ptwt",)}
DICOM = ("monai_adversarial.data.dicom", "monai_adversarial.data.example_series")


def extras_of(name: str) -> tuple[str, ...]:
    """The extras that the examples of a module need when they run."""
    return ("pydicom", "highdicom") if name.startswith(DICOM) else EXTRA_OF.get(name, ())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [extra for extra in extras_of(name) if importlib.util.find_spec(extra) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            pytest.skip(f"{error.name} is not installed")
        raise
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs={}):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert torch.is_grad_enabled()
