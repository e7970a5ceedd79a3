# SPDX-License-Identifier: Apache-2.0
"""Files that an evaluator writes of attacked images carry the attack's name: nobody takes them for clinical results."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

from monai.data.folder_layout import FolderLayout
from monai.transforms import SaveClassificationd, SaveImage, SaveImaged

from monai_adversarial.attacks import Attack
from monai_adversarial.models.engine_parts import postprocessing_of, steps_of

__all__ = ["AttackedFiles"]


class AttackedFiles:
    """Gives what the engine's postprocessing saves the attack's name as a postfix while attacked images come.

    Args:
        engine: an evaluator.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._before: list[tuple[FolderLayout, str]] = []
        self._said = False

    def begin(self, attacks: Sequence[Attack]) -> None:
        """Rename what is written from now on; nothing without attacks.

        Args:
            attacks: that batches may meet.
        """
        self.end()
        names = {type(attack).__name__.lower() for attack in attacks}
        if not names:
            return
        name = names.pop() if len(names) == 1 else "attacked"
        for step in steps_of(postprocessing_of(self.engine)):
            writer = step.saver if isinstance(step, SaveImaged) else step
            if not isinstance(writer, (SaveImage, SaveClassificationd)):
                continue
            layout = getattr(writer, "folder_layout", None)
            if not isinstance(layout, FolderLayout):
                self._warn(type(step).__name__, name)
                continue
            self._before.append((layout, layout.postfix))
            layout.postfix = f"{layout.postfix}_{name}" if layout.postfix else name
            self._say(layout.postfix)

    def end(self) -> None:
        """Names as they were."""
        for layout, postfix in reversed(self._before):
            layout.postfix = postfix
        self._before = []

    def _say(self, postfix: str) -> None:
        if not self._said:
            self.engine.logger.log(logging.INFO, f"files of attacked images are saved with the postfix {postfix!r}.")
        self._said = True

    def _warn(self, writer: str, name: str) -> None:
        warnings.warn(
            f"{writer} saves what the network answers to attacked images under the name that it has for clean ones: "
            f"give it another name, for example with {name!r} in it.",
            stacklevel=2,
        )
