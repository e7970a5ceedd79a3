# SPDX-License-Identifier: Apache-2.0
"""An objective over sliding windows with one forward and one backward pass of each.

The gradient of an objective of stitched logits needs every window twice: once to know the stitched logits, once to go
back through the network. Here the objective of each window's own logits is averaged instead, with the blending weights
of the windows: its gradient is known as soon as the window's logits are. Where windows agree it is the same function,
and nowhere is more held than one batch of windows. Sums over the whole volume, which Dice's weights of the classes
depend on, are those of the step before.
"""

from __future__ import annotations

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from monai_adversarial.attacks.gradients.exact import NOT_DIFFERENTIABLE
from monai_adversarial.attacks.objectives import AdditiveObjective, Progress, Target
from monai_adversarial.attacks.objectives.adding import add_up, added
from monai_adversarial.attacks.objectives.base import Parts
from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.inferers.window_pass import Index
from monai_adversarial.inferers.window_shares import WindowShares
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.models.window_run import WindowRun
from monai_adversarial.utils.backward_pass import differentiate

__all__ = ["WindowObjective"]


class _Differentiated(torch.autograd.Function):
    """Values per sample whose gradient with respect to the image is known already."""

    @staticmethod
    def forward(ctx, image: torch.Tensor, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.gradient = gradient
        return values.clone()

    @staticmethod
    def backward(ctx, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        gradient, ctx.gradient = ctx.gradient, None  # one backward pass, in the memory of the gradient itself
        return gradient.mul_(per_sample(above, gradient)), None, None


class Totals:
    """Sums per sample, added up window by window, in float64: their order does not matter to float32."""

    def __init__(self, batch: int) -> None:
        self.rows: list[Parts | None] = [None] * batch
        self._types: list[torch.dtype] = []

    def add(self, row: int, parts: Parts) -> None:
        """The sums of one more window of a sample."""
        self._types = [part.dtype for part in parts]
        self.rows[row] = added(self.rows[row], tuple(part.double() for part in parts))

    def finish(self, objective: AdditiveObjective, target: Target) -> tuple[torch.Tensor, torch.Tensor, Parts]:
        """Value and rank of each sample, and the slopes at these sums."""
        rows = [row for row in self.rows if row is not None]
        columns = zip(*rows, strict=True)
        parts = tuple(torch.cat(column).to(kind) for column, kind in zip(columns, self._types, strict=True))
        value, rank = objective.combine(parts, target.part())
        return value.detach(), rank.detach(), objective.slopes(parts, target.part())


class _Layout:
    """Where the windows are, how they share voxels, and which of them anything touches.

    Args:
        run: the windows.
        counted: boolean (batch, spatial...), voxels that the objective counts; None for all.
        perturbed: boolean (batch, 1, spatial...), voxels that can change; None for all.

    Attributes:
        counted: per batch of windows, whether the objective counts any of its voxels.
        perturbed: per batch of windows, whether any of its voxels can change.
    """

    def __init__(self, run: WindowRun, counted: torch.Tensor | None, perturbed: torch.Tensor | None) -> None:
        self._shares = WindowShares(run.plan.windows.slices, run.plan.windows.weight, run.plan.image.dtype)
        batches = run.batches()
        self.perturbed = _touched(run, batches, None if perturbed is None else perturbed[:, 0])
        self.counted = _touched(run, batches, counted)
        if counted is not None:
            # A sample in which nothing counts has sums of zero, which some window must say.
            empty = (~counted.flatten(1).any(dim=1)).tolist()
            for number, where in enumerate(batches):
                self.counted[number] |= any(empty[index[0].start] for index in where)

    def share(self, where: tuple[slice, ...], box: tuple[slice, ...], device: torch.device) -> torch.Tensor | None:
        """The window's share of its voxels inside the image, (1, spatial...); None where it has no others beside it."""
        share = self._shares.of(where, device)
        return None if share is None else share[(slice(None), *box)]


def _touched(run: WindowRun, batches: list[list[Index]], mask: torch.Tensor | None) -> list[bool]:
    """Which batches of windows hold a voxel of a mask (batch, spatial...); one wait for the device, before the loop."""
    if mask is None:
        return [True] * len(batches)
    found = []
    for where in batches:
        inside = [mask[(index[0].start, *run.plan.inside(index[2:])[0])].any() for index in where]
        found.append(torch.stack(inside).any())
    return torch.stack(found).tolist()


class WindowObjective:
    """An objective of sums over voxels, averaged over sliding windows.

    Args:
        predictor: the attacked function, whose network runs in plain sliding windows.
        objective: what is maximized.
        targeted: see ``Objective.value``.
        support: boolean (batch, 1, spatial...), the voxels of the network's input that the perturbation can change;
            None for all. Windows without one of them are computed once.

    Attributes:
        windows_run: windows that went forward, all steps together.
    """

    def __init__(
        self, predictor: Predictor, objective: AdditiveObjective, targeted: bool, support: torch.Tensor | None
    ) -> None:
        self.predictor, self.objective, self.targeted, self.support = predictor, objective, targeted, support
        self.windows_run = 0
        self._slopes: Parts | None = None
        self._constant: dict[tuple[int, int], list[Parts]] = {}
        self._layout: _Layout | None = None

    @staticmethod
    def fits(predictor: Predictor, image: torch.Tensor) -> bool:
        """Whether the network runs in plain windows on the image's device."""
        windows = predictor.plain_windows
        return windows is not None and torch.device(windows.sw_device or image.device) == image.device

    def __call__(self, image: torch.Tensor, target: Target, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
        """Value and rank of each sample, (batch,); the gradient of the value flows into ``image``."""
        run = self.predictor.windows(image)
        assert run is not None
        layout = self._layout = self._layout or _Layout(run, self.objective.support(target), self.support)
        seen = run.plan.image
        wanted = torch.is_grad_enabled() and seen.requires_grad
        plain = seen.detach()
        if self._slopes is None:
            begin = self.objective.parts_of_reference(target, torch.promote_types(plain.dtype, torch.float32))
            self._slopes = self.objective.slopes(begin, target.part())
        totals, gradient = Totals(plain.shape[0]), torch.zeros_like(plain) if wanted else None
        connected = False
        for number, where in enumerate(run.batches()):
            if not layout.counted[number]:
                continue
            sums = self._constant.get((number, self._phase(progress)))
            if sums is None:
                self.windows_run += len(where)
                moves = gradient is not None and layout.perturbed[number]
                leaves = [plain[index].detach().requires_grad_(moves) for index in where]
                with torch.set_grad_enabled(moves):
                    logits = run.logits(run.outputs(leaves, where))
                sums, above = self._sums(run, where, logits.detach(), target, progress, moves)
                if not layout.perturbed[number] and self.predictor.is_constant:
                    self._constant[number, self._phase(progress)] = sums
                    self._foresee(number, run, where, logits, target, progress)
                # The graph needs to know where it begins, not the logits: their memory is free in the backward pass.
                begin_of = get_gradient_edge(logits) if logits.requires_grad else None
                del logits
                if begin_of is not None:
                    assert gradient is not None and above is not None
                    connected |= _add_gradient(gradient, where, begin_of, leaves, above)
                del leaves, above, begin_of
            for index, part in zip(where, sums, strict=True):
                totals.add(index[0].start, part)
        value, rank, self._slopes = totals.finish(self.objective, target)
        if gradient is None:
            return value, rank
        if not connected and any(layout.perturbed):
            raise RuntimeError(NOT_DIFFERENTIABLE)
        scale = self.predictor.precision.loss_scale
        return _Differentiated.apply(seen, value, gradient if scale == 1.0 else gradient / scale), rank

    def _phase(self, progress: Progress) -> int:
        """What the sums of the same logits depend on."""
        return progress.step if self.objective.follows_progress else 0

    def _foresee(
        self,
        number: int,
        run: WindowRun,
        where: list[Index],
        logits: torch.Tensor,
        target: Target,
        progress: Progress,
    ) -> None:
        """The sums of windows that never change in the steps to come: much less work than the network again."""
        if self.objective.follows_progress:
            for step in range(progress.step + 1, progress.steps):
                later = Progress(step, progress.steps)
                self._constant[number, step], _ = self._sums(run, where, logits, target, later, with_gradient=False)

    def answer_and_ranks(self, image: torch.Tensor, target: Target, progress: Progress) -> tuple[Answer, torch.Tensor]:
        """The segmentation of ``image`` as it is scored, and the rank of each sample in the same pass."""
        totals = Totals(image.shape[0])

        def look(run: WindowRun, where: list[Index], logits: torch.Tensor) -> None:
            self._layout = self._layout or _Layout(run, self.objective.support(target), self.support)
            sums, _ = self._sums(run, where, logits, target, progress, with_gradient=False)
            for index, part in zip(where, sums, strict=True):
                totals.add(index[0].start, part)

        answer = self.predictor.answer(image, look)
        return answer, totals.finish(self.objective, target)[1]

    def _sums(
        self,
        run: WindowRun,
        where: list[Index],
        logits: torch.Tensor,
        target: Target,
        progress: Progress,
        with_gradient: bool,
    ) -> tuple[list[Parts], torch.Tensor | None]:
        """Sums of each window, and the gradient on their logits, times the loss scale of half precision."""
        assert self._layout is not None
        scale = self.predictor.precision.loss_scale
        above = torch.zeros_like(logits) if with_gradient else None
        found = []
        for number, index in enumerate(where):
            row = slice(index[0].start, index[0].start + 1)
            inner, box = run.plan.inside(index[2:])
            here = (slice(number, number + 1), slice(None), *box)
            part = target.part(row, inner, self._layout.share(index[2:], box, logits.device))
            slopes = None
            if above is not None:
                assert self._slopes is not None
                slopes = tuple(slope[row] * scale for slope in self._slopes)
            out = None if above is None else above[here]
            found.append(add_up(self.objective, logits[here], part, progress, self.targeted, slopes, out)[0])
        return found, above


def _add_gradient(
    gradient: torch.Tensor,
    where: list[Index],
    logits: GradientEdge,
    leaves: list[torch.Tensor],
    above: torch.Tensor,
) -> bool:
    """Go back through the network from some windows; whether the answer depends on them."""
    connected = False
    for index, part in zip(where, differentiate([logits], leaves, [above], allow_unused=True), strict=True):
        if part is not None:
            connected = True
            gradient[index] += part
    return connected
