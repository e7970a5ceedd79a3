# SPDX-License-Identifier: Apache-2.0
"""Errors of a bundle run as one sentence."""

from __future__ import annotations

import errno
import sys

import pytest

from monai_adversarial.studies.command_line import TRACEBACK_VARIABLE, root_sentence, show_errors_as_sentences


def wrapped(cause: Exception) -> Exception:
    try:
        try:
            try:
                raise OSError("low level") from None
            except OSError as low:
                raise cause from low
        except Exception as error:
            raise RuntimeError("Failed to instantiate component 'x' with keywords: epsilon") from error
    except RuntimeError as error:
        outer = RuntimeError("Failed to evaluate ConfigExpression")
        outer.__cause__ = error
        return outer


def test_the_sentence_is_the_first_below_the_config_parser() -> None:
    assert root_sentence(wrapped(ValueError("epsilon must be > 0,\n got -1."))) == "epsilon must be > 0, got -1."
    assert root_sentence(wrapped(KeyError("no such key"))) == "no such key"
    assert (
        root_sentence(OSError(errno.ENOSPC, "cannot write a.nii: No space left")) == "cannot write a.nii: No space left"
    )
    assert root_sentence(ValueError()) == "ValueError"


def test_the_hook_prints_one_sentence_and_keeps_defects_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    defects = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: defects.append(error[0]))
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)
    show_errors_as_sentences()
    sys.excepthook(RuntimeError, wrapped(ValueError("epsilon is wrong.")), None)
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "error: epsilon is wrong." and len(printed) == 2 and not defects
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "start the same command again" in capsys.readouterr().err
    sys.excepthook(AssertionError, AssertionError(), None)
    assert defects == [AssertionError]


def test_the_traceback_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    before = sys.excepthook
    show_errors_as_sentences()
    assert sys.excepthook is before
