# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["remove_abandoned", "replace_when_complete"]

MARK = ".tmp."
_ABANDONED = re.compile(r"\.[0-9a-f]{32}\.tmp\.")
#: seconds after which a temporary file that nobody has written to belongs to a process that was killed
ABANDONED_AFTER = 24 * 3600.0


def remove_abandoned(folder: str | os.PathLike[str], older_than: float = ABANDONED_AFTER) -> int:
    """Remove temporary files of processes that were killed, below a folder.

    Args:
        folder: searched with its folders; nothing happens where it is missing.
        older_than: seconds since the last write.

    Returns:
        how many were removed.
    """
    removed = 0
    for path, _, files in os.walk(folder):
        for name in files:
            if not _ABANDONED.match(name):
                continue
            try:
                if time.time() - os.stat(os.path.join(path, name)).st_mtime > older_than:
                    os.unlink(os.path.join(path, name))
                    removed += 1
            except OSError:  # another process was faster
                continue
    return removed


@contextmanager
def replace_when_complete(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``: it takes its place when the block ends well and is removed otherwise.

    Raises:
        OSError: one sentence that names ``path``: read-only folder, full disk.
    """
    final = Path(path)
    # Unique on a share that several machines or containers write to, where process numbers repeat; the end of the name
    # stays for libraries that look at it.
    temporary = final.with_name(f".{uuid.uuid4().hex}{MARK}{final.name[-32:]}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, final)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {final}: {error.strerror or error}") from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # a folder that went read-only: the first error is the one to report
