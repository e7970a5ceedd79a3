# SPDX-License-Identifier: Apache-2.0
"""The page about installing names every extra that there is, and no other."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_extra_is_on_the_page() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(setup["options.extras_require"])


def test_all_holds_what_every_extra_for_use_needs() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {name: set(needs.split("\n")) - {""} for name, needs in setup["options.extras_require"].items()}
    for name in set(extras) - {"all", "benchmarks", "docs", "tutorials", "test"}:
        assert extras[name] <= extras["all"], name
