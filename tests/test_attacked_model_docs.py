# SPDX-License-Identifier: Apache-2.0
"""docs/attacked_model.md runs as it stands, and says what the code says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, NormalizeIntensityd
from torch import nn

from tests.readme_parts import ROOT, bright_organ, engine_parts, network, write_files

PAGE = "docs/attacked_model.md"


def steps(text: str) -> list[tuple[str, str | None]]:
    """Each python block with the text block that follows it at once, if any."""
    pairs = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    return [(code, said or None) for code, said in pairs]


def parts() -> dict[str, Any]:
    """The names that the page uses without making them."""
    image, label = bright_organ()
    _, options = engine_parts()
    items = [{"image": image[0] + 500, "label": label[0]}]
    dataset = Dataset(items, Compose([NormalizeIntensityd("image", nonzero=True, channel_wise=True)]))
    model = nn.Sequential(nn.InstanceNorm3d(1), network())
    mri = {**options, "network": model.eval(), "val_data_loader": DataLoader(dataset)}
    return {
        **{"network": network(), "image": image, "label": label},
        **{"evaluator": SupervisedEvaluator(**options), "mri_evaluator": SupervisedEvaluator(**mri)},
    }


def run(code: str, names: dict[str, Any]) -> str:
    """What a block prints, warns and refuses."""
    torch.manual_seed(0)
    said: list[str] = []
    names["print"] = lambda *values, sep=" ": said.append(sep.join(map(str, values)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(compile(code, PAGE, "exec"), names)  # the page is ours
        except (TypeError, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}")
    said += [f"UserWarning: {found.message}" for found in caught if found.category is UserWarning]
    return "\n".join(said)


def test_every_block_says_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = parts()
    for code, expected in steps((ROOT / PAGE).read_text(encoding="utf-8")):
        said = run(code, names)
        assert " ".join(said.split()) == " ".join((expected or "").split()), code
    assert torch.is_grad_enabled()


def test_the_page_refuses_and_warns() -> None:
    said = [expected or "" for _, expected in steps((ROOT / PAGE).read_text(encoding="utf-8"))]
    assert sum("Error: " in text for text in said) >= 6
    assert sum("Warning: " in text for text in said) >= 3
