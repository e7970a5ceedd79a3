# SPDX-License-Identifier: Apache-2.0
"""Numbers that code counts in, and numbers that it asks."""

from __future__ import annotations

from monai_adversarial.utils.counters import is_read


class Counts:
    def __init__(self) -> None:
        self.calls = self.most = self.alive = 0

    def ask(self, number: int) -> int:
        self.calls += number
        self.alive += 1
        self.most = max(self.most, self.alive)
        return number

    def _end(self) -> None:
        self.alive -= 1


class Switches(Counts):
    def ask(self, number: int) -> int:
        super().ask(number)
        return number if self.calls < 4 else 0


class Shows(Counts):
    @property
    def shown(self) -> str:
        return f"{self.calls} calls"


class SwitchesInside(Counts):
    def ask(self, number: int) -> int:
        def late() -> bool:
            return self.calls > 4

        return number * late()


NAMES = {"calls", "most", "alive"}


def test_what_is_only_counted_is_not_read() -> None:
    assert not any(is_read(Counts(), name, NAMES) for name in NAMES)


def test_what_an_answer_depends_on_is_read() -> None:
    for kind in (Switches, Shows, SwitchesInside):
        assert is_read(kind(), "calls", NAMES) and not is_read(kind(), "most", NAMES)


def test_a_function_that_an_object_holds_may_read() -> None:
    thing = Counts()
    thing.how = lambda self: self.calls > 2  # type: ignore[attr-defined]
    assert is_read(thing, "calls", NAMES)
