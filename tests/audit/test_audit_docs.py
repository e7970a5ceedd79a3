# SPDX-License-Identifier: Apache-2.0
"""docs/audit.md says what there is: options, plans, keys and checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from monai_adversarial.audit import load_plan, plan_names
from monai_adversarial.audit.command_line import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / name for name in ("audit.md", "audit_targets.md", "audit_targets_exported.md")]
PAGES += [ROOT / "docs" / "audit_targets_nnunet.md", ROOT / "README.md"]


def _help(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def test_every_option_of_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = _help(capsys)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        commands = re.findall(r"monai_adversarial audit(?:[^`\n]|\\\n)*", text)
        named = {option for command in commands for option in re.findall(r"--[a-z][a-z-]*", command)}
        if page.name == "audit.md":
            named |= set(re.findall(r"`(--[a-z][a-z-]*)", text))
        assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_the_plan_of_the_page_is_one() -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(name: own.*?)```", text, re.DOTALL)
    plan = load_plan(yaml.safe_load(block))
    assert [row.name for row in plan.rows] == ["clean", "pgd_2", "pgd_4", "pgd_8"]
    for name in plan_names():
        assert f"`{name}`" in text


def test_every_health_check_is_explained() -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    source = (ROOT / "monai_adversarial" / "audit" / "health.py").read_text(encoding="utf-8")
    checks = set(re.findall(r'_check\(\s*"([a-z ]+)"', source))
    assert len(checks) >= 7
    assert {check for check in checks if f"| {check} |" not in text} == set()
