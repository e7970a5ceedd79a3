# SPDX-License-Identifier: Apache-2.0
"""The order in which windows are taken, what waits meanwhile, and how windows share their voxels."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_adversarial.inferers.memory_bounded import memory_bounded
from monai_adversarial.inferers.window_cells import CellGrid, WindowCells
from monai_adversarial.inferers.window_order import frugal_order, most_waiting
from monai_adversarial.inferers.window_shares import WindowShares
from tests.helpers import random_image

SHAPES = {"uneven": (16, 13, 11), "flat": (9, 24, 24), "even": (14, 14, 14)}


def windows_of(shape: tuple[int, ...], size: int = 8, step: int = 6) -> list[tuple[slice, ...]]:
    return dense_patch_slices(shape, (size,) * len(shape), (step,) * len(shape))


def batches_of(slices: list[tuple[slice, ...]], images: int = 1, per_batch: int = 1) -> list[list[tuple[slice, ...]]]:
    everything = [(slice(i, i + 1), slice(None), *one) for i in range(images) for one in slices]
    return [everything[start : start + per_batch] for start in range(0, len(everything), per_batch)]


def waiting_in(order: list[int], slices: list[tuple[slice, ...]]) -> int:
    return most_waiting(CellGrid(slices), [[(0, number)] for number in order])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_windows_in_any_order_are_stitched_to_the_bits_of_monai(shape: tuple[int, ...], mode: str) -> None:
    network = nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    image = random_image((1, 1, *shape))
    inferer = SlidingWindowInferer(8, 1, 0.25, mode=mode)
    plan = memory_bounded(inferer).plan(image, network)
    order = list(range(len(plan.windows.slices)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        cells = WindowCells(plan.windows.slices, plan.windows.weight, torch.float32, image.device)
        found = torch.full((1, 3, *shape), torch.nan)
        for number in order:
            where = plan.windows.slices[number]
            for place, piece in cells.add(where, network(image[(slice(None), slice(None), *where)])):
                found[(slice(None), slice(None), *place)] = piece
        assert torch.equal(found, inferer(image, network))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("per_batch", [1, 3])
def test_the_order_holds_every_batch_once_and_never_lets_more_wait(shape: tuple[int, ...], per_batch: int) -> None:
    slices = windows_of(shape)
    batches = batches_of(slices, 2, per_batch)
    order = frugal_order(batches)
    assert sorted(order) == list(range(len(batches)))
    if per_batch == 1:
        alone = [number for number in order if number < len(slices)]
        assert alone == frugal_order(batches_of(slices)), "a batch does not change what happens to a sample"
        assert waiting_in(alone, slices) <= waiting_in(list(range(len(slices))), slices)


@pytest.mark.parametrize(
    ("shape", "size", "most"),
    # As MONAI takes them 0.40, 0.32 and 0.92 of the volume wait.
    [((128, 128, 128), 64, 0.31), ((256, 256, 256), 96, 0.18), ((100, 512, 512), 96, 0.19)],
)
def test_much_less_waits_where_the_last_windows_overlap_or_the_first_axis_is_short(
    shape: tuple[int, ...], size: int, most: float
) -> None:
    slices = windows_of(shape, size, size * 3 // 4)
    order = frugal_order(batches_of(slices))
    voxels = torch.Size(shape).numel()
    assert waiting_in(order, slices) <= most * voxels < waiting_in(list(range(len(slices))), slices)


def test_the_order_of_monai_stays_where_no_other_is_better() -> None:
    slices = windows_of((14, 14, 14))
    assert frugal_order(batches_of(slices)) == list(range(len(slices)))
    apart = windows_of((16, 16, 16), 8, 8)
    assert frugal_order(batches_of(apart)) == list(range(len(apart)))


def test_what_waits_is_what_the_cells_hold() -> None:
    slices = windows_of((16, 13, 11))
    for order in (list(range(len(slices))), frugal_order(batches_of(slices)), list(range(len(slices)))[::-1]):
        cells = WindowCells(slices, None, torch.float32, torch.device("cpu"))
        most = 0
        for number in order:
            # Between two windows; within one a cell may begin before another ends.
            for _ in cells.add(slices[number], torch.ones(1, 1, 8, 8, 8)):
                pass
            held = sum(
                sum(piece.numel() for piece in (one.total, *one.early.values()) if piece is not None)
                for one in cells._open.values()
            )
            most = max(most, held)
        assert 0 < most <= waiting_in(order, slices)
        assert not cells._open, "nothing is held at the end"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("step", [2, 6, 7])
@pytest.mark.parametrize("gaussian", [False, True])
def test_the_shares_of_all_windows_add_up_to_one(shape: tuple[int, ...], step: int, gaussian: bool) -> None:
    slices = windows_of(shape, 8, step)
    weight = compute_importance_map((8, 8, 8), mode="gaussian")[None, None] if gaussian else None
    shares = WindowShares(slices, weight)
    blended, total = torch.zeros(shape), torch.zeros(shape)
    for where in slices:
        blended[where] += 1.0 if weight is None else weight[0, 0]
    for where in slices:
        share = shares.of(where, torch.device("cpu"))
        assert share is not None
        own = torch.ones(8, 8, 8) if weight is None else weight[0, 0]
        assert torch.equal(share[0], own.div(blended[where]) if gaussian else blended[where].reciprocal())
        total[where] += share[0]
    torch.testing.assert_close(total, torch.ones(shape))


def test_windows_side_by_side_share_nothing() -> None:
    slices = windows_of((16, 8, 8), 8, 8)
    assert WindowShares(slices, None).of(slices[1], torch.device("cpu")) is None
    weight = torch.rand(1, 1, 8, 8, 8) + 0.5
    alone = WindowShares(slices, weight).of(slices[1], torch.device("cpu"))
    assert alone is not None and torch.equal(alone, torch.ones(1, 8, 8, 8))


def test_cells_cover_each_voxel_once() -> None:
    slices = windows_of((16, 13, 11))
    grid = CellGrid(slices)
    seen = torch.zeros(16, 13, 11)
    for cell, windows in grid.windows.items():
        seen[grid.place(cell)] += 1
        holding = [
            number
            for number, window in enumerate(slices)
            if all(w.start <= p.start < w.stop for w, p in zip(window, grid.place(cell), strict=True))
        ]
        assert windows == holding
        assert grid.voxels(cell) == len(list(itertools.product(*(range(p.start, p.stop) for p in grid.place(cell)))))
    assert torch.equal(seen, torch.ones(16, 13, 11))
