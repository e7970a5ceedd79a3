# SPDX-License-Identifier: Apache-2.0
"""Pictures of cases, small enough to travel within the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

__all__ = ["LARGEST_WIDTH", "data_url", "inside"]

# Pixels: the width of the page's text on a screen of high resolution.
LARGEST_WIDTH = 1100
QUALITY = 72


def inside(folder: Path, relative: object) -> Path | None:
    """A file below a folder, or None: absolute paths and paths that lead out of the folder are not followed."""
    if not isinstance(relative, str) or not relative or "\0" in relative:
        return None
    path = (folder / relative).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def data_url(path: Path) -> tuple[str, int, int] | None:
    """A picture as a ``data:`` address with its width and height; None for a file that is no picture."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if picture.width > LARGEST_WIDTH:
        picture = picture.resize((LARGEST_WIDTH, max(1, round(picture.height * LARGEST_WIDTH / picture.width))))
    stream = io.BytesIO()
    # Nothing of the file's own meta data goes with it.
    picture.save(stream, "WEBP", quality=QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return address, picture.width, picture.height
