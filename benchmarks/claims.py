# SPDX-License-Identifier: Apache-2.0
"""What scripts that test claims have in common: a JSON file that keeps what was tested, and a page made of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.doc_tables import DOCS
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["run_claims"]


def run_claims(
    description: str | None,
    claims: Mapping[str, Callable[[], dict[str, Any]]],
    page: str,
    file: str,
    with_table: Callable[[str, Path], str],
) -> int:
    """Test the claims that the file does not have, and renew the page where its file was written.

    Args:
        description: of the script.
        claims: name -> test, which gives its verdict and what was seen.
        page: in ``docs``.
        file: in ``docs``, whose table the page has.
        with_table: the page with its table made anew.

    Returns:
        exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("output", type=Path, help="JSON file; claims that it has are kept")
    parser.add_argument("--only", nargs="+", choices=tuple(claims), default=tuple(claims), help="claims to test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    for name in arguments.only:
        if name not in found:
            found[name] = claims[name]()
            with replace_when_complete(arguments.output) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {found[name]['verdict']}; {found[name]['seen']}", flush=True)
    if arguments.output.resolve() == (DOCS / file).resolve() and (DOCS / page).is_file():
        text = with_table((DOCS / page).read_text(encoding="utf-8"), DOCS)
        (DOCS / page).write_text(text, encoding="utf-8")
    return 0
