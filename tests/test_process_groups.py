# SPDX-License-Identifier: Apache-2.0
"""Processes that talk to each other end without taking Python down below the threads of gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    path
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if '__main__":\n    torch.set_num_threads' in path.read_text(encoding="utf-8")
]


def test_the_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_torchrun_leaves_without_taking_python_down(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.rstrip().endswith("\n    leave()") and "destroy_process_group" not in text


def test_an_audit_of_several_processes_leaves_no_thread_of_gloo(tmp_path: Path) -> None:
    """One that still lets go of a tensor would end the process with SIGABRT after its last line."""
    code = (
        "import atexit, os\n"
        "from pathlib import Path\n"
        "script = Path(__file__)\n"
        "def note(when):\n"
        "    threads = []\n"
        "    for path in Path('/proc/self/task').glob('*/comm'):\n"
        "        try:\n"
        "            threads.append(path.read_text())\n"
        "        except OSError:\n"  # one that is just leaving
        "            pass\n"
        "    here = script.with_name(f'{when} {os.environ[\"RANK\"]}')\n"
        "    here.write_text(str(sum('gloo' in name for name in threads)))\n"
        "atexit.register(note, 'left')\n"  # called last
        "from monai_adversarial.audit.shard import Shard\n"
        "shard = Shard.from_environment()\n"
        "shard.wait()\n"
        "note('waited')\n"
    )
    script = tmp_path / "audit.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(int((tmp_path / f"waited {rank}").read_text()) > 0 for rank in (0, 1))
    assert all(int((tmp_path / f"left {rank}").read_text()) == 0 for rank in (0, 1))
