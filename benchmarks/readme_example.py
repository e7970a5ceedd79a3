# SPDX-License-Identifier: Apache-2.0
"""What the README's script prints, from a run of it as it stands: the CT bundle's U-Net on a phantom.

python -m benchmarks.readme_example
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from contextlib import redirect_stdout
from typing import Any

import torch

from benchmarks.doc_tables import DOCS
from benchmarks.strength import bundle_network
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["PAGE", "SOURCE", "script", "with_printed"]

PAGE = DOCS.parent / "README.md"
SOURCE = DOCS / "readme_example.json"
SEED = 1000  # held out: the network was not trained with it


def script(page: str) -> str:
    """The first block of Python of the page."""
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]


def with_printed(page: str, found: dict[str, Any]) -> str:
    """The page with what was printed below its script.

    Raises:
        ValueError: unless one block of text follows the script.
    """
    lines = [textwrap.fill(line, 112, subsequent_indent="  ", break_long_words=False) for line in found["printed"]]
    block = "```text\n" + "\n".join(lines) + "\n```"
    page, count = re.subn(r"```text\n.*?```", lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page must have one block of text, found {count}.")
    return page


def run(page: str) -> dict[str, Any]:
    """The lines that the script prints, with the bundle's network and a phantom in HU on the network's grid."""
    from monai.transforms import Compose, Orientationd, Spacingd

    from monai_adversarial.data import CTPhantomDataset

    keys = ("image", "label")
    grid = [
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, (3.2, 3.2, 4.0), mode=("bilinear", "nearest")),
    ]
    case = CTPhantomDataset(1, seed=SEED, transform=Compose(grid))[0]
    names = {"network": bundle_network("cpu")} | {key: case[key][None].as_tensor() for key in keys}
    names["label"] = names["label"].long()
    printed = io.StringIO()
    torch.manual_seed(0)
    with redirect_stdout(printed):
        exec(compile(script(page), "README.md", "exec"), names)  # the page is ours
    return {"network": "bundles/ct_abdomen_unet", "phantom_seed": SEED, "printed": printed.getvalue().splitlines()}


def main() -> None:
    """Run it, keep what it printed, and show it."""
    page = PAGE.read_text(encoding="utf-8")
    found = run(page)
    with replace_when_complete(SOURCE) as temporary:
        temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replace_when_complete(PAGE) as temporary:
        temporary.write_text(with_printed(page, found), encoding="utf-8")


if __name__ == "__main__":
    main()
