# SPDX-License-Identifier: Apache-2.0
"""A bundle's command in this process: one of its own imports torch and MONAI again, for seconds."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import monai.bundle
from monai.utils import set_determinism

__all__ = ["run_here"]


def run_here(
    config: str | list[str], bundle: Path, directory: Path, environment: dict[str, str] | None = None, **overrides: Any
) -> subprocess.CompletedProcess[str]:
    """What ``python -m monai.bundle run`` does, and what it says, as far as a process can tell of itself.

    Args:
        config: file, or several that are read one after the other.
        bundle: root of the bundle.
        directory: where the command is given.
        environment: variables that are set meanwhile.
        overrides: ids of the config and their values.

    Returns:
        exit status, and what was printed: an error as the hook prints it that the config installs.
    """
    out, err, status, before = io.StringIO(), io.StringIO(), 0, Path.cwd()
    os.chdir(directory)
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, environment or {}),
        patch.object(sys, "excepthook", sys.__excepthook__),
    ):
        try:
            monai.bundle.run(config_file=config, bundle_root=str(bundle), **overrides)
        except Exception:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            status = 1
        finally:
            os.chdir(before)
            set_determinism(None)  # configs make torch deterministic for the whole process
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())
