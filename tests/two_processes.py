# SPDX-License-Identifier: Apache-2.0
"""Tests that are a script of torchrun's as well: started as two processes, and left by both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import torch

__all__ = ["leave", "run_two_processes"]


def run_two_processes(script: str, folder: Path) -> None:
    """Run a test file as a script by torchrun, with the folder as its argument."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, script, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def leave() -> NoReturn:
    """End a process of torchrun's together with the others, without taking the interpreter down.

    Where there was a ``DistributedDataParallel``, the threads of gloo outlive ``destroy_process_group`` (torch 2.13).
    One that lets go of a tensor, or of a finished operation, while the interpreter is taken down is ended by Python in
    the middle of C++: "terminate called without an active exception", SIGABRT. A busy machine showed it, seldom.
    """
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
