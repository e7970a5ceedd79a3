# SPDX-License-Identifier: Apache-2.0
"""Draws and backward passes in force: of one thread, and of the backward passes that it starts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer
from monai_adversarial.utils.backward_pass import backward_pass, in_force
from monai_adversarial.utils.draws import current_draw, draw_seed, random_draw
from tests.helpers import random_image


def test_draws_add_up_and_end_with_their_context() -> None:
    with random_draw(1), random_draw(2, 3):
        assert current_draw() == (1, 2, 3)
        seed = draw_seed(7)
    assert current_draw() == ()
    assert seed != draw_seed(7)
    with pytest.raises(ZeroDivisionError), random_draw(1):
        raise ZeroDivisionError
    assert current_draw() == ()


def test_other_threads_do_not_see_what_is_in_force() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(in_force())
        with random_draw(9), backward_pass("surrogate"):
            barrier.wait()
            seen.append(in_force())
            barrier.wait()

    barrier = threading.Barrier(2, timeout=30)
    with random_draw(1), backward_pass("identity"):
        thread = threading.Thread(target=look)
        thread.start()
        barrier.wait()
        assert in_force() == ((1,), ("identity",))
        barrier.wait()
        thread.join()
    assert seen == [((), ()), ((9,), ("surrogate",))]


class Nested(torch.autograd.Function):
    """Starts a backward pass inside its own: below some depth autograd goes on in a thread of its own, as for CUDA."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, depth: int, seen: dict[int, Any]) -> torch.Tensor:
        ctx.depth, ctx.seen = depth, seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ctx.seen[ctx.depth] = (threading.get_ident(), in_force())
        if ctx.depth < 70:
            with torch.enable_grad():
                Nested.apply(torch.ones(1, requires_grad=True), ctx.depth + 1, ctx.seen).sum().backward()
        return gradient, None, None


def test_what_is_in_force_follows_a_backward_pass_into_autograds_own_threads() -> None:
    seen: dict[int, Any] = {}
    with random_draw(3, 4), backward_pass("surrogate"):
        Nested.apply(torch.ones(1, requires_grad=True), 0, seen).sum().backward()
    assert len({thread for thread, _ in seen.values()}) > 1
    assert {known for _, known in seen.values()} == {((3, 4), ("surrogate",))}


def test_windows_are_computed_again_under_the_draw_and_backward_pass_of_the_first_time() -> None:
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(in_force())
        return x * 2

    image = random_image((1, 1, 8, 8, 8)).requires_grad_()
    with random_draw(5), backward_pass("identity"):
        output = MemoryBoundedSlidingWindowInferer(4, overlap=0)(image, network)
    output.sum().backward()
    # 8 windows, of which the last is kept
    assert len(seen) == 15 and set(seen) == {((5,), ("identity",))}
    assert in_force() == ((), ())
