# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replace_when_complete"]


@contextmanager
def replace_when_complete(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``: it takes its place when the block ends well and is removed otherwise.

    Raises:
        OSError: one sentence that names ``path``: read-only folder, full disk.
    """
    final = Path(path)
    temporary = final.with_name(f".{os.getpid()}.tmp.{final.name}")
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
