# SPDX-License-Identifier: Apache-2.0
"""The loss around an image, over the plane of an attack's change and a random one of the same size."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from monai_adversarial.attacks.flags import Flag
from monai_adversarial.attacks.objectives import Objective, Progress, get_objective
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.scene import case_seeds
from monai_adversarial.utils.validation import check_count, check_instance, check_positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LossLandscape", "loss_landscape"]

#: share of the rise that a quarter of the way must bring, if a gradient at the image is to say anything
LEAST_START = 0.01
#: ups and downs on the way, as a multiple of the largest of them end to end, from which on they are said
MOST_DETOUR = 2.0


@dataclass(frozen=True)
class LossLandscape:
    """Values of a loss on a grid of images; see :func:`loss_landscape`.

    >>> import torch
    >>> from monai_adversarial.attacks import LossLandscape
    >>> steps = torch.linspace(-1, 1, 5)
    >>> bowl = (steps[None, :] + 0.2 * steps[:, None])[None].exp()
    >>> found = LossLandscape(bowl, steps, "cross_entropy")
    >>> round(float(found.rise), 3), round(float(found.random_rise), 3), found.flags
    (1.718, 0.221, [])

    Args:
        values: (batch, random direction, attack's direction), float64 on the CPU.
        steps: (point,), multiples of the change in both directions, from -reach to reach.
        objective: name of the loss.

    Attributes:
        center: value at the clean image, (batch,).
        rise: value at the far end of the attack's direction less that at the center, (batch,).
        random_rise: the largest rise along the random direction alone, (batch,).
        sharpness: largest value on the grid less that at the center, divided by 1 + the center, (batch,).
        flags: signs that gradients are masked, with the number of samples that show them.
    """

    values: torch.Tensor
    steps: torch.Tensor
    objective: str

    @property
    def _middle(self) -> int:
        return len(self.steps) // 2

    @property
    def center(self) -> torch.Tensor:
        """See the class."""
        return self.values[:, self._middle, self._middle]

    @property
    def rise(self) -> torch.Tensor:
        """See the class."""
        return self.values[:, self._middle, -1] - self.center

    @property
    def random_rise(self) -> torch.Tensor:
        """See the class."""
        return self.values[:, :, self._middle].amax(dim=1) - self.center

    @property
    def sharpness(self) -> torch.Tensor:
        """See the class."""
        return (self.values.flatten(1).amax(dim=1) - self.center) / (1 + self.center.abs())

    @property
    def flags(self) -> list[Flag]:
        """See the class. No flag does not mean that nothing is masked."""
        way = self.values[:, self._middle, self._middle :]
        moves = way.diff(dim=1)
        quarter = math.ceil((way.shape[1] - 1) / 4)  # the same place on a finer grid
        span = (way.amax(dim=1) - way.amin(dim=1)).clamp_min(1e-300)
        signs = {
            "random_direction": (
                self.rise <= self.random_rise,
                "a random change of the same size raises the loss at least as much as the attack's",
            ),
            "plateau": (
                (self.rise > 0) & ((way[:, quarter] - self.center).abs() < LEAST_START * self.rise),
                f"a quarter of the attack's way brings less than {LEAST_START:.0%} of its rise",
            ),
            "jagged_way": (
                moves.abs().sum(dim=1) > MOST_DETOUR * span,
                "the loss goes up and down on the attack's way",
            ),
        }
        return [
            Flag(name, f"{text}, in {int(seen.sum())} of {len(seen)} samples.")
            for name, (seen, text) in signs.items()
            if bool(seen.any())
        ]

    def figure(self, sample: int = 0) -> Figure:
        """The values of one sample as a map with contours, and along both directions.

        Args:
            sample: of the batch.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patheffects import Normal, Stroke

        figure = Figure(figsize=(9.0, 3.8), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        plane, lines = figure.subplots(1, 2)
        values, steps = self.values[sample].numpy(), self.steps.numpy()
        drawn = plane.pcolormesh(steps, steps, values, cmap="viridis", shading="gouraud")
        if values.max() > values.min():
            plane.contour(steps, steps, values, colors="white", linewidths=0.6)
        plane.plot([0, 1], [0, 0], "o-", color="#D55E00", ms=5, lw=1.5, clip_on=False)
        outline = [Stroke(linewidth=2, foreground="black"), Normal()]
        for where, text, side in ((0, "clean", "center"), (1, "attacked", "right")):
            label = plane.annotate(text, (where, 0), (0, 7), textcoords="offset points", ha=side, fontsize=8)
            label.set(color="white", path_effects=outline)
        plane.set(xlabel="along the attack's change", ylabel="along a random change of the same size")
        figure.colorbar(drawn, ax=plane, label=self.objective.replace("_", " "))
        lines.plot(steps, values[self._middle], "o-", color="#D55E00", ms=4, label="attack's change")
        lines.plot(steps, values[:, self._middle], "s--", color="#0072B2", ms=4, label="random change")
        lines.set(xlabel="multiple of the change", ylabel=self.objective.replace("_", " "))
        lines.grid(color="#E4E4E4", lw=0.8)
        lines.spines[["top", "right"]].set_visible(False)
        lines.legend(frameon=False, fontsize=8)
        return figure

    def save(self, path: str | os.PathLike[str], sample: int = 0) -> None:
        """Write :meth:`figure` as a PNG file.

        Args:
            path: of the file.
            sample: of the batch.
        """
        with replace_when_complete(path) as temporary:
            self.figure(sample).savefig(temporary, format="png")


def loss_landscape(
    result: AttackResult,
    objective: str | Objective = "cross_entropy",
    points: int = 9,
    reach: float = 1.0,
    seed: int = 0,
) -> LossLandscape:
    """A loss at ``image + a * change + b * random``, for a and b from -reach to reach.

    ``change`` is what the attack did to the image; ``random`` has the same absolute values at shuffled voxels with
    random signs, so that both have the same norms. Three things mark a landscape in which gradients do not lead to the
    worst image: it rises along the random direction as much as along the attack's, begins with a plateau, or goes up
    and down. Robustness against such an attack is not to be believed. A smooth landscape proves nothing.

    It takes ``points`` squared predictions of each image; at the ends of the grid images may lie outside of the range
    of their files.

    >>> from monai_adversarial.attacks import PGD, loss_landscape
    >>> from monai_adversarial.data.example import example_case
    >>> result = PGD(8, units="HU", steps=3)(*example_case(16))
    >>> found = loss_landscape(result, points=5)
    >>> found.values.shape, bool(found.rise > found.random_rise)
    (torch.Size([1, 5, 5]), True)

    Args:
        result: of an attack that leaves the anatomy where it is, with its model.
        objective: loss by name or as object, one that compares with the label alone.
        points: along each direction, odd, at least 5.
        reach: multiple of the change at the ends, at least 1.
        seed: of the random direction, with the voxels of each image.

    Returns:
        Values, numbers and flags; see :class:`LossLandscape`.

    Raises:
        TypeError: for something else than a result.
        ValueError: for a result of a geometric attack, of an attack that changed nothing, or without its model, an even
            number of points, and a reach below 1.

    Source: after Engstrom, Ilyas and Athalye, "Evaluating and understanding the robustness of adversarial logit
    pairing", 2018, who plot the loss over a gradient's and a random direction. Sharpness is that of Keskar et al., ICLR
    2017, over images instead of weights. The limits of the flags are ours.

    Survey entry: M07 (adapted).
    """
    check_instance("result", result, AttackResult, "PGD(8, units='HU')(model, image, label)")
    if check_count("points", points, minimum=5) % 2 == 0:
        raise ValueError(f"points must be odd, so that the clean image is one of them, got {points}.")
    if check_positive("reach", reach) < 1:
        raise ValueError(f"reach must be at least 1, where the attacked image lies, got {reach!r}.")
    if result.model is None or result.bound.geometric:
        raise ValueError(
            "result must have its model and leave the anatomy where it is: between a clean and a deformed image lies "
            "no straight way with one label."
        )
    known = result.model.replace(precision=result.model.scoring_precision, checkpoint_layers=False)
    whole = as_plain(torch.as_tensor(result.adversarial)).float()
    channels = slice(None) if result.image_channels is None else list(result.image_channels)
    clean = whole.clone()
    clean[:, channels] = result.image.to(clean)
    predictor = Predictor(known, _like(result.adversarial, clean), known.units_for(None))
    chosen = get_objective(objective)
    steps = torch.linspace(-float(reach), float(reach), points, dtype=torch.float64)
    with torch.inference_mode(False), frozen(predictor.networks), torch.no_grad():
        start = known.image_part(detached(clean))
        change = known.image_part(detached(whole)) - start
        if not bool(change.flatten(1).any(dim=1).all()):
            raise ValueError("result must be of an attack that changed every image, but one is as it was.")
        random = _shuffled(change, case_seeds(start, seed))
        classes = predictor.read_clean(start).classes
        if known.classifies:
            chosen = chosen.for_classifier()
        target = Reference.read(known, detached(result.clean_label).to(start.device), classes).target(None)
        values = [
            [
                chosen.value(predictor(start + float(a) * change + float(b) * random), target, Progress(0, 1))
                .detach()
                .to("cpu", torch.float64)
                for a in steps
            ]
            for b in steps
        ]
    grid = torch.stack([torch.stack(row, dim=1) for row in values], dim=1)
    return LossLandscape(grid, steps, objective if isinstance(objective, str) else type(objective).__name__)


def _like(given: Any, clean: torch.Tensor) -> torch.Tensor:
    """The clean batch with the metadata of the attacked one."""
    if not hasattr(given, "meta"):
        return clean
    made = given.clone()
    made.copy_(clean)
    return made


def _shuffled(change: torch.Tensor, seeds: tuple[int, ...]) -> torch.Tensor:
    """The absolute values of each sample's change at other voxels, with random signs."""
    rows = []
    for sample, seed in zip(change, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        flat = sample.abs().flatten()
        order = torch.randperm(len(flat), generator=generator)
        signs = torch.randint(0, 2, (len(flat),), generator=generator) * 2 - 1
        rows.append((flat[order.to(flat.device)] * signs.to(flat)).view_as(sample))
    return torch.stack(rows)
