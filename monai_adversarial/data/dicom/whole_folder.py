# SPDX-License-Identifier: Apache-2.0
"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["folder_when_complete"]


@contextmanager
def folder_when_complete(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``: it takes its name when the block ends well and is removed otherwise.

    Raises:
        FileExistsError: where something is at ``path`` already: a folder is never written over.
        OSError: one sentence that names ``path``: read-only folder, full disk.
    """
    final = Path(path)
    if final.exists() or final.is_symlink():
        raise FileExistsError(f"there is something at {final} already: a series is written to a new folder.")
    temporary = final.with_name(f".{os.getpid()}.tmp.{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process of the same number left
        temporary.mkdir()
        yield temporary
        os.rename(temporary, final)
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise type(error)(error.errno, f"cannot write {final}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
