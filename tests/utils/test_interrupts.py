# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at any instruction leaves a network as it was; SIGTERM raises where a study runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from torch import nn

from monai_adversarial.utils import interrupts, modules
from monai_adversarial.utils.interrupts import ends_cleanly
from monai_adversarial.utils.modules import held_still

FILES = {modules.__file__, contextlib.__file__, interrupts.__file__}


@pytest.fixture(autouse=True)
def _ctrl_c_as_in_a_terminal() -> Iterator[None]:
    """A process that was started in the background ignores Ctrl-C, and so would its tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def state(network: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]


def interrupted(network: nn.Module, at: int) -> tuple[bool, BaseException | None]:
    """Freeze a network and send Ctrl-C at one instruction of the way in or out.

    Returns:
        whether there was so late an instruction, and what was raised, which keeps its frames alive.
    """
    passed = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "call"):
            passed += 1
            if passed == at:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    raised = None
    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with held_still(network):
            pass
    except KeyboardInterrupt as error:
        raised = error
    finally:
        sys.settrace(before)
    return passed >= at, raised


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
def test_ctrl_c_at_any_instruction_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Conv1d(2, 1, 3)).train()
    network[2].requires_grad_(False)
    before, at, tried = state(network), 1, 0
    while True:
        reached, raised = interrupted(network, at)
        if not reached:
            break
        assert raised is not None, f"Ctrl-C at instruction {at} was lost"
        assert state(network) == before, f"Ctrl-C at instruction {at} left other flags"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        at, tried = at + 23, tried + 1
    assert tried > 30


def test_ctrl_c_between_the_edges_is_raised_at_once() -> None:
    network = nn.Conv1d(1, 1, 1).train()
    reached = False
    with pytest.raises(KeyboardInterrupt), held_still(network):
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert not reached and network.training


def test_sigterm_ends_a_scope_with_its_own_exit_status() -> None:
    cleaned = False
    with pytest.raises(SystemExit) as caught, ends_cleanly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned = True
    assert caught.value.code == 143 and cleaned
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_users_own_is_left_alone() -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with ends_cleanly():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
