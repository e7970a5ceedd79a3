# SPDX-License-Identifier: Apache-2.0
"""How much of what nobody uses is too much: the caller may say it."""

from __future__ import annotations

import pytest

from monai_adversarial.utils import allocator


class Library:
    """Stands in for the C library: it gives back all that it holds."""

    def __init__(self, held: int) -> None:
        self.held, self.trimmed = held, 0

    def malloc_trim(self, _: int) -> None:
        self.held, self.trimmed = 0, self.trimmed + 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library(20 << 20)
    monkeypatch.setattr(allocator, "_is_wanted", lambda device: True)
    monkeypatch.setattr(allocator, "glibc", lambda: made)
    monkeypatch.setattr(allocator, "reusable_heap", lambda: made.held)
    monkeypatch.setattr(allocator, "_not_to_give_back", 0)
    monkeypatch.setattr(allocator, "_growth", allocator._Growth())
    return made


def test_what_is_more_than_the_excess_is_given_back(library: Library) -> None:
    assert not allocator.give_back_excess(excess=20 << 20) and library.held == 20 << 20
    assert allocator.give_back_excess() and library.held == 0, "16 MiB are less"


def test_growth_beyond_the_need_is_given_back(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 100 << 20
    monkeypatch.setattr(allocator, "private_bytes", lambda: size)
    assert allocator.give_back_growth(), "the first piece of work shows the need"
    library.held, size = 20 << 20, 110 << 20
    assert not allocator.give_back_growth(), "within the need"
    size = 117 << 20
    assert not allocator.give_back_growth(excess=64 << 20), "64 MiB are more"
    assert allocator.give_back_growth() and library.trimmed == 2
