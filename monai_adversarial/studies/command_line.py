# SPDX-License-Identifier: Apache-2.0
"""Errors of a bundle run as one sentence instead of a page of traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from monai_adversarial.utils.shown_names import printable, shown_name

__all__ = ["TRACEBACK_VARIABLE", "USER_ERRORS", "root_sentence", "show_errors_as_sentences"]

TRACEBACK_VARIABLE = "MONAI_ADVERSARIAL_TRACEBACK"

# What MONAI's config parser wraps around the error of a component.
WRAPPERS = ("Failed to evaluate", "Failed to instantiate", "Failed to get config item")
# Errors that say what was wrong with what the user gave; anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, RuntimeError, OSError, KeyError, ImportError)


def root_sentence(error: BaseException) -> str:
    """The message of the first error below MONAI's wrappers, on one line."""
    while str(error).startswith(WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 28]"
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return shown_name(text) or type(error).__name__


def show_errors_as_sentences() -> None:
    """Print an uncaught error as one sentence on stderr; the exit status stays non-zero.

    For the ``initialize`` list of a bundle config. The environment variable MONAI_ADVERSARIAL_TRACEBACK=1 keeps the
    whole traceback.

    >>> import sys
    >>> from monai_adversarial.studies import show_errors_as_sentences
    >>> before = sys.excepthook
    >>> show_errors_as_sentences()
    >>> sys.excepthook is before
    False
    >>> sys.excepthook = before
    """
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted: start the same command again to continue.", file=sys.stderr)
        elif issubclass(kind, USER_ERRORS):
            print(printable(f"error: {root_sentence(error)}", sys.stderr), file=sys.stderr)
            print(f"({TRACEBACK_VARIABLE}=1 shows where it was raised)", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
